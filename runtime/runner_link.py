"""The link to one container's runner: two connections on a Unix socket (see docs/protocol.md)."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

from skylift.runtime.runner_frames import (
    PREFIX,
    Ack,
    Buffer,
    DataMessage,
    Hello,
    Recalled,
    Unread,
    decode_control,
    decode_data,
    decode_hello,
    encode_frame,
)
from skylift.runtime.unix_sockets import bind_in
from skylift.wire import MAX_BLOB, PROTOCOL

SOCKET_NAME = "runner.sock"
_MAX_HEADER = 64 * 1024 * 1024
_ACK_FRAMES = 64
_ACK_BYTES = 1024 * 1024


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

    def __init__(self, folder: Path, large: Path, listener: RunnerListener) -> None:
        """`folder` holds the socket, and the container sees it; in `large` large frames wait to be whole."""
        self.folder = folder
        self.large = large
        self.env: dict[str, str] = {}
        """Added to the runner's environment when it comes: what must be in no snapshot."""
        self._listener = listener
        self._server: asyncio.Server | None = None
        self._channels: dict[str, _Channel] = {}
        self._waiting_control: list[tuple[Buffer, ...]] = []
        self._pauses: set[str] = set()
        self._sent = 0
        self._unacknowledged: deque[tuple[Buffer, ...]] = deque()
        self._got = 0
        self._told_got = 0
        self._bytes_since_ack = 0
        self._gone = asyncio.Event()
        self._released: asyncio.Event | None = None

    async def listen(self) -> None:
        """Make the socket, at first and after `release`. Raises OSError."""
        self._released = None
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
        data = encode_frame(header, payload)
        self._sent += 1
        self._unacknowledged.append(data)
        channel = self._channels.get("data")
        if channel is not None:
            channel.write(data)

    def control(self, header: dict[str, Any]) -> None:
        """Send a control frame."""
        data = encode_frame(header)
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

    def go_on_from(self, sent: int, got: int) -> None:
        """Count on, before `listen`, from where an earlier link let go of the same runner (see `counts`)."""
        self._sent, self._got, self._told_got = sent, got, got

    @property
    def counts(self) -> tuple[int, int]:
        """How many data frames were sent, and how many have come."""
        return self._sent, self._got

    async def release(self) -> None:
        """Have the runner let go of both connections until `listen`: it is about to be written."""
        self._stop_listening()
        (self.folder / SOCKET_NAME).unlink(missing_ok=True)
        if self._channels:
            self._released = asyncio.Event()
            self.control({"t": "release"})
            await self._released.wait()

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
        answer: dict[str, Any] = {"t": "hello", "sent": self._sent, "got": self._got}
        if self.env and hello.channel == "data":
            answer["env"] = self.env
        channel.write(encode_frame(answer))
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
                message = decode_data(header)
            except msgspec.ValidationError as error:
                self._broke(channel, f"malformed data frame: {error}")
                return
            if message is not None:
                self._listener.runner_said(message, payload)
            return
        try:
            answer = decode_control(header)
        except msgspec.ValidationError as error:
            self._broke(channel, f"malformed control frame: {error}")
            return
        if isinstance(answer, Ack):
            self._acknowledged(answer.got)
        elif answer is not None:
            self._listener.runner_recalled(answer)

    def lost(self, channel: _Channel) -> None:
        """A connection ended, and its frames were passed on."""
        if self._channels.get(channel.name) is not channel:
            return
        del self._channels[channel.name]
        if channel.name == "data":
            self._gone.set()
        if self._released is None:
            self._listener.runner_away()
        elif not self._channels:
            self._released.set()

    def malformed(self, channel: _Channel, reason: str) -> None:
        """What came is not a frame."""
        self._broke(channel, reason)

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
        self._unread = Unread(link.large)
        self._paused = False
        self._ended = False
        self._closed = False

    def write(self, pieces: tuple[Buffer, ...]) -> None:
        """Send a frame."""
        if self._transport is not None:
            for piece in pieces:
                self._transport.write(piece)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._unread.add(data)
        if self._unread.have >= self._unread.need and not self._paused:
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
        self._unread.clear()
        if self._transport is not None:
            self._transport.abort()

    def _resume(self) -> None:
        if self._link.paused() or not self._paused:
            return
        self._paused = False
        if self._unread.have >= self._unread.need:
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
        data = self._unread.take()
        size = len(data)
        start = 0
        need = PREFIX.size
        while not self._closed and not self._paused and size - start >= PREFIX.size:
            header_length, payload_length = PREFIX.unpack_from(data, start)
            if header_length > _MAX_HEADER or payload_length > MAX_BLOB:
                self._link.malformed(
                    self, f"a header of {header_length} and a payload of {payload_length} bytes are no frame"
                )
                return
            need = PREFIX.size + header_length + payload_length
            if size - start < need:
                break
            header_end = start + PREFIX.size + header_length
            header = data[start + PREFIX.size : header_end]
            payload = data[header_end : start + need]
            start += need
            need = PREFIX.size
            try:
                if self.name:
                    self._link.took(self, header, payload)
                else:
                    self._link.opened(self, decode_hello(header))
            except msgspec.DecodeError as error:
                self._link.malformed(self, f"a frame without a valid header: {error}")
                return
        if not self._closed:
            self._unread.keep(data[start:], need)
