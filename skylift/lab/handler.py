"""What holds for all routes: Jupyter's own checks of who may, bodies in bounds, errors as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

from jupyter_server.base.handlers import APIHandler
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, stream_request_body

from skylift import exceptions
from skylift.lab.gateway_link import GatewayLink, Status, sentence
from skylift.lab.upload_spool import UploadSpool

SETTING = "skylift_lab"
BODY_LIMIT = 8 * 1024 * 1024
"""Bytes."""

_STATUSES: list[tuple[type[BaseException], int]] = [
    (exceptions.PathIsDirectoryError, 409),
    (exceptions.PathNotDirectoryError, 409),
    (exceptions.NotFoundError, 404),
    (exceptions.AlreadyExistsError, 409),
    (exceptions.ConflictError, 409),
    (exceptions.InvalidError, 400),
    (exceptions.PermissionDeniedError, 403),
    (exceptions.ResourceExhaustedError, 507),
    (exceptions.AuthError, 502),
    (exceptions.ConnectionError, 503),
]
_ERRORS = {400: "InvalidError", 401: "AuthError", 403: "PermissionDeniedError", 404: "NotFoundError"}
_ERRORS |= {405: "InvalidError", 409: "ConflictError", 413: "InvalidError", 503: "ConnectionError"}


@dataclass(frozen=True)
class Parts:
    """What the handlers work with."""

    link: GatewayLink
    uploads: UploadSpool


class ProblemError(HTTPError):
    """An answer other than success: its status, and what its JSON says."""

    def __init__(self, status: int, error: str, message: str, **more: Any) -> None:
        super().__init__(status)
        self.body = {"error": error, "message": message, **more}


@stream_request_body
class Handler(APIHandler):
    """Base of the routes. jupyter_server checks user, XSRF cookie, origin and host."""

    async def prepare(self) -> None:  # type: ignore[override]
        """Called by Tornado before the body is read."""
        self._received = bytearray()
        self._early = True
        await super().prepare()
        length = self.request.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > BODY_LIMIT:
            raise self._too_large()
        self._early = False

    def data_received(self, chunk: bytes) -> None:
        """Called by Tornado with each piece of the body."""
        if self._finished:
            return
        self._received += chunk
        if len(self._received) > BODY_LIMIT:
            self._received.clear()
            refusal = self._too_large()
            self.send_error(413, exc_info=(ProblemError, refusal, None))

    @staticmethod
    def _too_large() -> ProblemError:
        limit = BODY_LIMIT // (1024 * 1024)
        return ProblemError(413, "InvalidError", f"A request to Skylift has at most {limit} MiB.")

    @property
    def parts(self) -> Parts:
        """See `Parts`."""
        return cast(Parts, self.settings[SETTING])

    def reply(self, answer: Any, status: int = 200) -> None:
        """Finish with the JSON of `answer`."""
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        self.finish(asdict(answer) if isinstance(answer, Status) else answer)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Called by Tornado: an error's body is JSON with `error` and `message`."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, ProblemError):
            body = error.body
        elif isinstance(error, exceptions.Error):
            status_code = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
            body = {"error": type(error).__name__, "message": sentence(error)}
        elif isinstance(error, HTTPError):
            message = error.log_message or error.reason or f"{self.request.path} is not for this."
            body = {"error": _ERRORS.get(status_code, "InternalFailure"), "message": str(message)}
        else:
            body = {
                "error": "InternalFailure",
                "message": f"Skylift's extension failed on {self.request.method} {self.request.path}; the "
                "Jupyter server's log says more.",
            }
        self.set_status(status_code)
        self.set_header("Content-Type", "application/json")
        if self._early:
            # Tornado closes the connection over an answer that comes before the body: no request is lost.
            self.set_header("Connection", "close")
        self.finish(body)

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Called by Tornado: only our own faults are worth a line in the log."""
        if not isinstance(value, (HTTPError, StreamClosedError, exceptions.Error)):
            super().log_exception(typ, value, tb)
