"""Files of a snapshot into chunks.

A chunk is at most `CHUNK` bytes, compressed where that pays, and a blob of the store: so it is checked by its
hash before it is used, and kept once. Small files share chunks. Of large ones runs of zeros are left out, and
chunks begin where long runs of neighbouring pages begin (`criu_images.page_runs`), so that an array that has
not changed since the last snapshot of a session is not written again.
"""

from __future__ import annotations

import mmap
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import zstandard

from skylift.lazyfs.store import Bytes
from skylift.runtime.snapshot_manifest import Chunk, Encoding, Piece, SnapshotFile

CHUNK = 2 * 1024 * 1024
SHORT_CHUNK = 256 * 1024
"""A chunk that is as long ends where a run of pages ends."""
SMALL_FILE = 256 * 1024
ZERO_RUN = 64 * 1024
"""So many zeros, aligned, are left out."""
LEVEL = 1
"""Of zstd: leaves a sixth of memory with PyTorch in it, at 600 MB/s on one core; level 3 a seventh at 400."""
PAYS = 0.9
"""What compressing leaves more of is stored as it is."""

WORKERS = min(4, len(os.sched_getaffinity(0)))
"""Threads. Compressing, hashing and writing let go of the interpreter's lock."""

_ZEROS = bytes(ZERO_RUN)
_thread = threading.local()

Put = Callable[[Bytes], str]
"""Keeps a blob and returns its name. Called by several threads."""


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """What `pack` has made."""

    chunks: tuple[Chunk, ...]
    files: tuple[SnapshotFile, ...]
    stored: int
    """Bytes of the blobs, each counted once."""


class _Part(msgspec.Struct, frozen=True):
    """Bytes of a file that go into a chunk."""

    file: int
    offset: int
    length: int


def pack(folder: Path, put: Put, runs: Mapping[str, Sequence[int]], workers: int = WORKERS) -> Packed:
    """Write the files that lie in `folder`. `runs` are offsets in them where a chunk may well begin.

    Raises OSError, and whatever `put` raises; nothing is written after that.
    """
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    sizes = [path.stat().st_size for path in paths]
    pieces: list[list[Piece]] = [[] for _ in paths]
    chunks: list[Chunk] = []
    stored: dict[str, int] = {}
    with ThreadPoolExecutor(workers) as pool:
        plan = _plan(paths, sizes, runs)
        for written in pool.map(lambda parts: _write_chunk(paths, parts, put), plan):
            if written is None:
                continue
            chunk, size, kept = written
            at = 0
            for part in kept:
                pieces[part.file].append(Piece(part.offset, part.length, len(chunks), at))
                at += part.length
            chunks.append(chunk)
            stored[chunk.blob] = size
    files = [
        SnapshotFile(name=path.name, size=size, pieces=tuple(its))
        for path, size, its in zip(paths, sizes, pieces, strict=True)
    ]
    return Packed(chunks=tuple(chunks), files=tuple(files), stored=sum(stored.values()))


def _plan(
    paths: Sequence[Path], sizes: Sequence[int], runs: Mapping[str, Sequence[int]]
) -> Iterator[tuple[_Part, ...]]:
    """What goes into each chunk."""
    together: list[_Part] = []
    for number, size in enumerate(sizes):
        if not 0 < size <= SMALL_FILE:
            continue
        if sum(part.length for part in together) + size > CHUNK:
            yield tuple(together)
            together = []
        together.append(_Part(number, 0, size))
    if together:
        yield tuple(together)
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        if size > SMALL_FILE:
            for begin, end in chunk_bounds(size, runs.get(path.name, ())):
                yield (_Part(number, begin, end - begin),)


def chunk_bounds(size: int, runs: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where the chunks of a file of `size` bytes begin and end; `runs` as `pack` has them, ascending."""
    starts = [*runs, size]
    begin = 0
    while begin < size:
        end = min(begin + CHUNK, size)
        for index in range(bisect_right(starts, begin), len(starts) - 1):
            start = starts[index]
            if start >= end:
                break
            if start - begin >= SHORT_CHUNK or starts[index + 1] - start >= CHUNK:
                end = start
                break
        yield begin, end
        begin = end


def _write_chunk(
    paths: Sequence[Path], parts: tuple[_Part, ...], put: Put
) -> tuple[Chunk, int, list[_Part]] | None:
    """The chunk, its size in the store, and what it holds, in its order; None where all is zeros."""
    kept: list[_Part] = []
    data = bytearray()
    for part in parts:
        with (
            paths[part.file].open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as whole,
        ):
            for begin, end in _not_zeros(whole, part.offset, part.offset + part.length):
                kept.append(_Part(part.file, begin, end - begin))
                data += whole[begin:end]
    if not data:
        return None
    compressed = _compressor().compress(data)
    encoding: Encoding = "zstd" if len(compressed) < PAYS * len(data) else "raw"
    written: Bytes = compressed if encoding == "zstd" else data
    return Chunk(put(written), encoding, len(data)), len(written), kept


def _not_zeros(view: memoryview, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The stretches of `view` in these bounds that are left without its runs of zeros."""
    kept = at = begin
    while at < end:
        step = min(ZERO_RUN, end - at)
        if view[at : at + step] == _ZEROS[:step]:
            if kept < at:
                yield kept, at
            kept = at + step
        at += step
    if kept < end:
        yield kept, end


def _compressor() -> zstandard.ZstdCompressor:
    """One for each thread, which it belongs to."""
    compressor: zstandard.ZstdCompressor | None = getattr(_thread, "compressor", None)
    if compressor is None:
        compressor = _thread.compressor = zstandard.ZstdCompressor(level=LEVEL)
    return compressor
