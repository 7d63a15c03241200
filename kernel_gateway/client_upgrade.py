"""``GET /v1/connect``: the handshake of a notebook's WebSocket."""

from __future__ import annotations

import asyncio

from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from skylift.kernel_gateway.auth import SUBPROTOCOL
from skylift.kernel_gateway.client_socket import ClientConnection
from skylift.kernel_gateway.handler import Handler, RequestError


class ClientUpgrade(Handler):
    """Checks the handshake like any request, answers it, and hands the socket to a `ClientConnection`."""

    body_limit = 0
    for_containers = True

    async def get(self) -> None:
        """Called by Tornado when token and origin are right."""
        clients = self.gateway.clients
        if clients.full():
            raise RequestError(
                503,
                "The gateway has as many connections as it may have. Close notebooks that are not needed, or "
                "raise max_connections in [gateway] of config.toml.",
            )
        self._shake_hands()
        # Nothing is awaited before the stream is ours, so Tornado reads nothing of what follows.
        stream = self.detach()
        # Tornado's stream wants to close the socket that it owns; the connection goes on with a copy.
        socket = stream.socket.dup()
        stream.close()
        user, container_id = self.user, self.container_id
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: ClientConnection(clients, user, container_id), socket
        )

    def _shake_hands(self) -> None:
        offered = Headers(self.request.headers.get_all())
        ours = [Subprotocol(SUBPROTOCOL)] if "Sec-WebSocket-Protocol" in offered else None
        protocol = ServerProtocol(subprotocols=ours)
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
