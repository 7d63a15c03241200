"""The host's link to the gateway: dials, says hello, and dials again whenever the link is gone."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

import msgspec

from skylift.runtime.unix_sockets import fits_address
from skylift.wire import (
    FrameBuffer,
    HostCommand,
    HostHello,
    HostMessage,
    HostWelcome,
    decode_host_command,
    frame,
)

SOCKET_NAME = "gateway.sock"
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 1.0
_WELCOME_SECONDS = 30.0
_HIGH_WATER = 4 * 1024 * 1024
_LOW_WATER = 1024 * 1024

log = logging.getLogger(__name__)


class GatewayListener(Protocol):
    """Whoever acts on what the gateway says. Called on the event loop."""

    def hello(self) -> HostHello:
        """What to say first on a new connection. May raise OSError: then it is tried again."""

    def welcomed(self, welcome: HostWelcome) -> None:
        """The link stands."""

    def commanded(self, command: HostCommand) -> None:
        """Anything after the welcome."""

    def gateway_slow(self, slow: bool) -> None:
        """Whether so much waits to be sent that nothing more should be produced."""

    def gateway_lost(self) -> None:
        """The link that stood is gone."""


class GatewayLink:
    """One connection at a time to ``gateway.sock``."""

    def __init__(self, home: Path, listener: GatewayListener) -> None:
        self._home = home
        self._listener = listener
        self._connection: _Connection | None = None
        self._changed = asyncio.Event()

    @property
    def up(self) -> bool:
        """Whether the gateway has welcomed this host."""
        return self._connection is not None

    def send(self, message: HostMessage) -> None:
        """Send a message; without a link it is dropped: the next hello tells how things are."""
        if self._connection is not None:
            self._connection.write(frame(message))

    def send_encoded(self, data: bytes) -> None:
        """The same for a message that is a frame already."""
        if self._connection is not None:
            self._connection.write(data)

    async def run(self) -> None:
        """Keep a link until cancelled."""
        delay = _FIRST_DELAY
        refused = False
        while True:
            connection = _Connection(self, self._listener)
            try:
                await self._connect(connection)
                welcomed = await connection.ended()
            except OSError:
                connection.close()
                welcomed = False
            except BaseException:
                connection.close()
                raise
            else:
                if not welcomed and not refused:
                    refused = True
                    log.warning(
                        "The gateway closed the link without a welcome. Either the token in %s is not the "
                        "one it knows, or it speaks another version; trying again.",
                        self._home / "host-token",
                    )
            if welcomed:
                refused = False
                delay = _FIRST_DELAY
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_DELAY)

    async def close(self, flush_seconds: float) -> None:
        """Send what waits, for at most so long, and close."""
        if self._connection is not None:
            await self._connection.flushed(flush_seconds)
            self._connection.close()
            self._connection = None

    async def _connect(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        path = self._home / SOCKET_NAME
        if fits_address(path):
            await loop.create_unix_connection(lambda: connection, str(path))
        else:
            folder = os.open(self._home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                await loop.create_unix_connection(lambda: connection, f"/proc/self/fd/{folder}/{SOCKET_NAME}")
            finally:
                os.close(folder)
        connection.write(frame(self._listener.hello()))

    def _welcomed(self, connection: _Connection, welcome: HostWelcome) -> None:
        self._connection = connection
        self._listener.welcomed(welcome)

    def _lost(self, connection: _Connection) -> None:
        if self._connection is connection:
            self._connection = None
            self._listener.gateway_lost()


class _Connection(asyncio.Protocol):
    def __init__(self, link: GatewayLink, listener: GatewayListener) -> None:
        self._link = link
        self._listener = listener
        self._frames = FrameBuffer()
        self._transport: asyncio.Transport | None = None
        self._welcomed = False
        self._slow = False
        self._drained = asyncio.Event()
        self._drained.set()
        self._ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._patience: asyncio.TimerHandle | None = None
        self.write: Callable[[bytes], None] = _nowhere

    async def ended(self) -> bool:
        """Wait for the end; whether there was a welcome."""
        return await self._ended

    async def flushed(self, seconds: float) -> None:
        if self._transport is None:
            return
        self._transport.set_write_buffer_limits(high=0)
        if self._transport.get_write_buffer_size() == 0:
            return
        self._drained.clear()
        try:
            await asyncio.wait_for(self._drained.wait(), seconds)
        except asyncio.TimeoutError:
            log.warning("The gateway did not take the last messages in %g s.", seconds)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER, low=_LOW_WATER)
        connected: socket.socket = transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LOW_WATER)
        self.write = self._transport.write
        self._patience = asyncio.get_running_loop().call_later(_WELCOME_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        try:
            for each in self._frames.feed(data):
                command = decode_host_command(each)
                if self._welcomed:
                    self._listener.commanded(command)
                elif isinstance(command, HostWelcome):
                    self._welcomed = True
                    self._stop_waiting()
                    self._link._welcomed(self, command)
                else:
                    raise ValueError("the first message is no welcome")
        except (msgspec.DecodeError, ValueError) as error:
            log.warning("The gateway sent a malformed message, the link is closed: %s", error)
            if self._transport is not None:
                self._transport.abort()

    def pause_writing(self) -> None:
        self._slow = True
        self._drained.clear()
        self._listener.gateway_slow(True)

    def resume_writing(self) -> None:
        self._slow = False
        self._drained.set()
        self._listener.gateway_slow(False)

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_waiting()
        self.write = _nowhere
        self._drained.set()
        if self._slow:
            self._listener.gateway_slow(False)
        self._link._lost(self)
        if not self._ended.done():
            self._ended.set_result(self._welcomed)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


def _nowhere(data: bytes) -> None:
    """Where a connection that does not stand writes to."""
