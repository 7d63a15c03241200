"""The link to one container's runner: two connections on a Unix socket (see docs/protocol.md)."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import msgspec

from skylift.wire import PROTOCOL

SOCKET_NAME = "runner.sock"
_HEAD = struct.Struct(">IQ")
_MAX_HEADER = 64 * 1024 * 1024
_LONGEST_ADDRESS = 103
"""Bytes of a Unix socket's path, on every system."""
_ACK_FRAMES = 64
_ACK_BYTES = 1024 * 1024

Buffer: TypeAlias = bytes | memoryview


class _RunnerMessage(msgspec.Struct, tag_field="t", tag=str.lower, frozen=True):
    pass


class Hello(_RunnerMessage, frozen=True):
    """First frame of each connection."""

    channel: str
    protocol: int = 0
    pid: int = 0
    sent: int = 0
    got: int = 0


class Ready(_RunnerMessage, frozen=True):
    """The runner can take calls."""

    python: str = ""
    pid: int = 0


class Started(_RunnerMessage, frozen=True):
    """A call lasts longer than a blink, or is tried again."""

    call: str
    time: float
    index: int = -1
    attempt: int = 1
    error: str = ""


class Need(_RunnerMessage, frozen=True):
    """The runner has let go of a function's code and waits for it."""

    code: str


class RunnerEnd(msgspec.Struct, frozen=True):
    """How a call ended, by the runner's clock."""

    state: str
    summary: str = ""
    started: float = 0.0
    first_output: float = 0.0
    ended: float = 0.0


class RunnerEvents(_RunnerMessage, frozen=True, tag="events"):
    """Events of a call; their data is the payload, joined."""

    call: str
    events: list[tuple[str, dict[str, Any], int]] = []
    done: tuple[int, ...] = ()
    end: RunnerEnd | None = None


class Recalled(_RunnerMessage, frozen=True):
    """Inputs that have not begun, and will not."""

    call: str
    indexes: tuple[int, ...] = ()


class Ack(_RunnerMessage, frozen=True):
    """Data frames received, in all."""

    got: int


DataMessage: TypeAlias = Ready | Started | Need | RunnerEvents

_hello = msgspec.json.Decoder(Hello)
_data: msgspec.json.Decoder[DataMessage] = msgspec.json.Decoder(DataMessage)
_control: msgspec.json.Decoder[Recalled | Ack] = msgspec.json.Decoder(Recalled | Ack)
_any = msgspec.json.Decoder(dict[str, Any])
_encoder = msgspec.json.Encoder()


def runner_frame(header: dict[str, Any], payload: Buffer = b"") -> bytes:
    """The bytes of one frame."""
    head = _encoder.encode(header)
    return b"".join((_HEAD.pack(len(head), len(payload)), head, payload))


def bind_in(folder: Path, name: str, listening: socket.socket) -> None:
    """Bind a Unix socket to `folder`/`name`, however long that path is, for every user to connect to."""
    path = folder / name
    if fits_address(path):
        listening.bind(str(path))
    else:
        # A home's path may be longer than an address; one through the folder's descriptor is not.
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listening.bind(f"/proc/self/fd/{descriptor}/{name}")
        finally:
            os.close(descriptor)
    # A container's root is another user; who may enter the folder from outside is the home's to say.
    path.chmod(0o666)


def fits_address(path: Path) -> bool:
    """Whether a Unix socket can be bound and connected to by that path."""
    return len(os.fsencode(path)) <= _LONGEST_ADDRESS


class RunnerListener(Protocol):
    """Whoever takes in what a runner says. Called on the event loop, in the order of the frames."""

    def runner_said(self, message: DataMessage, payload: memoryview) -> None:
        """A data frame. `payload` stays valid after the call."""

    def runner_recalled(self, message: Recalled) -> None:
        """An answer to `recall`."""

    def runner_came(self) -> None:
        """Both connections stand."""

    def runner_away(self) -> None:
        """A connection ended, and all that came over it was passed on."""

    def runner_broke(self, reason: str) -> None:
        """It sent what is not a frame; the link is closed."""


class RunnerLink:
    """Listens on a container's socket; a runner that comes back is sent again what it has not got."""

    def __init__(self, folder: Path, listener: RunnerListener) -> None:
        """`folder` holds the socket; the container sees it."""
        self.folder = folder
        self._listener = listener
        self._server: asyncio.Server | None = None
        self._channels: dict[str, _Channel] = {}
        self._waiting_control: list[bytes] = []
        self._pauses: set[str] = set()
        self._sent = 0
        self._unacknowledged: deque[bytes] = deque()
        self._got = 0
        self._told_got = 0
        self._bytes_since_ack = 0
        self._gone = asyncio.Event()

    async def listen(self) -> None:
        """Make the socket. Raises OSError."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        try:
            bind_in(self.folder, SOCKET_NAME, listening)
            self._server = await asyncio.get_running_loop().create_unix_server(
                lambda: _Channel(self), sock=listening, backlog=4
            )
        except BaseException:
            listening.close()
            raise

    @property
    def connected(self) -> bool:
        """Whether the data connection stands."""
        return "data" in self._channels

    @property
    def whole(self) -> bool:
        """Whether both connections stand."""
        return len(self._channels) == 2

    # --- to the runner ---------------------------------------------------------------------------

    def send(self, header: dict[str, Any], payload: Buffer = b"") -> None:
        """Send a data frame; while the runner is away it waits for it."""
        data = runner_frame(header, payload)
        self._sent += 1
        self._unacknowledged.append(data)
        channel = self._channels.get("data")
        if channel is not None:
            channel.write(data)

    def control(self, header: dict[str, Any]) -> None:
        """Send a control frame."""
        data = runner_frame(header)
        channel = self._channels.get("control")
        if channel is not None:
            channel.write(data)
        else:
            self._waiting_control.append(data)

    # --- flow ------------------------------------------------------------------------------------

    def pause(self, why: str) -> None:
        """Read no more data frames until `resume` with the same reason; takes effect within a batch."""
        self._pauses.add(why)
        channel = self._channels.get("data")
        if channel is not None:
            channel.pause()

    def resume(self, why: str) -> None:
        """Take back a `pause`; what was read already is passed on first, in a later turn of the loop."""
        if why in self._pauses:
            self._pauses.remove(why)
            channel = self._channels.get("data")
            if not self._pauses and channel is not None:
                channel.resume()

    def paused(self) -> bool:
        """Whether data frames are held back."""
        return bool(self._pauses)

    async def finish(self, timeout: float) -> bool:
        """Its process is gone: wait until all that it sent was passed on; False after `timeout` seconds."""
        self._stop_listening()
        self.resume("gateway")
        self.resume("log")
        if self.connected:
            try:
                await asyncio.wait_for(self._gone.wait(), timeout)
            except asyncio.TimeoutError:
                return False
        return True

    def close(self) -> None:
        """Close both connections and the socket. Idempotent."""
        self._stop_listening()
        for channel in list(self._channels.values()):
            channel.abort()
        self._channels.clear()
        self._unacknowledged.clear()
        (self.folder / SOCKET_NAME).unlink(missing_ok=True)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    # --- from its channels -----------------------------------------------------------------------

    def opened(self, channel: _Channel, hello: Hello) -> None:
        """A connection has said what it is."""
        if hello.protocol != PROTOCOL:
            self._broke(channel, f"the runner speaks protocol {hello.protocol}, this host {PROTOCOL}")
            return
        if hello.channel not in ("data", "control") or hello.channel in self._channels:
            channel.abort()
            return
        channel.name = hello.channel
        self._channels[hello.channel] = channel
        channel.write(runner_frame({"t": "hello", "sent": self._sent, "got": self._got}))
        if hello.channel == "control":
            for data in self._waiting_control:
                channel.write(data)
            self._waiting_control.clear()
        else:
            self._acknowledged(hello.got)
            for data in self._unacknowledged:
                channel.write(data)
            self._gone.clear()
            if self._pauses:
                channel.pause()
        if self.whole:
            self._listener.runner_came()

    def took(self, channel: _Channel, header: memoryview, payload: memoryview) -> None:
        """A frame of a channel that has said hello."""
        if channel.name == "data":
            self._got += 1
            self._bytes_since_ack += len(payload)
            if self._got - self._told_got >= _ACK_FRAMES or self._bytes_since_ack >= _ACK_BYTES:
                self._told_got = self._got
                self._bytes_since_ack = 0
                self.control({"t": "ack", "got": self._got})
            try:
                message = _data.decode(header)
            except msgspec.ValidationError as error:
                self._unknown(channel, header, error)
                return
            self._listener.runner_said(message, payload)
            return
        try:
            answer = _control.decode(header)
        except msgspec.ValidationError as error:
            self._unknown(channel, header, error)
            return
        if isinstance(answer, Ack):
            self._acknowledged(answer.got)
        else:
            self._listener.runner_recalled(answer)

    def lost(self, channel: _Channel) -> None:
        """A connection ended, and its frames were passed on."""
        if self._channels.get(channel.name) is not channel:
            return
        del self._channels[channel.name]
        if channel.name == "data":
            self._gone.set()
        self._listener.runner_away()

    def malformed(self, channel: _Channel, reason: str) -> None:
        """What came is not a frame."""
        self._broke(channel, reason)

    def _unknown(self, channel: _Channel, header: memoryview, error: msgspec.ValidationError) -> None:
        # A newer runner may say what this host does not know: only what it should know must be right.
        known = {"ready", "started", "need", "events", "recalled", "ack"}
        if _any.decode(header).get("t") in known:
            self._broke(channel, f"malformed {channel.name} frame: {error}")

    def _broke(self, channel: _Channel, reason: str) -> None:
        channel.abort()
        self._listener.runner_broke(reason)

    def _acknowledged(self, got: int) -> None:
        waiting = self._sent - got
        while len(self._unacknowledged) > max(waiting, 0):
            self._unacknowledged.popleft()


class _Channel(asyncio.Protocol):
    """One connection: cuts its bytes into frames, and stops in the middle of a batch when told to."""

    def __init__(self, link: RunnerLink) -> None:
        self.name = ""
        self._link = link
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        """Read and not yet cut; all but the first wait until `_need` bytes are there."""
        self._have = 0
        self._need = _HEAD.size
        self._paused = False
        self._ended = False
        self._closed = False
        self.write: Callable[[bytes], None] = _nowhere

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.write = self._transport.write

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._have += len(data)
        if self._have >= self._need and not self._paused:
            self._cut()

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = True
        if not self._paused:
            self._lost()

    def pause(self) -> None:
        self._paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            asyncio.get_running_loop().call_soon(self._resume)

    def abort(self) -> None:
        self._closed = True
        self._chunks.clear()
        if self._transport is not None:
            self._transport.abort()

    def _resume(self) -> None:
        if self._link.paused() or not self._paused:
            return
        self._paused = False
        if self._have >= self._need:
            self._cut()
        if self._paused:
            return
        if self._ended:
            self._lost()
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _lost(self) -> None:
        if self.name:
            self._link.lost(self)

    def _cut(self) -> None:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        view = memoryview(data)
        size = len(data)
        start = 0
        need = _HEAD.size
        while not self._closed and not self._paused and size - start >= _HEAD.size:
            header_length, payload_length = _HEAD.unpack_from(data, start)
            if header_length > _MAX_HEADER:
                self._link.malformed(self, f"a header of {header_length} bytes is no frame")
                return
            need = _HEAD.size + header_length + payload_length
            if size - start < need:
                break
            header_end = start + _HEAD.size + header_length
            header = view[start + _HEAD.size : header_end]
            payload = view[header_end : start + need]
            start += need
            need = _HEAD.size
            try:
                if self.name:
                    self._link.took(self, header, payload)
                else:
                    self._link.opened(self, _hello.decode(header))
            except msgspec.DecodeError as error:
                self._link.malformed(self, f"a frame without a valid header: {error}")
                return
        if self._closed:
            return
        self._chunks = [data[start:]] if start < size else []
        self._have = size - start
        self._need = need


def _nowhere(data: bytes) -> None:
    """Where a connection that is not made yet writes to."""
