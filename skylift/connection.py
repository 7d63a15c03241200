"""One open WebSocket to the gateway, over a plain socket.

Frames are sent by whoever has something to say, in its own thread; one thread reads. So a call costs one
change of threads: from the reader to the caller.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from websockets.client import ClientProtocol
    from websockets.protocol import Event

RECEIVE = 65536
_DEAD_AFTER = 60.0


class ConnectionLost(Exception):  # noqa: N818
    """The WebSocket is gone; the text says why."""


class Connection:
    """An open WebSocket, made by `skylift.handshake`. `receive` is for the reader thread, `send` for any."""

    def __init__(self, sock: socket.socket, protocol: ClientProtocol, leftover: Sequence[Event]) -> None:
        from websockets.frames import Frame, Opcode

        self._socket = sock
        self._protocol = protocol
        self._leftover = leftover
        self._frame_type = Frame
        self._data_opcodes = (Opcode.BINARY, Opcode.CONT)
        self._parts: list[bytes] = []
        self._ended = ""
        self._heard = time.monotonic()
        self._pinged = False
        # The protocol object is shared by senders and the reader; sending, which may block, has its own lock,
        # so that a large frame on its way out never keeps the reader from reading.
        self._protocol_lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._closed = False
        # A pong that a sender is to send after its own frame, because the reader must never wait for one.
        self._urgent: list[bytes] = []
        self.defined: set[str] = set()
        """Functions that were defined on this connection; guarded by `defining`."""
        self.defining = threading.Lock()

    @property
    def close_code(self) -> int:
        """With what code the gateway closed the connection; 0 when it did not say."""
        return self._protocol.close_code or 0

    def send(self, data: bytes) -> None:
        """Sends one binary message. Raises `ConnectionLost`."""
        with self._send_lock:
            if self._closed:
                raise ConnectionLost("closed")
            try:
                with self._protocol_lock:
                    self._protocol.send_binary(data)
                    out = self._protocol.data_to_send()
                self._write(out)
                while self._urgent:
                    self._write([self._urgent.pop(0)])
            except ConnectionLost:
                raise
            except BaseException as error:
                # An interrupt may have left half a frame on the wire; a new connection starts cleanly.
                self._drop()
                if isinstance(error, Exception):
                    raise ConnectionLost(self._reason() or str(error)) from error
                raise

    def receive(self) -> list[bytes]:
        """Waits for messages; for the reader thread. An empty list means that something else came, or nothing
        for a while. Raises `ConnectionLost` when the connection has ended."""
        events, self._leftover = self._leftover, ()
        if not events:
            events = self._receive_events()
        messages: list[bytes] = []
        for event in events:
            if not isinstance(event, self._frame_type) or event.opcode not in self._data_opcodes:
                continue
            if event.fin and not self._parts:
                messages.append(bytes(event.data))
                continue
            self._parts.append(bytes(event.data))
            if event.fin:
                messages.append(b"".join(self._parts))
                self._parts.clear()
        return messages

    def _receive_events(self) -> Sequence[Event]:
        if self._ended:
            raise ConnectionLost(self._ended)
        try:
            data = self._socket.recv(RECEIVE)
        except TimeoutError:
            self._after_silence()
            return ()
        except OSError as error:
            raise ConnectionLost(self._reason() or str(error)) from error
        self._heard, self._pinged = time.monotonic(), False
        with self._protocol_lock:
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            events = self._protocol.events_received()
            out = self._protocol.data_to_send()
        if out:
            self._answer(out)
        if not data:
            self._ended = self._reason() or "the gateway closed the connection"
        return events

    def _answer(self, out: list[bytes]) -> None:
        """Sends what the protocol answers by itself: now, or by whoever is sending now."""
        self._urgent.append(b"".join(out))
        if self._send_lock.acquire(blocking=False):
            try:
                with contextlib.suppress(ConnectionLost):
                    while self._urgent:
                        self._write([self._urgent.pop(0)])
            finally:
                self._send_lock.release()

    def _after_silence(self) -> None:
        quiet = time.monotonic() - self._heard
        if quiet > _DEAD_AFTER:
            self._drop()
            raise ConnectionLost(f"nothing heard for {quiet:.0f} seconds")
        if not self._pinged:
            self._pinged = True
            self._ping()

    def close(self) -> None:
        """Closes the socket; the reader returns."""
        self._closed = True
        with contextlib.suppress(Exception), self._protocol_lock:
            self._protocol.send_close(1000)
            for data in self._protocol.data_to_send():
                self._socket.send(data)
        self._drop()

    def abandon(self) -> None:
        """Closes the file descriptor only: for the child of a fork, whose parent goes on using the socket."""
        self._closed = True
        self._socket.close()

    def _drop(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _write(self, out: list[bytes]) -> None:
        # An empty piece means that nothing follows: half-close.
        data = out[0] if len(out) == 1 else b"".join(out)
        if not data:
            return
        try:
            self._socket.sendall(data)
        except OSError as error:
            self._drop()
            raise ConnectionLost(self._reason() or str(error)) from error

    def _ping(self) -> None:
        with self._protocol_lock:
            self._protocol.send_ping(b"")
            out = self._protocol.data_to_send()
        self._answer(out)

    def _reason(self) -> str:
        return self._protocol.close_reason or ""
