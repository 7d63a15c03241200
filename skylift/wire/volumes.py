"""What is sent to change a volume over the gateway's REST interface (see docs/volumes.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from skylift.wire.values import Payload, Struct

CHUNK_SIZE = 1 << 20
"""Bytes of a file that are one blob; the last one of a file may be shorter."""

CHUNK_BATCH = 8 * 1024 * 1024
"""Bytes of chunks that are sent in one request, at most."""

CHUNK_QUESTION = 2000
"""Chunks that are asked for in one request, at most."""

INLINE_FILE = 512
"""Bytes: a file up to this size has no chunks."""


class SentChunk(msgspec.Struct, frozen=True, array_like=True):
    """One chunk of a file that is sent."""

    blob: str
    """Its BLAKE3 as it is in the store; "" for zeros, which are not stored."""
    length: int
    """Bytes of the file."""
    encoding: Literal["raw", "zstd"] = "raw"
    stored: int = 0
    """Bytes in the store."""


class SentEntry(msgspec.Struct, frozen=True, array_like=True):
    """A file, directory or symlink that is to be in a volume."""

    path: bytes
    kind: Literal["file", "dir", "link"]
    mode: int = 0o644
    """Permission bits."""
    mtime_ns: int = 0
    size: int = 0
    """Bytes of the file."""
    content: bytes = b""
    """Of a file up to `INLINE_FILE` what is in it; of a symlink where it leads."""
    chunks: tuple[SentChunk, ...] = ()
    """Of a larger file what is in it. The chunks are in the store already."""


class CommitBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of ``POST /v1/volumes/NAME/commits``, as JSON."""

    entries: Payload
    """`encode_entries` of them, in the store where that is large."""
    force: bool = False
    """Whether files that are there are replaced."""
    message: str = ""


class AskedChunk(msgspec.Struct, frozen=True, array_like=True):
    """One of those that ``POST /v1/chunks/missing`` asks for."""

    blob: str
    stored: int


def encode_entries(entries: Sequence[SentEntry]) -> bytes:
    """As bytes."""
    return msgspec.msgpack.encode(entries)


def decode_entries(data: bytes) -> list[SentEntry]:
    """From bytes. Raises msgspec.DecodeError for what is something else."""
    return _entries.decode(data)


_entries = msgspec.msgpack.Decoder(list[SentEntry])
