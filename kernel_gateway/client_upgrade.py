"""``GET /v1/connect``: the handshake of a notebook's WebSocket."""

from __future__ import annotations

import asyncio

from skylift.kernel_gateway.auth import SUBPROTOCOL
from skylift.kernel_gateway.client_socket import ClientConnection
from skylift.kernel_gateway.handler import Handler, RequestError
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol


class ClientUpgrade(Handler):
    """Checks the handshake like any request, answers it, and hands the socket to a `ClientConnection`."""

    body_limit = 0

    async def prepare(self) -> None:
        """Called by Tornado. The handshake happens here, as what follows on the connection is no body that
        Tornado should read."""
        await super().prepare()
        if self.request.method != "GET" or self._refusal is not None:
            return
        clients = self.gateway.clients
        if clients.full():
            raise RequestError(
                503,
                "The gateway has as many connections as it may have. Close notebooks that are not needed, or "
                "raise max_connections in [gateway] of config.toml.",
            )
        self._shake_hands()
        stream = self.detach()
        # Tornado's stream wants to close the socket that it owns; the connection goes on with a copy.
        socket = stream.socket.dup()
        stream.close()
        user = self.user
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: ClientConnection(clients, user), socket
        )

    def _shake_hands(self) -> None:
        offered = Headers(self.request.headers.get_all())
        protocol = ServerProtocol(subprotocols=[Subprotocol(SUBPROTOCOL)])
        response = protocol.accept(Request(self.request.uri or "", offered))
        if response.status_code != 101:
            raise RequestError(
                response.status_code, f"{self.request.path} is a WebSocket: {protocol.handshake_exc}."
            )
        self.clear_header("Content-Type")
        self.set_status(101)
        for name, value in response.headers.raw_items():
            self.set_header(name, value)
        self.finish()

    def get(self) -> None:
        """Never reached by a handshake that was good."""
        raise RequestError(400, f"{self.request.path} is a WebSocket.")
