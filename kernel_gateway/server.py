"""The routes, and the HTTP server that serves them."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Sequence
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.web import Application, RequestHandler

from skylift.backend.control import ControlPlane
from skylift.backend.live_feed import WatchError
from skylift.backend.live_watches import WatchRequest
from skylift.backend.settings import GatewaySettings
from skylift.kernel_gateway import rest, volume_routes
from skylift.kernel_gateway.auth import is_loopback, own_origins
from skylift.kernel_gateway.blobs import BlobHandler, BlobThreads
from skylift.kernel_gateway.client_socket import Clients
from skylift.kernel_gateway.client_upgrade import ClientUpgrade
from skylift.kernel_gateway.handler import BODY_LIMIT, Handler, RequestError
from skylift.kernel_gateway.home import GatewayHome
from skylift.kernel_gateway.jupyter_side import JupyterSide
from skylift.kernel_gateway.kernel_images import KernelImages
from skylift.kernel_gateway.live_socket import LiveHandler, LiveSockets
from skylift.kernel_gateway.outbox import Outbox
from skylift.kernel_gateway.volumes import VolumeThreads
from skylift.lazyfs.names import LocalNames, Names
from skylift.lazyfs.store import Store

ROUTES: list[tuple[str, type[Handler]]] = [
    (r"/v1/connect", ClientUpgrade),
    (r"/v1/live", LiveHandler),
    (r"/v1/blobs/([0-9a-f]{64})", BlobHandler),
    *volume_routes.ROUTES,
    *rest.ROUTES,
]

IDLE_SECONDS = 300.0
"""An HTTP connection on which nothing comes for so long is closed."""

log = logging.getLogger(__name__)


class ListenError(Exception):
    """The gateway cannot listen there. The message names the address, why, and what to do."""


class GatewayApplication(Application):
    """The routes, and the parts that their handlers speak to."""

    def __init__(
        self,
        control: ControlPlane,
        store: Store,
        settings: GatewaySettings,
        home: GatewayHome,
        outbox: Outbox,
        names: Names | None = None,
    ) -> None:
        """`names` are those beside the store; None: those in the home folder."""
        super().__init__(
            list(ROUTES),
            default_handler_class=rest.UnknownHandler,
            log_function=_log_nothing,
        )
        self.control = control
        self.store = store
        self.home = home
        self.clients = Clients(control, outbox, settings.max_connections)
        self.blobs = BlobThreads(store)
        names = names or LocalNames(home.folder / "names")
        self.volumes = VolumeThreads(store, names)
        self.jupyter = JupyterSide(self, KernelImages(names, home.folder))
        self.live = LiveSockets(settings.max_connections)
        self.origins: frozenset[str] = frozenset(settings.origins)
        """Of pages that may use this gateway."""

    def find_handler(  # type: ignore[override]
        self, request: HTTPServerRequest, **kwargs: Any
    ) -> HTTPMessageDelegate:
        """Called by Tornado for each request."""
        if self.jupyter.serves(request):
            return self.jupyter.find_handler(request)
        return super().find_handler(request, **kwargs)

    def feed_volumes(self) -> None:
        """Let the live feed have the list of volumes."""
        live = self.control.live
        live.sources["volumes"] = self._list_volumes
        self.volumes.on_changed = lambda user: live.touched("volumes", user=user)

    async def _list_volumes(self, user: str, request: WatchRequest) -> Sequence[Any]:
        try:
            return await self.volumes.run(lambda: self.volumes.of(user).list())
        except RequestError as error:
            raise WatchError(error.problem) from error


class GatewayServer:
    """The application behind a listening socket."""

    def __init__(self, application: GatewayApplication) -> None:
        self._application = application
        self._server = HTTPServer(
            application,
            max_header_size=32 * 1024,
            max_body_size=BODY_LIMIT + 1,
            chunk_size=256 * 1024,
            idle_connection_timeout=IDLE_SECONDS,
        )

    def bind(self, host: str, port: int, wished_port: int = 0) -> str:
        """Take `port`; where that is 0 `wished_port`, or a free one where that is taken.

        Returns the URL; who connects waits until `serve`. Raises `ListenError`.
        """
        try:
            listener = _bind(host, port or wished_port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port or not wished_port:
                raise _listen_error(host, port, error) from error
            log.info("Port %d of before is taken now; clients have to look for the new one.", wished_port)
            listener = _bind(host, 0)
        port = listener.getsockname()[1]
        self._listener = listener
        self._application.origins |= own_origins(host, port)
        name = f"[{host}]" if ":" in host else host
        if not is_loopback(host):
            log.warning(
                "Listening on %s without TLS: whoever can read the network sees tokens and code. Better "
                "listen on the loopback, behind a TLS proxy.",
                host,
            )
        return f"http://{_reachable(name)}:{port}"

    def serve(self) -> None:
        """Take connections from now on."""
        self._server.add_socket(self._listener)

    def stop_listening(self) -> None:
        """Take no new connections."""
        self._server.stop()
        self._listener.close()

    async def close(self) -> None:
        """Close what is open: notebooks are told to come back."""
        self._application.clients.close_all("the gateway stops")
        self._application.live.close_all("the gateway stops")
        self._application.blobs.close()
        self._application.volumes.close()
        await self._server.close_all_connections()


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _listen_error(host: str, port: int, error: OSError) -> ListenError:
    where = f"{host}:{port}" if port else host
    advice = (
        "Another program has that port: set another one, or 0 for any, as `port` in [gateway] of config.toml "
        "or with --listen."
        if error.errno == errno.EADDRINUSE
        else "Set an address of this machine as `host` in [gateway] of config.toml or with --listen."
    )
    return ListenError(f"The gateway cannot listen on {where}: {error.strerror or error}. {advice}")


def _reachable(name: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(name, name)  # noqa: S104


def _log_nothing(handler: RequestHandler) -> None:
    """Calls have their own log; faults are logged where they happen."""
