"""A container's way to the gateway: a Unix socket in it, whose bytes go to where the gateway listens.

It works where the container has no network. What is said there is between the SDK in the container and the
gateway; nothing of it is looked at here. Where the gateway is, is read anew for each connection, so a
gateway that was started again is found.
"""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from skylift.runtime.unix_sockets import bind_in

MAX_CONNECTIONS = 64
"""Of one container at once. A process that uses the SDK has one, and a few more while large data moves."""

PATIENCE = 10.0
"""Seconds that a new connection waits for a gateway that is not there."""

_LOOK_AGAIN = 0.1
_AHEAD = 256 * 1024
"""Bytes that may wait for a reader before no more is read for it."""
_LAST_WORDS_SECONDS = 5.0


class GatewayProxy:
    """Listens in a container's folder until it is closed, and passes bytes both ways."""

    def __init__(self, folder: Path, name: str, announcement: Path) -> None:
        """The socket is `name` in `folder`; `announcement` is the gateway's ``gateway.json``."""
        self.folder = folder
        self._name = name
        self._announcement = announcement
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._dialing: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Make the socket. Raises OSError."""
        listening = socket.socket(socket.AF_UNIX)
        try:
            bind_in(self.folder, self._name, listening)
            self._server = await asyncio.get_running_loop().create_unix_server(
                lambda: _Near(self), sock=listening, backlog=MAX_CONNECTIONS
            )
        except BaseException:
            listening.close()
            raise

    def close(self) -> None:
        """Cut all connections and remove the socket. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
            (self.folder / self._name).unlink(missing_ok=True)
        for task in self._dialing:
            task.cancel()
        for end in list(self._ends):
            end.transport.abort()

    # --- for its connections -----------------------------------------------------------------------

    def opened(self, end: _End) -> None:
        """One end of a connection stands."""
        self._ends.add(end)

    def closed(self, end: _End) -> None:
        """It is gone."""
        self._ends.discard(end)

    def came(self, near: _Near) -> None:
        """The container has connected."""
        if self._server is None:
            # It was being taken in when this was closed.
            near.transport.abort()
            return
        if sum(isinstance(end, _Near) for end in self._ends) > MAX_CONNECTIONS:
            near.refuse(
                f"This container has {MAX_CONNECTIONS} connections to the gateway, which is the limit. Close "
                "processes in it that call functions, or let one of them make the calls."
            )
            return
        task = asyncio.get_running_loop().create_task(self._connect(near))
        self._dialing.add(task)
        task.add_done_callback(self._dialing.discard)

    async def _connect(self, near: _Near) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while not near.transport.is_closing():
            address = gateway_address(self._announcement)
            if address is not None:
                try:
                    _, far = await loop.create_connection(lambda: _End(self, near), *address)
                except OSError:
                    pass
                else:
                    near.join(far)
                    return
            if loop.time() >= deadline:
                near.refuse("The gateway is not running.")
                return
            await asyncio.sleep(_LOOK_AGAIN)


def gateway_address(announcement: Path) -> tuple[str, int] | None:
    """Host and port of the gateway that announced itself in that file; None where none has."""
    try:
        parts = urlsplit(json.loads(announcement.read_bytes())["url"])
        return (parts.hostname, parts.port) if parts.hostname and parts.port else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class _End(asyncio.Protocol):
    """One end of a connection: what it reads goes to its peer, as fast as that can take it."""

    transport: asyncio.Transport

    def __init__(self, proxy: GatewayProxy, peer: _End | None = None) -> None:
        self._proxy = proxy
        self._peer = peer
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_AHEAD)
        self._proxy.opened(self)

    def data_received(self, data: bytes) -> None:
        peer = self._peer
        if peer is not None and not peer.transport.is_closing():
            peer.transport.write(data)

    def eof_received(self) -> bool:
        self._ended = True
        peer = self._peer
        if peer is None or peer._ended or peer.transport.is_closing():
            # Nothing goes either way any more.
            return False
        peer.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self._peer is not None:
            self._peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._peer is not None:
            self._peer.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._proxy.closed(self)
        peer, self._peer = self._peer, None
        if peer is None:
            return
        if error is None:
            peer.transport.close()
        else:
            peer.transport.abort()


class _Near(_End):
    """The container's end, which waits for the other one."""

    def __init__(self, proxy: GatewayProxy) -> None:
        super().__init__(proxy)
        self._waiting = True
        self._early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Before Python 3.11 a transport begins to read after this, paused or not.
        asyncio.get_running_loop().call_soon(self._hold)
        self._proxy.came(self)

    def _hold(self) -> None:
        if self._waiting:
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if self._waiting:
            self._early += data
        else:
            super().data_received(data)

    def join(self, far: _End) -> None:
        """The gateway's end stands: begin."""
        if self.transport.is_closing():
            far.transport.abort()
            return
        self._waiting = False
        self._peer = far
        if self._early:
            far.transport.write(bytes(self._early))
            self._early.clear()
        self.transport.resume_reading()

    def refuse(self, message: str) -> None:
        """Answer whatever is asked on this connection with 503, and close it."""
        body = json.dumps({"error": "ConnectionError", "message": message}).encode()
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.write_eof()
        # The request is read first (and dropped), or else who sends it sees a broken pipe and no answer.
        self._waiting = False
        self.transport.resume_reading()
        asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self.transport.abort)
