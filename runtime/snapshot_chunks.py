"""Chunks of a snapshot, as they come from the store."""

from __future__ import annotations

import threading
from collections.abc import Callable

import zstandard

from skylift.lazyfs.store import BlobDamagedError, BlobMissingError, Bytes, Store
from skylift.runtime.snapshot_errors import SnapshotDamagedError, SnapshotError, SnapshotUnreachableError
from skylift.runtime.snapshot_manifest import Manifest


class ChunkReader:
    """Fetches, checks and decompresses. Thread-safe."""

    def __init__(self, manifest: Manifest, name: str, store: Store) -> None:
        """`name` is the snapshot's, for messages."""
        self._manifest = manifest
        self._name = name
        self._store = store
        self._thread = threading.local()

    def read(self, number: int) -> Bytes:
        """The bytes of a chunk. Raises `SnapshotDamagedError` and `SnapshotUnreachableError`."""
        chunk = self._manifest.chunks[number]
        if chunk.encoding == "raw":
            data = self._fetch(chunk.blob, self._store.view)
        else:
            compressed = self._fetch(chunk.blob, self._store.get)
            try:
                data = self._decompressor().decompress(compressed, max_output_size=chunk.length)
            except zstandard.ZstdError as error:
                raise self._damaged(f"blob {chunk.blob[:16]} is not compressed data ({error})") from error
        if len(data) != chunk.length:
            raise self._damaged(
                f"blob {chunk.blob[:16]} has {len(data):,} bytes where {chunk.length:,} were written"
            )
        return data

    def _fetch(self, blob: str, read: Callable[[str], Bytes]) -> Bytes:
        try:
            try:
                return read(blob)
            except BlobDamagedError:
                return read(blob)  # what a network or a cache has spoiled may be whole where it came from
        except (BlobDamagedError, BlobMissingError) as error:
            if not self._store.there():
                raise SnapshotUnreachableError(
                    f"Snapshot {self._name[:16]} cannot be read from the store now: it is not there."
                ) from error
            raise self._damaged(str(error).rstrip(".")) from error
        except OSError as error:
            raise SnapshotUnreachableError(
                f"Snapshot {self._name[:16]} cannot be read from the store now: {error.strerror or error}."
            ) from error

    def _damaged(self, what: str) -> SnapshotError:
        return SnapshotDamagedError(f"Snapshot {self._name[:16]} is damaged: {what}.")

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        """One for each thread, which it belongs to."""
        decompressor: zstandard.ZstdDecompressor | None = getattr(self._thread, "decompressor", None)
        if decompressor is None:
            decompressor = self._thread.decompressor = zstandard.ZstdDecompressor()
        return decompressor
