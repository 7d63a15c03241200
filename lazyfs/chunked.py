"""Files in the store as chunks of 1 MiB, so that a part of one is read without the rest.

`write_chunks` cuts a file, compresses each chunk where that pays, and sends those that the store lacks: what
was sent before, of this file or any other, is not sent again, so that a write which broke off goes on where
it was. What comes out is a `ChunkedFile`, which is small and is kept wherever the caller keeps such things.
`ChunkedReader` reads ranges of it.

::

    StoreError
    ├── ChangedError         a file changed while it was being read
    └── ChunkedFormatError   bytes that are no chunked file, or one that contradicts itself
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

import msgspec
import zstandard

from skylift.lazyfs.positioned_io import write_at
from skylift.lazyfs.store import (
    BlobDamagedError,
    BlobMissingError,
    Bytes,
    Store,
    StoreError,
    blob_name,
)

CHUNK_SIZE = 1 << 20
"""Bytes; the last chunk of a file may be shorter."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called in the thread that writes, with how many bytes are done and how many there are; of a stream whose
length is not known, the second is what was read so far."""

_WORKERS = 4
_ZEROS = bytes(CHUNK_SIZE)
_PAYS = 0.95
"""A chunk that is not smaller than this part of itself when it is compressed stays as it is."""
_HEX = frozenset("0123456789abcdef")


class ChangedError(StoreError):
    """A file changed while it was being read, so that what was read never was its content."""

    def __init__(self, name: str, how: str) -> None:
        super().__init__(
            f"{name} changed while it was being read: {how}. Nothing was kept under its name; try again when "
            "nothing writes to it."
        )
        self.name = name


class ChunkedFormatError(StoreError):
    """Bytes that are no chunked file, or one that contradicts itself."""


class Chunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One chunk of a file."""

    blob: str
    """In the store; "" for zeros, which are not stored."""
    length: int
    """Bytes in the file."""
    encoding: Literal["raw", "zstd"] = "raw"


class ChunkedFile(msgspec.Struct, frozen=True, tag_field="kind", tag="chunked-1"):
    """What a file is made of."""

    size: int
    """Bytes."""
    chunks: tuple[Chunk, ...]
    """In their order; every one but the last is `chunk_size` long."""
    chunk_size: int = CHUNK_SIZE

    @property
    def blobs(self) -> Iterator[str]:
        """The blobs that it needs; one may come several times."""
        return (chunk.blob for chunk in self.chunks if chunk.blob)


def encode(file: ChunkedFile) -> bytes:
    """As bytes, the same for equal files."""
    return msgspec.msgpack.encode(file)


def decode(data: Bytes) -> ChunkedFile:
    """From bytes that `encode` made. Raises `ChunkedFormatError`."""
    try:
        file = _decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ChunkedFormatError(f"These bytes are not a chunked file: {error}.") from error
    problem = _contradiction(file)
    if problem:
        raise ChunkedFormatError(f"This chunked file contradicts itself: {problem}.")
    return file


_decoder = msgspec.msgpack.Decoder(ChunkedFile)


def _contradiction(file: ChunkedFile) -> str:
    if not 0 < file.chunk_size <= 64 * CHUNK_SIZE:
        return f"its chunks are of {file.chunk_size:,} bytes"
    if file.size < 0 or len(file.chunks) != -(-file.size // file.chunk_size):
        return f"{file.size:,} bytes in {len(file.chunks):,} chunks of {file.chunk_size:,}"
    left = file.size
    for number, chunk in enumerate(file.chunks):
        if chunk.length != min(left, file.chunk_size):
            return f"chunk {number} has {chunk.length:,} bytes"
        if chunk.blob and (len(chunk.blob) != 64 or not _HEX.issuperset(chunk.blob)):
            return f"chunk {number} is in {chunk.blob[:80]!r}, which is not the name of a blob"
        left -= chunk.length
    return ""


def write_chunks(
    source: Path | BinaryIO,
    store: Store,
    *,
    durable: bool = False,
    workers: int = _WORKERS,
    progress: Progress | None = None,
    retry_changed: bool = False,
    chunk_size: int = CHUNK_SIZE,
) -> ChunkedFile:
    """Put a file's bytes in the store, as chunks.

    A file object is read from where it stands to its end. At most ``2 * workers`` chunks are in memory. With
    `durable`, they outlive a power failure once this returns. With `retry_changed`, a file (by its path) that
    changes meanwhile is read a second time before that is an error. `chunk_size` is in bytes.

    Raises `ChangedError`, OSError where the file cannot be read, and what `store` raises.
    """
    if not isinstance(source, Path):
        return _write_once(source, store, durable, workers, progress, chunk_size)
    try:
        with source.open("rb") as file:
            return _write_once(file, store, durable, workers, progress, chunk_size)
    except ChangedError:
        if not retry_changed:
            raise
    with source.open("rb") as file:
        return _write_once(file, store, durable, workers, progress, chunk_size)


def write_small(data: bytes, store: Store) -> ChunkedFile:
    """The same for bytes that make one chunk, without threads: for many small files.

    Raises ValueError for more than `CHUNK_SIZE` bytes, and what `store` raises.
    """
    if len(data) > CHUNK_SIZE:
        raise ValueError(f"{len(data):,} bytes are more than one chunk")
    return ChunkedFile(len(data), (_Sender(store).send(data),) if data else ())


class _State(NamedTuple):
    """What shows that a file was written to."""

    device: int
    inode: int
    size: int
    modified: int

    def difference(self, now: _State) -> str:
        if self.size != now.size:
            return f"its size went from {self.size:,} to {now.size:,} bytes"
        return "it was written to" if self[:2] == now[:2] else "another file took its place"


def _state(of: int | str) -> _State | None:
    """None for what is not an ordinary file."""
    found = os.stat(of)
    if not stat.S_ISREG(found.st_mode):
        return None
    return _State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _write_once(
    file: BinaryIO,
    store: Store,
    durable: bool,
    workers: int,
    progress: Progress | None,
    chunk_size: int,
) -> ChunkedFile:
    name = str(getattr(file, "name", "the stream"))
    try:
        descriptor = file.fileno()
    except (OSError, AttributeError):  # UnsupportedOperation is an OSError: it is in memory
        descriptor = -1
    before = _state(descriptor) if descriptor >= 0 else None
    sender = _Sender(store)
    if before is None:
        pieces = _stream_pieces(file, sender, chunk_size)
        total = 0
    else:
        start = min(file.tell(), before.size)
        pieces = _file_pieces(descriptor, start, before.size, sender, name, chunk_size)
        total = before.size - start
    chunks: list[Chunk] = []
    done = 0
    for chunk in _in_order(pieces, workers):
        chunks.append(chunk)
        done += chunk.length
        if progress is not None:
            progress(done, max(total, done))
    if before is not None:
        file.seek(before.size)
        # The path as well: a writer that renames a new file over it leaves the open one as it was.
        after = _state(descriptor)
        if after == before and isinstance(file.name, str):
            with contextlib.suppress(FileNotFoundError):
                after = _state(file.name)
        if after != before:
            raise ChangedError(name, before.difference(after) if after else "it is no ordinary file now")
    if durable:
        store.settle()  # those that were found as well
    return ChunkedFile(done, tuple(chunks), chunk_size)


_Piece: TypeAlias = Callable[[], Chunk]


def _file_pieces(
    descriptor: int, start: int, end: int, sender: _Sender, name: str, chunk_size: int
) -> Iterator[_Piece]:
    """What makes the chunks of an ordinary file: each is read by the worker that sends it."""

    def piece(offset: int, length: int) -> _Piece:
        def run() -> Chunk:
            data = _pread(descriptor, offset, length)
            if len(data) != length:
                raise ChangedError(name, f"it became shorter than {offset + length:,} bytes")
            return sender.send(data)

        return run

    data_from = -1  # where there is data again, behind a hole
    for offset in range(start, end, chunk_size):
        length = min(chunk_size, end - offset)
        if data_from < offset:
            data_from = _next_data(descriptor, offset, end)
        if data_from >= offset + length:
            hole = Chunk("", length)
            yield lambda hole=hole: hole  # type: ignore[misc]  # the default argument is bound here
        else:
            yield piece(offset, length)


def _next_data(descriptor: int, offset: int, end: int) -> int:
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        # ENXIO: only a hole is left. Anything else: this file system does not say.
        return end if error.errno == 6 else offset


def _pread(descriptor: int, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _stream_pieces(file: BinaryIO, sender: _Sender, chunk_size: int) -> Iterator[_Piece]:
    while True:
        data = file.read(chunk_size)
        while data and len(data) < chunk_size:  # a pipe or a socket hands out less than there is
            more = file.read(chunk_size - len(data))
            if not more:
                break
            data += more
        if not data:
            return
        yield lambda data=data: sender.send(data)  # type: ignore[misc]  # bound here, as above


def _in_order(pieces: Iterator[_Piece], workers: int) -> Iterator[Chunk]:
    """Run them in threads, a few ahead of the one that is waited for."""
    running: deque[Future[Chunk]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="chunks") as pool:
        try:
            for piece in pieces:
                running.append(pool.submit(piece))
                if len(running) >= 2 * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


class _Sender:
    """Compresses and puts. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = threading.local()
        self._there: set[str] = set()
        """Put or found by this write: not asked for again."""

    def send(self, data: bytes) -> Chunk:
        if data == (_ZEROS if len(data) == CHUNK_SIZE else _ZEROS[: len(data)]):
            return Chunk("", len(data))
        compressed = self._compressor().compress(data)
        pays = len(compressed) < _PAYS * len(data)
        kept = compressed if pays else data
        blob = blob_name(kept)
        if blob not in self._there:
            if not self._has_whole(blob, len(kept)):
                self._store.put(kept)
            self._there.add(blob)
        return Chunk(blob, len(data), "zstd" if pays else "raw")

    def _has_whole(self, blob: str, length: int) -> bool:
        # Not `has`: a power failure may have left a part of a blob.
        try:
            return self._store.size(blob) == length
        except BlobMissingError:
            return False

    def _compressor(self) -> zstandard.ZstdCompressor:
        compressor: zstandard.ZstdCompressor | None = getattr(self._thread, "compressor", None)
        if compressor is None:
            compressor = self._thread.compressor = zstandard.ZstdCompressor(level=1)
        return compressor


class ChunkedReader:
    """Reads ranges of one chunked file. Thread-safe."""

    def __init__(self, file: ChunkedFile, store: Store, *, kept: int = 4) -> None:
        """`kept`: how many chunks that were read last stay in memory, since reads are often smaller."""
        self.file = file
        self._store = store
        self._kept = kept
        self._recent: OrderedDict[int, Bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._thread = threading.local()

    def read_range(self, offset: int, length: int) -> bytes:
        """The bytes there; fewer where the file ends before.

        A damaged chunk is fetched a second time. Raises `BlobDamagedError` where that is damaged too, and
        `BlobMissingError`.
        """
        if offset < 0 or length < 0:
            raise ValueError(f"a range of {length} bytes from {offset} cannot be read")
        end = min(offset + length, self.file.size)
        if offset >= end:
            return b""
        size = self.file.chunk_size
        parts = []
        for number in range(offset // size, (end - 1) // size + 1):
            begin = number * size
            data = self.chunk(number)
            parts.append(memoryview(data)[max(offset - begin, 0) : end - begin])
        return b"".join(parts)

    def chunk(self, number: int) -> Bytes:
        """One whole chunk. Raises as `read_range` does."""
        with self._lock:
            if number in self._recent:
                self._recent.move_to_end(number)
                return self._recent[number]
        data = self._fetch(self.file.chunks[number])
        with self._lock:
            self._recent[number] = data
            while len(self._recent) > self._kept:
                self._recent.popitem(last=False)
        return data

    def copy_to(self, path: Path, *, workers: int = _WORKERS, progress: Progress | None = None) -> None:
        """Write the whole file to `path`, which is made or replaced in place; zeros become holes.

        Raises as `read_range` does, and OSError; what was written by then is left there.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, self.file.size)
            done = 0
            for chunk in _in_order(self._copy_pieces(descriptor), workers):
                done += chunk.length
                if progress is not None:
                    progress(done, self.file.size)
        finally:
            os.close(descriptor)

    def _copy_pieces(self, descriptor: int) -> Iterator[_Piece]:
        def piece(number: int) -> _Piece:
            def run() -> Chunk:
                chunk = self.file.chunks[number]
                if chunk.blob:
                    write_at(descriptor, self._fetch(chunk), number * self.file.chunk_size)
                return chunk

            return run

        return (piece(number) for number in range(len(self.file.chunks)))

    def _fetch(self, chunk: Chunk) -> Bytes:
        if not chunk.blob:
            return _ZEROS if chunk.length == CHUNK_SIZE else bytes(chunk.length)
        try:
            data = self._store.get(chunk.blob)
        except BlobDamagedError as damaged:
            # What a network or a cache has spoiled may be whole where it came from.
            try:
                data = self._store.get(chunk.blob)
            except BlobMissingError:  # it was the only one, and was removed
                raise damaged from None
        if chunk.encoding == "zstd":
            data = self._decompress(chunk, data)
        if len(data) != chunk.length:
            raise ChunkedFormatError(
                f"Blob {chunk.blob} has {len(data):,} bytes where this file has {chunk.length:,}: it is not "
                "what was written of it."
            )
        return data

    def _decompress(self, chunk: Chunk, data: bytes) -> bytes:
        decompressor: zstandard.ZstdDecompressor | None = getattr(self._thread, "decompressor", None)
        if decompressor is None:
            decompressor = self._thread.decompressor = zstandard.ZstdDecompressor()
        try:
            # What the frame says of itself comes first: it would be allocated.
            if zstandard.frame_content_size(data) != chunk.length:
                raise zstandard.ZstdError("another length is written in it")
            return decompressor.decompress(data)
        except zstandard.ZstdError as error:
            raise ChunkedFormatError(
                f"Blob {chunk.blob} does not decompress to {chunk.length:,} bytes: {error}."
            ) from error


def read_range(file: ChunkedFile, store: Store, offset: int, length: int) -> bytes:
    """One range of a file, for who reads it once. See `ChunkedReader.read_range`."""
    return ChunkedReader(file, store, kept=0).read_range(offset, length)
