"""What is said to the daemon that serves layers, and what it answers: msgpack over a Unix socket."""

from __future__ import annotations

import socket
import struct
from typing import TypeAlias

import msgspec

_LENGTH = struct.Struct("<I")
_LONGEST = 64 << 20
"""Bytes: a trace has five for each chunk."""


class AddLayer(msgspec.Struct, tag=True, frozen=True):
    """Serve a layer; answered by `Added`. One that is served already stays."""

    layer: str


class RemoveLayer(msgspec.Struct, tag=True, frozen=True):
    """Serve it no more, answered by `Done`; what is here of it stays unless `forget`."""

    layer: str
    forget: bool = False


class GetStats(msgspec.Struct, tag=True, frozen=True):
    """Answered by `Stats`."""


class GetTrace(msgspec.Struct, tag=True, frozen=True):
    """Answered by `Trace`."""

    layer: str


class Prefetch(msgspec.Struct, tag=True, frozen=True):
    """Fetch these chunks in their order, in the background; answered by `Done` at once."""

    layer: str
    chunks: tuple[int, ...]


class Stop(msgspec.Struct, tag=True, frozen=True):
    """End; answered by `Done`, and then reads fail."""


class Added(msgspec.Struct, tag=True, frozen=True):
    """A layer is served."""

    file: str
    """The path of its image."""
    size: int
    """Bytes."""


class LayerStats(msgspec.Struct):
    """What one layer's copy on this host has seen; counts are of the serving process, unless it says so."""

    layer: str
    size: int
    """Bytes of the image."""
    chunks: int
    """Chunks of the image."""
    here: int = 0
    """Chunks on this disk, whoever brought them."""
    read_chunks: int = 0
    """Chunks that were ever read."""
    reads: int = 0
    read_bytes: int = 0
    pushed: int = 0
    """Chunks that the kernel was to be given whole."""
    fetched: int = 0
    """Chunks that came from the store."""
    fetched_bytes: int = 0
    spoiled: int = 0
    """Chunks on this disk that were not what they had been."""
    unkept: int = 0
    """Chunks for which this disk had no room."""
    failed: int = 0
    """Reads that failed."""
    flying: int = 0
    """Chunks on their way now."""


class Stats(msgspec.Struct, tag=True, frozen=True):
    """All layers that are served."""

    layers: tuple[LayerStats, ...]
    pid: int
    """Of the process that serves them now."""


class Trace(msgspec.Struct, tag=True, frozen=True):
    """A layer's chunks in the order in which they were first read on this host."""

    chunks: tuple[int, ...]


class Done(msgspec.Struct, tag=True, frozen=True):
    """It was done."""


class Failed(msgspec.Struct, tag=True, frozen=True):
    """It could not be done; why."""

    message: str


Asked: TypeAlias = AddLayer | RemoveLayer | GetStats | GetTrace | Prefetch | Stop
Answered: TypeAlias = Added | Stats | Trace | Done | Failed

_asked = msgspec.msgpack.Decoder(Asked)
_answered = msgspec.msgpack.Decoder(Answered)


def send(connection: socket.socket, message: Asked | Answered) -> None:
    """Raises OSError."""
    data = msgspec.msgpack.encode(message)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive_asked(connection: socket.socket) -> Asked | None:
    """What the other side asks; None when it has no more. Raises OSError and msgspec.DecodeError."""
    data = _receive(connection)
    return None if data is None else _asked.decode(data)


def receive_answered(connection: socket.socket) -> Answered | None:
    """What the daemon answers; None when it went away. Raises OSError and msgspec.DecodeError."""
    data = _receive(connection)
    return None if data is None else _answered.decode(data)


def _receive(connection: socket.socket) -> bytes | None:
    head = _exactly(connection, _LENGTH.size)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > _LONGEST:
        raise msgspec.DecodeError(f"a message of {length:,} bytes")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            return None
        data += more
    return bytes(data)
