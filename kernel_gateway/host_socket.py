"""``gateway.sock``: the Unix socket that the hosts of this machine dial."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from pathlib import Path
from typing import cast

import msgspec

from skylift.backend.control import ControlPlane
from skylift.kernel_gateway.outbox import Outbox
from skylift.wire import FrameBuffer, HostCommand, HostHello, HostMessage, decode_host_message, frame

SOCKET_NAME = "gateway.sock"

HELLO_SECONDS = 10.0
"""A link that has not said `HostHello` by then is closed."""

BACKLOG_LIMIT = 512 * 1024 * 1024
"""Bytes. A host for which more are waiting has stopped; its link is closed, and made anew when it lives."""

_BUFFER = 1024 * 1024

log = logging.getLogger(__name__)


class HostServer:
    """Listens on the socket; every link is a `HostLink`."""

    def __init__(self, home: Path, control: ControlPlane, outbox: Outbox) -> None:
        self.path = home / SOCKET_NAME
        self.control = control
        self.outbox = outbox
        self.links: set[HostLink] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Bind the socket, mode 0600. What lies there from a gateway that is gone is removed; whoever calls
        this has made sure that none is running (see `home.GatewayHome.lock`)."""
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A Unix socket's path has at most 107 bytes, a home may be deeper: bind through its open folder.
        folder = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mask = os.umask(0o177)
        try:
            listener.bind(f"/proc/self/fd/{folder}/{SOCKET_NAME}")
        except BaseException:
            listener.close()
            raise
        finally:
            os.umask(mask)
            os.close(folder)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: HostLink(self), sock=listener
        )

    async def close(self) -> None:
        """Stop listening and close the links. Hosts run on and dial again."""
        if self._server is None:
            return
        self._server.close()
        for link in tuple(self.links):
            link.close("the gateway stops")
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


class HostLink(asyncio.Protocol):
    """One host's link; towards the control plane, its `HostPort`."""

    def __init__(self, server: HostServer) -> None:
        self._server = server
        self._control = server.control
        self._outbox = server.outbox
        self._loop = asyncio.get_running_loop()
        self._frames = FrameBuffer()
        self._pending: list[bytes] = []
        self._welcomed = False
        self._closing = False

    # --- the control plane's side ------------------------------------------------------------------

    def send(self, message: HostCommand) -> None:
        """See `HostPort.send`."""
        if self._closing:
            return
        if not self._pending:
            self._outbox.add(self)
        self._pending.append(frame(message))

    def close(self, reason: str) -> None:
        """See `HostPort.close`."""
        if not self._closing:
            log.info("The link of a host is closed: %s.", reason)
            self.flush()
            self._closing = True
            self._transport.close()

    # --- the transport's side ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio, once."""
        self._transport = cast(asyncio.Transport, transport)
        connected: socket.socket = transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._server.links.add(self)
        self._patience = self._loop.call_later(
            HELLO_SECONDS, self.close, f"it said nothing for {HELLO_SECONDS:g} seconds"
        )

    def data_received(self, data: bytes) -> None:
        """Called by asyncio with what one read brought: part of a message, or many."""
        try:
            frames = self._frames.feed(data)
            with self._outbox:
                for each in frames:
                    message = decode_host_message(each)
                    if self._welcomed:
                        self._control.host_message(self, message, each)
                    else:
                        self._greet(message)
                    if self._closing:
                        break
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            self.close(f"malformed message: {error}")
        except PermissionError as error:
            self.close(str(error))
        except Exception:
            # Its next hello tells how things are, so that one message that is not understood costs one link.
            log.exception("A host's message failed.")
            self.close("the gateway failed on a message")

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio, last."""
        self._closing = True
        self._patience.cancel()
        self._server.links.discard(self)
        if self._welcomed:
            self._welcomed = False
            self._control.host_disconnected(self)

    def flush(self) -> None:
        """See `Buffered.flush`."""
        pending, self._pending = self._pending, []
        if not pending or self._closing:
            return
        self._transport.write(pending[0] if len(pending) == 1 else b"".join(pending))
        if self._transport.get_write_buffer_size() > BACKLOG_LIMIT:
            self._closing = True
            log.warning("A host has not read %d bytes; its link is closed.", BACKLOG_LIMIT)
            self._transport.abort()

    def _greet(self, message: HostMessage) -> None:
        if not isinstance(message, HostHello):
            raise ValueError(f"the first message must be HostHello, not {type(message).__name__}")
        self._patience.cancel()
        self._welcomed = True
        try:
            self._control.host_connected(self, message)
        except BaseException:
            self._welcomed = False
            raise
