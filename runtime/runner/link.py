"""The link to the host: two Unix sockets, and frames that are numbered so that none is lost.

The data channel is read by the main thread (`Link.receive`), written by whoever holds `Link.lock`. The
control channel is read by a thread of its own, which also takes the link up again when it was let go.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

PROTOCOL = 1
ACK_FRAMES = 64
ACK_BYTES = 1024 * 1024
COME_BACK_SECONDS = 60.0

_PREFIX = struct.Struct(">IQ")
_CHUNK = 64 * 1024
_JOIN_LIMIT = 64 * 1024
_decode = json.JSONDecoder().raw_decode

Header = dict[str, Any]


def encode_frame(header: bytes, payload: bytes | memoryview = b"") -> tuple[bytes | memoryview, ...]:
    """A frame, in pieces that are to be sent one after another; small ones are one piece."""
    head = _PREFIX.pack(len(header), len(payload)) + header
    if len(payload) <= _JOIN_LIMIT:
        return (head + payload,)
    return (head, payload)


class Link:
    """The runner's end of the link.

    `lock` is held while anything is put on the data channel. It is reentrant, so that the signal handler that
    cancels calls can tell whether the thread it interrupts holds it.
    """

    def __init__(self, path: str, on_control: Callable[[Header], None]) -> None:
        self.lock = threading.RLock()
        self.severed = False
        """True in forked children: the link is their parent's."""
        self._path = path
        self._on_control = on_control
        self._control_lock = threading.RLock()
        self._data = socket.socket(socket.AF_UNIX)
        self._control = socket.socket(socket.AF_UNIX)
        self._up = threading.Event()
        self._reading = False
        self._generation = 0

        self._buffer: bytes | bytearray = b""
        self._position = 0
        self._buffer_generation = 0
        self._received = 0
        self._received_bytes = 0
        self._acknowledged = 0

        self._sent = 0
        self._unacknowledged: deque[tuple[bytes | memoryview, ...]] = deque()

    # --- the main thread -------------------------------------------------------------------------

    def connect(self) -> None:
        """Dials both channels and starts the control thread. Raises OSError when the host is not there."""
        self._dial()
        threading.Thread(target=self._serve_control, name="skylift-control", daemon=True).start()

    def receive(self) -> tuple[Header, bytes | memoryview]:
        """Waits for the next data frame. Only for the main thread."""
        while True:
            with self.lock:
                if self._buffer_generation != self._generation:
                    self._buffer, self._position = b"", 0
                    self._buffer_generation = self._generation
                self._reading = True
            try:
                frame = self._read_frame()
            finally:
                self._reading = False
            with self.lock:
                # A frame of a connection that is no longer: it was not counted, so it is sent again.
                current = self._buffer_generation == self._generation
                if frame is not None and current:
                    self._received += 1
                    break
                if current and self._up.is_set():
                    self._hang_up()
            self._up.wait()
        header, payload = frame
        self._received_bytes += len(payload)
        if self._received - self._acknowledged >= ACK_FRAMES or self._received_bytes >= ACK_BYTES:
            self._acknowledged = self._received
            self._received_bytes = 0
            self.send_control({"t": "ack", "got": self._received})
        return _decode(str(header, "utf-8"))[0], payload

    def _read_frame(self) -> tuple[bytes | bytearray | memoryview, bytes | memoryview] | None:
        """The next frame; None when the connection ended or was let go."""
        buffer, start = self._buffer, self._position
        while True:
            available = len(buffer) - start
            if available >= 12:
                header_length, payload_length = _PREFIX.unpack_from(buffer, start)
                total = 12 + header_length + payload_length
                if available >= total:
                    middle = start + 12 + header_length
                    end = start + total
                    if end == len(buffer):
                        self._buffer, self._position = b"", 0
                    else:
                        self._buffer, self._position = buffer, end
                    if payload_length > _CHUNK:
                        return buffer[start + 12 : middle], memoryview(buffer)[middle:end]
                    return buffer[start + 12 : middle], bytes(buffer[middle:end])
                if total - available > _CHUNK:
                    large = self._read_large(buffer[start:], total)
                    if large is None:
                        return None
                    buffer, start = large, 0
                    continue
            chunk = self._receive_some()
            if not chunk:
                return None
            buffer, start = (bytes(buffer[start:]) + chunk, 0) if available else (chunk, 0)

    def _receive_some(self) -> bytes:
        try:
            return self._data.recv(_CHUNK)
        except OSError:
            return b""

    def _read_large(self, beginning: bytes | bytearray, total: int) -> bytearray | None:
        frame = bytearray(total)
        frame[: len(beginning)] = beginning
        position = len(beginning)
        with memoryview(frame) as view:
            while position < total:
                try:
                    count = self._data.recv_into(view[position:])
                except OSError:
                    return None
                if count == 0:
                    return None
                position += count
        return frame

    # --- sending, from any thread ----------------------------------------------------------------

    def send(self, header: bytes, payload: bytes | memoryview = b"") -> None:
        """Sends a data frame, or keeps it for when the link is up again."""
        pieces = encode_frame(header, payload)
        with self.lock:
            if self.severed:
                return
            self._unacknowledged.append(pieces)
            self._sent += 1
            if self._up.is_set():
                try:
                    for piece in pieces:
                        self._data.sendall(piece, socket.MSG_NOSIGNAL)
                except OSError:
                    self._hang_up()

    def send_control(self, message: Header) -> None:
        """Sends a control message. One that is lost with the link was about a state that is told anew."""
        frame = encode_frame(json.dumps(message).encode())[0]
        with self._control_lock:
            if self._up.is_set() and not self.severed:
                try:
                    self._control.sendall(frame, socket.MSG_NOSIGNAL)
                except OSError:
                    self._hang_up()

    def held_by_me(self) -> bool:
        """Whether the calling thread is in the middle of sending."""
        locks: tuple[Any, Any] = (self.lock, self._control_lock)
        return any(lock._is_owned() for lock in locks)

    def sever(self) -> None:
        """In a forked child: forget the link without a word to the host."""
        self.severed = True
        self.lock = threading.RLock()
        self._control_lock = threading.RLock()
        self._data.close()
        self._control.close()

    # --- the control thread ----------------------------------------------------------------------

    def _serve_control(self) -> None:
        stream = b""
        while True:
            try:
                chunk = self._control.recv(_CHUNK)
            except OSError:
                chunk = b""
            if not chunk:
                stream = b""
                self._come_back(COME_BACK_SECONDS)
                continue
            stream += chunk
            position = 0
            while len(stream) - position >= 12:
                header_length, payload_length = _PREFIX.unpack_from(stream, position)
                end = position + 12 + header_length + payload_length
                if len(stream) < end:
                    break
                message = _decode(str(stream[position + 12 : position + 12 + header_length], "utf-8"))[0]
                position = end
                if message["t"] == "release":
                    position = len(stream)
                    self._come_back(None)
                elif message["t"] == "ack":
                    self._forget(message["got"])
                else:
                    self._on_control(message)
            stream = stream[position:]

    def _forget(self, got: int) -> None:
        with self.lock:
            while self._unacknowledged and self._sent - len(self._unacknowledged) < got:
                self._unacknowledged.popleft()

    def _hang_up(self, how: int = socket.SHUT_RDWR) -> None:
        """Makes both channels' readers see an end."""
        self._up.clear()
        for sock in (self._data, self._control):
            with contextlib.suppress(OSError):
                sock.shutdown(how)

    def _come_back(self, within: float | None) -> None:
        """Lets go of both sockets, then dials until the host accepts: for `within` seconds, or for ever."""
        # The host is to see an end only when the sockets are closed: then it has this process written.
        self._hang_up(socket.SHUT_RD)
        self._until_not_reading()
        # The descriptors keep their numbers and stop being sockets, so that a thread that is about to use one
        # cannot meet a file that somebody opened in the meantime.
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        with self.lock, self._control_lock:
            for sock in (self._data, self._control):
                os.dup2(null, sock.fileno(), inheritable=False)
        os.close(null)
        deadline = None if within is None else time.monotonic() + within
        pause = 0.005
        while True:
            if os.path.exists(self._path):
                try:
                    return self._dial()
                except OSError:
                    pass
            if deadline is not None and time.monotonic() > deadline:
                os.write(
                    2, f"skylift: the host went away and did not come back within {within:.0f} s\n".encode()
                )
                os._exit(1)
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def _until_not_reading(self) -> None:
        while self._reading:
            time.sleep(0.0005)

    def _dial(self) -> None:
        """Connects both channels, says hello, and sends again what the host lacks."""
        with self.lock, self._control_lock:
            fresh: list[socket.socket] = []
            try:
                for channel in ("data", "control"):
                    sock = socket.socket(socket.AF_UNIX)
                    fresh.append(sock)
                    sock.settimeout(10.0)
                    sock.connect(self._path)
                    hello = {
                        "t": "hello",
                        "channel": channel,
                        "protocol": PROTOCOL,
                        "pid": os.getpid(),
                        "sent": self._sent,
                        "got": self._received,
                    }
                    sock.sendall(encode_frame(json.dumps(hello).encode())[0])
                answers = [_read_hello(sock) for sock in fresh]
                # What is this container's alone, and must be in no snapshot that others are made of.
                os.environ.update(answers[0].get("env", {}))
                self._forget(answers[0]["got"])
                # Whoever has just begun to read has seen the end of the old connection, and takes nothing of
                # the new one for it.
                self._until_not_reading()
                for kept, sock in zip((self._data, self._control), fresh, strict=True):
                    sock.settimeout(None)
                    os.dup2(sock.fileno(), kept.fileno(), inheritable=False)
            finally:
                for sock in fresh:
                    sock.close()
            self._generation += 1
            for pieces in self._unacknowledged:
                for piece in pieces:
                    self._data.sendall(piece, socket.MSG_NOSIGNAL)
            self._up.set()


def _read_hello(sock: socket.socket) -> Header:
    """Reads exactly one frame: what follows it belongs to the channel's reader."""

    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = sock.recv(count - len(data))
            if not chunk:
                raise ConnectionError("the host hung up before its hello")
            data += chunk
        return data

    header_length, payload_length = _PREFIX.unpack(exactly(12))
    header = exactly(header_length)
    exactly(payload_length)
    message: Header = _decode(str(header, "utf-8"))[0]
    if message.get("t") != "hello":
        raise ConnectionError(f"the host said {message.get('t')!r} where its hello was due")
    return message
