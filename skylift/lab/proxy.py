"""The gateway's REST interface and files of its volumes, for the page; whether there is a gateway."""

from __future__ import annotations

import contextlib
import json
import mimetypes
import os
from urllib.parse import quote, unquote, urlencode

import urllib3
from tornado import web
from tornado.iostream import StreamClosedError

from skylift.lab.handler import Handler, ProblemError

_PIECE = 256 * 1024
_SENT = ("Accept", "Content-Type", "If-Range", "Range")
_ANSWERED = (
    "Accept-Ranges",
    "Content-Length",
    "Content-Range",
    "Content-Type",
    "ETag",
    "File-Mode",
    "Last-Modified-Nanoseconds",
)
_SOCKETS = ("v1/connect", "v1/live")


class StatusHandler(Handler):
    """``GET skylift/status``."""

    @web.authenticated
    async def get(self) -> None:
        """Whether there is a gateway."""
        self.reply(await self.parts.link.run(self.parts.link.status))


class StartHandler(Handler):
    """``POST skylift/start``."""

    @web.authenticated
    async def post(self) -> None:
        """Start this machine's gateway; answers as ``GET skylift/status`` when it runs."""
        link = self.parts.link
        await link.run(link.start)
        link.started.set()
        link.started.clear()
        self.reply(await link.run(link.status))


class _FromGateway(Handler):
    """What the next two share."""

    async def pass_on(
        self, target: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> None:
        """Answer with what the gateway answers, as it comes; with `headers` where it is a success."""
        link = self.parts.link
        method = str(self.request.method)
        sent = {name: self.request.headers[name] for name in _SENT if name in self.request.headers}
        response = await link.run(lambda: link.request(method, target, sent, body))
        whole = False
        try:
            if response.status in (401, 426):
                raise await self._not_for_the_page(response)
            self.set_status(response.status)
            self.clear_header("Content-Type")
            for name in _ANSWERED:
                if name in response.headers:
                    self.set_header(name, response.headers[name])
            self.set_header("Cache-Control", "no-store")
            self.set_header("X-Content-Type-Options", "nosniff")
            for name, value in (headers or {}).items() if response.status < 400 else ():
                self.set_header(name, value)
            if method != "HEAD":
                while piece := await link.run(lambda: response.read(_PIECE)):
                    self.write(piece)
                    await self.flush()
            whole = True
            await self.finish()
        except StreamClosedError:
            return
        except urllib3.exceptions.HTTPError:
            # Bytes are missing, and the page sees it: the length was announced.
            self._break_off()
        finally:
            if not whole:
                response.close()
            response.release_conn()

    def compute_etag(self) -> str | None:
        """Called by Tornado: the gateway has said it."""
        return None

    def get_content_type(self) -> str:
        """Called by jupyter_server; see `pass_on`."""
        return "application/json"

    async def _not_for_the_page(self, response: urllib3.BaseHTTPResponse) -> ProblemError:
        # A 401 of ours would make the page ask for a login to Jupyter.
        data = await self.parts.link.run(lambda: response.read(_PIECE))
        with contextlib.suppress(ValueError, KeyError, TypeError):
            problem = json.loads(data)
            return ProblemError(502, problem["error"], problem["message"])
        return ProblemError(502, "AuthError", "The gateway does not know the token of this Jupyter server.")

    def _break_off(self) -> None:
        connection = self.request.connection
        stream = getattr(connection, "stream", None)
        if stream is not None and not self._finished:
            stream.close()


class RestProxy(_FromGateway):
    """``skylift/v1/…``."""

    @web.authenticated
    async def get(self, path: str) -> None:
        """To the gateway and back."""
        path = self.request.path[self.request.path.index("/skylift/v1/") + len("/skylift/") :]
        if path.rstrip("/") in _SOCKETS:
            raise ProblemError(404, "NotFoundError", f"{path} is not to be had here: see skylift/live.")
        if any(unquote(part) in (".", "..", "") or "/" in unquote(part) for part in path.split("/")):
            raise ProblemError(400, "InvalidError", f"{path} is no path of the gateway.")
        target = f"/{path}"
        if self.request.query:
            target += f"?{self.request.query}"
        body = bytes(self._received) if self.request.method not in ("GET", "HEAD") else None
        await self.pass_on(target, body)

    head = post = put = delete = get


class FileHandler(_FromGateway):
    """``GET`` and ``HEAD skylift/files/VOLUME?path=…[&version=N][&download=1]``."""

    @web.authenticated
    async def get(self, volume: str) -> None:
        """A file's bytes, for the page to show or to save; `Range` works."""
        # As it was sent: a name may be bytes that are no UTF-8, and have spaces at its end.
        path = os.fsdecode(self.request.query_arguments.get("path", [b""])[-1])
        if not path:
            raise ProblemError(400, "InvalidError", f"{self.request.path} needs path=.")
        query = {"path": os.fsencode(path)}
        if version := self.get_query_argument("version", ""):
            query["version"] = version.encode()
        headers = {
            "Content-Type": _content_type(path),
            # Whatever a file of a volume is: it is not to run as a page of this server.
            "Content-Security-Policy": "sandbox; default-src 'none'; img-src 'self' data:; media-src 'self'; "
            "style-src 'unsafe-inline'",
        }
        if self.get_query_argument("download", "") in ("1", "true"):
            name = os.fsencode(path.rstrip("/").rpartition("/")[2])
            headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
        await self.pass_on(f"/v1/volumes/{quote(volume, safe='')}/file?{urlencode(query)}", headers=headers)

    head = get


def _content_type(path: str) -> str:
    if path.endswith(".ipynb"):
        return "application/json"
    kind, encoding = mimetypes.guess_type(path.rpartition("/")[2])
    if kind is None or encoding:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
