"""What holds for every route: origin, token, size of the body, errors as JSON, security headers."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import msgspec
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from skylift.backend.nesting import SCOPE
from skylift.kernel_gateway.auth import bearer_token, origin_allowed
from skylift.wire import Problem

if TYPE_CHECKING:
    from skylift.kernel_gateway.server import GatewayApplication

BODY_LIMIT = 64 * 1024
"""Bytes of a request's body, where a route says nothing else."""

DRAIN_LIMIT = 64 * 1024 * 1024
"""Bytes of a refused body that are still read (and dropped), so that the client gets to read the answer."""

BODY_SECONDS = 60.0
"""That a small body may take to arrive."""

log = logging.getLogger(__name__)

_ERRORS = {
    400: "InvalidError",
    401: "AuthError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "InvalidError",
    408: "ConnectionError",
    409: "ConflictError",
    413: "InvalidError",
    416: "InvalidError",
    426: "InvalidError",
    503: "ResourceExhaustedError",
    507: "ResourceExhaustedError",
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class RequestError(HTTPError):
    """An answer other than success: its status and the `Problem` that is its body."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(status)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.problem = Problem(error=_ERRORS.get(status, "InternalFailure"), message=message)


@stream_request_body
class Handler(RequestHandler):
    """Base of all routes. The body is read only after origin, token and announced size have been checked."""

    needs_token = True
    body_limit = BODY_LIMIT
    """Bytes."""
    for_containers = False
    """Whether code in a container may use it, with its container's token."""

    _early = False
    user = ""
    container_id = ""
    """Of code in a container: which."""

    @property
    def gateway(self) -> GatewayApplication:
        """The application, with the parts that handlers speak to."""
        return cast("GatewayApplication", self.application)

    def set_default_headers(self) -> None:
        """Called by Tornado for every answer."""
        self.clear_header("Server")
        for name, value in _HEADERS.items():
            self.set_header(name, value)
        origin = self.request.headers.get("Origin")
        if origin is not None and origin_allowed(self.request.headers, self.gateway.origins):
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Cross-Origin-Resource-Policy", "cross-origin")
            self.set_header("Vary", "Origin")

    async def prepare(self) -> None:
        """Called by Tornado before the body is read.

        What the checks refuse is answered when the body has been read and dropped: else the client would see
        a broken connection instead of the answer.
        """
        self._refusal: RequestError | None = None
        self._received = bytearray()
        length = self.request.headers.get("Content-Length", "")
        self._announced = int(length) if length.isdecimal() else 0
        self._count = 0
        try:
            self._check_origin()
            if self.request.method == "OPTIONS":
                return
            if self.needs_token:
                self._check_token()
            if self._announced > self.body_limit:
                raise self._too_large()
        except RequestError as refusal:
            if not 0 < self._announced <= DRAIN_LIMIT or "Expect" in self.request.headers:
                self._early = True
                raise
            self._refusal = refusal
        connection = cast("HTTP1Connection", self.request.connection)
        # A body that comes in chunks, unannounced, is to be refused by us, with a reason, and not by Tornado.
        connection.set_max_body_size(max(self._announced, self.body_limit + DRAIN_LIMIT))
        if self._refusal is not None or self.body_limit <= BODY_LIMIT:
            connection.set_body_timeout(BODY_SECONDS)

    def _check_origin(self) -> None:
        if not origin_allowed(self.request.headers, self.gateway.origins):
            origin = self.request.headers.get("Origin", "an unknown origin")
            raise RequestError(
                403,
                f"Pages of {origin} may not use this gateway. To allow them, add the origin to `origins` in "
                "[gateway] of config.toml and restart the gateway.",
            )

    def _check_token(self) -> None:
        token = bearer_token(self.request.headers)
        user = self.gateway.control.authenticate(token) if token else None
        if user is None:
            wrong = "does not know this token" if token else "wants a token, and the request has none"
            raise RequestError(
                401,
                f"The gateway {wrong}. Send `Authorization: Bearer <token>`; the token is in "
                f"{self.gateway.home.token} on the gateway's machine. The SDK reads it there, or from "
                "$SKYLIFT_TOKEN.",
                WWW_Authenticate='Bearer realm="skylift"',
            )
        self.user = user
        self.container_id = self.gateway.control.container_of(token)
        if self.container_id and not self.for_containers:
            raise self.beyond_scope(f"use {self.request.method} {self.request.path}")

    @staticmethod
    def beyond_scope(what: str) -> RequestError:
        """The answer to code in a container that may not do that."""
        return RequestError(403, f"Code in a container cannot {what}. {SCOPE}")

    def _too_large(self) -> RequestError:
        return RequestError(
            413, f"The body of {self.request.method} {self.request.path} may have {self.body_limit:,} bytes."
        )

    async def data_received(self, chunk: bytes) -> None:
        """Called by Tornado with each piece of the body. An exception here would close the connection."""
        self._count += len(chunk)
        if self._refusal is None and self._count > self.body_limit:
            self.refuse(self._too_large())
        elif self._refusal is None:
            await self.take(chunk)
        elif self._count >= self._announced:
            self.refuse(self._refusal)

    async def take(self, chunk: bytes) -> None:
        """Called with each piece of a body that is let in."""
        self._received += chunk

    def refuse(self, refusal: RequestError, at_once: bool = False) -> None:
        """Answer with `refusal` while the body comes in: after the rest of it, unless that is a lot."""
        if self._finished:
            return
        if self._count < self._announced <= self._count + DRAIN_LIMIT and not at_once:
            self._refusal = refusal
        else:
            self.send_error(refusal.status_code, exc_info=(RequestError, refusal, None))

    def body(self, kind: type[msgspec.Struct]) -> Any:
        """The body, which must be JSON of `kind`; no body is an empty object."""
        try:
            return msgspec.json.decode(bytes(self._received) or b"{}", type=kind)
        except msgspec.DecodeError as error:
            raise RequestError(
                400, f"The body of {self.request.method} {self.request.path}: {error}."
            ) from None

    def reply(self, answer: object, status: int = 200) -> None:
        """Finish with the JSON of `answer`."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(answer))

    def options(self, *_: str) -> None:
        """A browser asks whether a page of an allowed origin may send the request that it wants to send."""
        self.set_header("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE")
        self.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type, Range")
        self.set_header("Access-Control-Max-Age", "600")
        self.set_status(204)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Called by Tornado: an error's body is the JSON of a `Problem`."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, RequestError):
            problem = error.problem
            for name, value in error.headers.items():
                self.set_header(name, value)
        elif status_code == 405:
            problem = Problem(
                error="InvalidError", message=f"{self.request.path} has no {self.request.method}."
            )
        elif isinstance(error, HTTPError):
            problem = Problem(error=_ERRORS.get(status_code, "InternalFailure"), message=f"{error}.")
        else:
            problem = Problem(
                error="InternalFailure",
                message=f"The gateway failed on {self.request.method} {self.request.path}; "
                f"{self.gateway.home.log} says more.",
            )
        if self._early:
            # Tornado closes the connection over an answer that comes so early: the next request is not lost.
            self.set_header("Connection", "close")
        self.reply(problem, status_code)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Called by Tornado: only our own faults are worth a line in the log."""
        if not isinstance(value, (HTTPError, StreamClosedError)):
            log.error("%s %s", self.request.method, self.request.path, exc_info=value)
