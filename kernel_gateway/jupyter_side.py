"""``/jupyter/…``: the door to the Jupyter servers of the users, each made when it is first asked for.

Origin and token are checked here, before anything of Jupyter's sees a request. The packages of Jupyter are
imported when somebody needs them, and need not be there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)

from skylift.backend.nesting import SCOPE
from skylift.kernel_gateway.auth import bearer_token, origin_allowed
from skylift.kernel_gateway.handler import Handler, RequestError
from skylift.kernel_gateway.hosted_kernels import KernelStarter
from skylift.kernel_gateway.kernel_book import KernelBook, users_with_kernels
from skylift.kernel_gateway.kernel_choices import KernelChoice, kernel_choices
from skylift.kernel_gateway.kernel_images import KernelImages

if TYPE_CHECKING:
    from skylift.kernel_gateway.jupyter_application import JupyterApplication
    from skylift.kernel_gateway.server import GatewayApplication

PREFIX = "/jupyter/"

_CLOSE_SECONDS = 10.0

log = logging.getLogger(__name__)


class JupyterSide:
    """The Jupyter servers of a gateway's users."""

    def __init__(self, gateway: GatewayApplication, images: KernelImages) -> None:
        self._gateway = gateway
        self._images = images
        self._users: dict[str, JupyterApplication] = {}
        self._folder = gateway.home.folder / "jupyter"
        self._taking_up: asyncio.Task[None] | None = None

    def serves(self, request: HTTPServerRequest) -> bool:
        """Whether a request is for this side."""
        return f"{request.path}/".startswith(PREFIX)

    def find_handler(self, request: HTTPServerRequest) -> HTTPMessageDelegate:
        """Called by Tornado for each of them, before its body is read."""
        try:
            user = self._check(request)
        except RequestError as refusal:
            return self._refused(request, refusal)
        if user is None:
            # Our own handler answers a page that asks whether it may ask, and one that may not.
            return self._refused(request, RequestError(403, "Pages of this origin may not use this gateway."))
        application = self._users.get(user)
        if application is not None and (self._taking_up is None or self._taking_up.done()):
            return application.find_handler(request)
        return _Later(self, request, user)

    async def of(self, user: str) -> JupyterApplication:
        """The server of a user. Raises `RequestError` where Jupyter's packages are missing."""
        try:
            made = await asyncio.to_thread(_application_class)
        except ImportError as error:
            raise RequestError(
                501,
                f"This gateway cannot host Jupyter kernels: {error}. Install what is missing into its "
                "environment, and restart it: pip install 'skylift[kernels]'.",
            ) from error
        application = self._users.get(user)
        if application is None:
            connections = self._folder / "connections"
            if not self._users:
                shutil.rmtree(connections, ignore_errors=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            connections.mkdir(mode=0o700, exist_ok=True)
            book = KernelBook(self._folder, user)
            control = self._gateway.control
            application = self._users[user] = made(
                user,
                PREFIX,
                KernelStarter(control, user, self._images, self._gateway.volumes, book),
                self._choices,
                control.settings.gateway,
                connections,
            )
        return application

    def refused(self, request: HTTPServerRequest, refusal: RequestError) -> HTTPMessageDelegate:
        """What answers a request with `refusal`."""
        return self._refused(request, refusal)

    def start(self) -> None:
        """Take up the kernels that an earlier gateway had started."""
        self._taking_up = asyncio.create_task(self._take_up())

    async def ready(self) -> None:
        """Wait until they are: nobody is told that a kernel is gone which is about to be there."""
        if self._taking_up is not None:
            await asyncio.wait({self._taking_up})

    async def _take_up(self) -> None:
        try:
            for user in users_with_kernels(self._folder):
                await (await self.of(user)).take_up()
        except RequestError as error:
            log.warning("Kernels of before are ended: %s", error.problem.message)

    async def close(self, *, end_kernels: bool) -> None:
        """End all kernels, or leave them to the next gateway."""
        if self._taking_up is not None:
            self._taking_up.cancel()
            await asyncio.gather(self._taking_up, return_exceptions=True)
        users, self._users = self._users, {}
        closing = [each.close(end_kernels=end_kernels) for each in users.values()]
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*closing, return_exceptions=True), _CLOSE_SECONDS)

    def _choices(self) -> dict[str, KernelChoice]:
        control = self._gateway.control
        return kernel_choices(control.hosts(), control.settings.kernels)

    def _refused(self, request: HTTPServerRequest, refusal: RequestError) -> HTTPMessageDelegate:
        return self._gateway.get_handler_delegate(request, _Refusal, {"why": refusal})

    def _check(self, request: HTTPServerRequest) -> str | None:
        """The user whose token a request shows; None where its origin is to be seen to. Raises
        `RequestError`."""
        gateway = self._gateway
        if request.method == "OPTIONS" or not origin_allowed(request.headers, gateway.origins):
            return None
        token = jupyter_token(request.headers, request.query)
        user = gateway.control.authenticate(token) if token else None
        if user is None:
            wrong = "does not know this token" if token else "wants a token, and the request has none"
            raise RequestError(
                401,
                f"The gateway {wrong}. Start JupyterLab with --GatewayClient.auth_token=<token>, or add "
                f"?token=<token> to the URL; the token is in {gateway.home.token} on the gateway's machine.",
                WWW_Authenticate='Bearer realm="skylift"',
            )
        if gateway.control.container_of(token):
            raise RequestError(403, f"Code in a container cannot use Jupyter kernels. {SCOPE}")
        return user


def jupyter_token(headers: HTTPHeaders, query: str) -> str:
    """The token of a request in any of the ways that Jupyter's clients show one; "" if there is none."""
    scheme, _, rest = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "token":
        return rest.strip()
    return bearer_token(headers) or parse_qs(query).get("token", [""])[0]


def _application_class() -> type[JupyterApplication]:
    """Takes a second the first time."""
    from skylift.kernel_gateway.jupyter_application import JupyterApplication

    return JupyterApplication


class _Refusal(Handler):
    """Says why a request is not let in."""

    def initialize(self, why: RequestError) -> None:
        self._why = why

    def _check_token(self) -> None:
        raise self._why


class _Later(HTTPMessageDelegate):
    """Takes in a request to a server that has to be made, or is not ready yet."""

    def __init__(self, side: JupyterSide, request: HTTPServerRequest, user: str) -> None:
        self._side = side
        self._request = request
        self._user = user
        self._found: HTTPMessageDelegate | None = None

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        return self._resolve(start_line, headers)

    async def _resolve(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        try:
            await self._side.ready()
            found: Any = (await self._side.of(self._user)).find_handler(self._request)
        except RequestError as refusal:
            found = self._side.refused(self._request, refusal)
        self._found = found
        answer = found.headers_received(start_line, headers)
        if answer is not None:
            await answer

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._found.data_received(chunk) if self._found is not None else None

    def finish(self) -> None:
        if self._found is not None:
            self._found.finish()

    def on_connection_close(self) -> None:
        if self._found is not None:
            self._found.on_connection_close()
