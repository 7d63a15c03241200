"""Files as chunks that the store keeps, made here: cut, compressed where that pays, named by their hash."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from blake3 import blake3

from skylift.wire.volumes import SentChunk

try:
    import zstandard
except ImportError:  # an image that has no zstandard: then chunks are sent as they are
    zstandard = None  # type: ignore[assignment]

_PAYS = 0.95
"""A chunk that is not smaller than this part of itself when it is compressed stays as it is."""
_thread = threading.local()


class MadeChunk(NamedTuple):
    """A chunk, and what is to be sent of it."""

    chunk: SentChunk
    data: bytes
    """Empty for zeros."""


def make_chunk(data: bytes) -> MadeChunk:
    """The chunk that these bytes of a file make. The same that the store itself makes of them."""
    if not any(data[:64]) and not data.strip(b"\0"):
        return MadeChunk(SentChunk("", len(data)), b"")
    kept, encoding = data, "raw"
    if zstandard is not None:
        compressed = _compressor().compress(data)
        if len(compressed) < _PAYS * len(data):
            kept, encoding = compressed, "zstd"
    blob = blake3(kept).hexdigest()
    return MadeChunk(SentChunk(blob, len(data), "zstd" if encoding == "zstd" else "raw", len(kept)), kept)


def _compressor() -> Any:
    compressor = getattr(_thread, "compressor", None)
    if compressor is None:
        compressor = _thread.compressor = zstandard.ZstdCompressor(level=1)
    return compressor
