"""Chunks of a snapshot into files again, by several threads: fetched, checked, decompressed, written.

The small files come first: CRIU reads them, and makes namespaces, mounts and processes while the pages still
come in.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from skylift.lazyfs.positioned_io import write_at
from skylift.lazyfs.store import Store
from skylift.runtime.snapshot_chunks import ChunkReader
from skylift.runtime.snapshot_errors import SnapshotError, SnapshotSpaceError
from skylift.runtime.snapshot_manifest import Manifest
from skylift.runtime.snapshot_packing import SMALL_FILE, WORKERS

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Unpacking:
    """A snapshot on its way into a folder."""

    def __init__(
        self, manifest: Manifest, name: str, folder: Path, store: Store, workers: int = WORKERS
    ) -> None:
        """`folder` must be there, empty, and where nobody else comes: it will hold the memory of processes,
        in files that all may read. `name` is the snapshot's, for messages. Does nothing yet."""
        self.small: Future[None] = Future()
        """Done when all files are there, and all but the large ones are whole."""
        self.whole: Future[None] = Future()
        """Done when all is. Both raise `SnapshotError`."""
        for future in (self.small, self.whole):
            future.set_running_or_notify_cancel()  # whoever waits for it cannot cancel it
        self._manifest = manifest
        self._name = name
        self._folder = folder
        self._chunks = ChunkReader(manifest, name, store)
        self._workers = workers
        self._pieces: list[list[tuple[int, int, int, int]]] = [[] for _ in manifest.chunks]
        """For each chunk: where, how long, in which file, and where there."""
        self._files: list[int] = []

    def start(self) -> None:
        """Begin, in threads of its own."""
        threading.Thread(target=self._run, name="unpack snapshot", daemon=True).start()

    def _run(self) -> None:
        try:
            self._make_files()
            small, large = self._order()
            with ThreadPoolExecutor(self._workers, "unpack snapshot") as pool:
                self._restore(pool, small)
                self.small.set_result(None)
                self._restore(pool, large)
            error: BaseException | None = None
        except OSError as problem:
            error = self._write_error(problem)
        except BaseException as problem:
            error = problem
        finally:
            for descriptor in self._files:
                os.close(descriptor)
        for future in (self.small, self.whole):
            if error is not None and not future.done():
                future.set_exception(error)
        if error is None:
            self.whole.set_result(None)

    def _make_files(self) -> None:
        for number, file in enumerate(self._manifest.files):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(self._folder / file.name, flags, 0o600)
            self._files.append(descriptor)
            os.fchmod(descriptor, 0o644)
            os.ftruncate(descriptor, file.size)
            for piece in file.pieces:
                self._pieces[piece.chunk].append((piece.at, piece.length, number, piece.offset))

    def _order(self) -> tuple[list[int], list[int]]:
        """The chunks of small files, and the others."""
        files = self._manifest.files
        small: list[int] = []
        large: list[int] = []
        for chunk, pieces in enumerate(self._pieces):
            first = any(files[file].size <= SMALL_FILE for _, _, file, _ in pieces)
            (small if first else large).append(chunk)
        return small, large

    def _restore(self, pool: ThreadPoolExecutor, chunks: Iterable[int]) -> None:
        for _ in pool.map(self._restore_chunk, chunks):
            pass

    def _restore_chunk(self, number: int) -> None:
        if not self._pieces[number]:
            return
        with memoryview(self._chunks.read(number)) as data:
            for at, length, file, offset in self._pieces[number]:
                write_at(self._files[file], data[at : at + length], offset)

    def _write_error(self, error: OSError) -> SnapshotError:
        if error.errno in _NO_ROOM:
            needed = self._manifest.unpacked / (1024 * 1024)
            return SnapshotSpaceError(
                f"No room to unpack snapshot {self._name[:16]} in {self._folder.parent}: it takes "
                f"{needed:,.1f} MiB. Free some space on that disk, or make snapshot_cache in [host] of "
                "config.toml smaller."
            )
        return SnapshotError(
            f"Snapshot {self._name[:16]} cannot be unpacked in {self._folder.parent}: {error.strerror}."
        )
