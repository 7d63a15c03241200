"""What a runner says, and the frames that its link is made of (see docs/protocol.md)."""

from __future__ import annotations

import contextlib
import mmap
import struct
import tempfile
from pathlib import Path
from typing import IO, Any, TypeAlias

import msgspec

PREFIX = struct.Struct(">IQ")
"""Ahead of each frame: the lengths of its header and its payload."""

_JOIN_LIMIT = 256 * 1024
_MEMORY_LIMIT = 16 * 1024 * 1024
"""Bytes of a frame that has not come whole; a larger one waits in a file."""

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
_KNOWN = frozenset({"ready", "started", "need", "events", "recalled", "ack"})


def decode_hello(header: memoryview) -> Hello:
    """Raises `msgspec.DecodeError`."""
    return _hello.decode(header)


def decode_data(header: memoryview) -> DataMessage | None:
    """None for what a newer runner may say and this host does not know. Raises `msgspec.DecodeError`."""
    try:
        return _data.decode(header)
    except msgspec.ValidationError:
        if is_known(header):
            raise
        return None


def decode_control(header: memoryview) -> Recalled | Ack | None:
    """The same for the control connection."""
    try:
        return _control.decode(header)
    except msgspec.ValidationError:
        if is_known(header):
            raise
        return None


def is_known(header: memoryview) -> bool:
    """Whether it claims to be a message that this host knows."""
    return _any.decode(header).get("t") in _KNOWN


def encode_frame(header: dict[str, Any], payload: Buffer = b"") -> tuple[Buffer, ...]:
    """A frame, in pieces to be sent one after another; a large payload is not copied."""
    head = _encoder.encode(header)
    prefix = PREFIX.pack(len(head), len(payload))
    if len(payload) <= _JOIN_LIMIT:
        return (b"".join((prefix, head, payload)),)
    return (prefix + head, payload)


class Unread:
    """Bytes of a connection that were read, and are to be cut into frames once `need` of them are there."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where a large frame waits for its last byte."""
        self.have = 0
        self.need = PREFIX.size
        self._folder = folder
        self._chunks: list[bytes] = []
        self._file: IO[bytes] | None = None

    def add(self, data: bytes) -> None:
        """Take in what one read brought."""
        if self._file is not None:
            try:
                _write(self._file, data)
                self.have += len(data)
                return
            except OSError:
                # There is no room: so it will be in the store, where that is said to whom it concerns.
                self._chunks = [self._pages()[:]]
        self._chunks.append(data)
        self.have += len(data)

    def take(self) -> memoryview:
        """All of it. It stays valid; `keep` follows with what is left."""
        if self._file is not None:
            return memoryview(self._pages())
        return memoryview(self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks))

    def keep(self, rest: memoryview, need: int) -> None:
        """The part of `take` that is no whole frame, and how many bytes that frame has."""
        self.have = len(rest)
        self.need = need
        self._chunks = [bytes(rest)] if rest else []
        if need > _MEMORY_LIMIT:
            with contextlib.suppress(OSError):
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
                _write(self._file, rest)
                self._chunks = []

    def clear(self) -> None:
        """Forget it all."""
        self._chunks = []
        self.have = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _pages(self) -> mmap.mmap:
        """What is in the file, which is one no more."""
        assert self._file is not None
        with self._file as file:
            self._file = None
            return mmap.mmap(file.fileno(), self.have, access=mmap.ACCESS_READ)


def _write(file: IO[bytes], data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
