"""Sends what files have to the store: chunks that it lacks, some at a time, in several threads."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from skylift import exceptions
from skylift.volume_access import VolumeAccess
from skylift.volume_chunks import MadeChunk, make_chunk
from skylift.volume_progress import TransferProgress
from skylift.wire.volumes import CHUNK_BATCH, CHUNK_SIZE, INLINE_FILE, AskedChunk, SentChunk, SentEntry

_WORKERS = 4
_GROUP_PIECES = 500
_MOST_READS = 3
"""A file that changes while it is read is read so often."""
_TICK = 0.2


class LocalSource(NamedTuple):
    """A file of this machine, as it was when it was looked at."""

    path: Path
    status: os.stat_result


class StreamSource:
    """A file object, read once, from where it stands."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = _length(file)
        """About so many bytes; 0 where that is not known."""


class Planned(NamedTuple):
    """One entry, and where its bytes come from; None where it has none."""

    entry: SentEntry
    source: LocalSource | StreamSource | None


@dataclass
class _Reading:
    """A file that is being read."""

    planned: Planned
    size: int
    status: os.stat_result | None
    chunks: dict[int, SentChunk] = field(default_factory=dict)
    content: bytes = b""
    changed: bool = False


class _Piece(NamedTuple):
    file: _Reading
    number: int
    data: bytes | None
    """None: it is still to be read."""
    length: int


class Sender:
    """Sends files; used for one upload."""

    def __init__(self, access: VolumeAccess, progress: TransferProgress, stop: threading.Event) -> None:
        """Who sets `stop` ends it early."""
        self._access = access
        self._progress = progress
        self._stop = stop

    def send(self, planned: Sequence[Planned]) -> list[SentEntry]:
        """The entries to commit; their chunks are in the store.

        Raises `ConflictError` naming a file that is written to all the time, `InvalidError` for one that
        cannot be read, and what the gateway answers.
        """
        files = [one for one in planned if one.source is not None]
        self._progress.expect(len(files), sum(one.entry.size for one in files))
        done: dict[int, SentEntry] = {}
        waiting = list(enumerate(planned))
        for attempt in range(_MOST_READS):
            changed = self._round(waiting, done)
            if not changed:
                return [done[number] for number in range(len(planned))]
            if attempt + 1 < _MOST_READS:
                waiting = [(number, _looked_at_again(planned[number])) for number in changed]
        source = planned[changed[0]].source
        name = str(source.path) if isinstance(source, LocalSource) else "the file object"
        raise exceptions.ConflictError(
            f"{name} changed while it was being read, {_MOST_READS} times. Nothing was put into the volume; "
            "upload it when nothing writes to it"
        )

    def _round(self, waiting: Sequence[tuple[int, Planned]], done: dict[int, SentEntry]) -> list[int]:
        """Reads them all; the numbers of those that changed meanwhile."""
        readings: dict[int, _Reading] = {}

        def pieces() -> Iterator[_Piece]:
            for number, one in waiting:
                if one.source is None:
                    done[number] = one.entry
                    continue
                if isinstance(one.source, StreamSource):
                    readings[number] = reading = _Reading(one, 0, None)
                    yield from self._stream_pieces(reading, one.source.file)
                    continue
                status = one.source.status
                readings[number] = reading = _Reading(one, status.st_size, status)
                for at in range(0, max(status.st_size, 1), CHUNK_SIZE):
                    yield _Piece(reading, at // CHUNK_SIZE, None, min(CHUNK_SIZE, status.st_size - at))

        self._run(_grouped(pieces()))
        changed = []
        for number, reading in readings.items():
            if reading.changed:
                changed.append(number)
                continue
            chunks = tuple(reading.chunks[at] for at in range(len(reading.chunks)))
            done[number] = msgspec.structs.replace(
                reading.planned.entry, size=reading.size, content=reading.content, chunks=chunks
            )
        return changed

    def _run(self, groups: Iterator[list[_Piece]]) -> None:
        running: deque[Future[None]] = deque()
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="skylift-upload") as pool:
            try:
                for group in groups:
                    running.append(pool.submit(self._send_group, group))
                    while len(running) >= 2 * _WORKERS:
                        self._await(running)
                while running:
                    self._await(running)
            except BaseException:
                self._stop.set()
                raise
            finally:
                for future in running:
                    future.cancel()

    def _await(self, running: deque[Future[None]]) -> None:
        while True:
            self._progress.tick()
            if self._stop.is_set():
                raise exceptions.ConflictError("the upload was given up")
            if wait([running[0]], _TICK).done:
                running.popleft().result()
                return

    def _send_group(self, group: list[_Piece]) -> None:
        made: list[tuple[_Piece, MadeChunk]] = []
        for piece in group:
            if self._stop.is_set():
                return
            data = _read(piece) if piece.data is None else piece.data
            if data is None:
                piece.file.changed = True
                continue
            if piece.number == 0 and len(data) == piece.file.size <= INLINE_FILE:
                piece.file.content = data
                self._progress.advance(len(data), 1)
                continue
            made.append((piece, make_chunk(data)))
        self._put({one.chunk.blob: one for _, one in made if one.chunk.blob})
        for piece, one in made:
            piece.file.chunks[piece.number] = one.chunk
            last = (piece.number + 1) * CHUNK_SIZE >= piece.file.size
            self._progress.advance(one.chunk.length, 1 if last else 0)

    def _put(self, made: dict[str, MadeChunk]) -> None:
        if not made:
            return
        missing = self._access.missing([AskedChunk(blob, one.chunk.stored) for blob, one in made.items()])
        batch: list[bytes] = []
        size = 0
        for blob in sorted(missing):
            data = made[blob].data
            if batch and size + len(data) > CHUNK_BATCH:
                self._put_batch(batch, size)
                batch, size = [], 0
            batch.append(data)
            size += len(data)
        if batch:
            self._put_batch(batch, size)

    def _put_batch(self, batch: list[bytes], size: int) -> None:
        self._access.put_chunks(batch)
        self._progress.advance(sent=size)

    def _stream_pieces(self, reading: _Reading, file: BinaryIO) -> Iterator[_Piece]:
        number = 0
        while True:
            data = _whole(file.read, CHUNK_SIZE)
            if not data and number:
                return
            reading.size += len(data)
            yield _Piece(reading, number, data, len(data))
            number += 1
            if len(data) < CHUNK_SIZE:
                return


def _grouped(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    group: list[_Piece] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += piece.length
        if size >= CHUNK_BATCH - CHUNK_SIZE or len(group) >= _GROUP_PIECES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _read(piece: _Piece) -> bytes | None:
    """The piece's bytes; None where the file is not as it was."""
    source = piece.file.planned.source
    assert isinstance(source, LocalSource)
    assert piece.file.status is not None
    try:
        descriptor = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if piece.number == 0 and piece.file.size > CHUNK_SIZE:
                # Pages that are written through a mapping get their time with the next write behind this.
                os.fdatasync(descriptor)
            os.lseek(descriptor, piece.number * CHUNK_SIZE, os.SEEK_SET)
            data = _whole(lambda count: os.read(descriptor, count), piece.length)
            if len(data) < piece.length:
                return None
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise exceptions.ConflictError(
            f"{source.path} was removed while it was being uploaded. Nothing was put into the volume"
        ) from None
    except OSError as error:
        raise exceptions.InvalidError(f"{source.path} cannot be read: {error.strerror}") from None
    return data if _stamp(after) == _stamp(piece.file.status) else None


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    # The time of the change as well: that of the writing can be set back.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _looked_at_again(planned: Planned) -> Planned:
    source = planned.source
    if not isinstance(source, LocalSource):
        return planned
    try:
        status = os.stat(source.path)
    except OSError as error:
        raise exceptions.ConflictError(
            f"{source.path} was removed while it was being uploaded: {error.strerror}"
        ) from None
    entry = msgspec.structs.replace(planned.entry, size=status.st_size, mtime_ns=status.st_mtime_ns)
    return Planned(entry, LocalSource(source.path, status))


def _whole(read: Callable[[int], bytes], count: int) -> bytes:
    """So many bytes, or all that there are: one read may give less."""
    data = read(count)
    while data and len(data) < count:
        more = read(count - len(data))
        if not more:
            break
        data += more
    return data


def _length(file: BinaryIO) -> int:
    try:
        at = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(at)
    except (OSError, AttributeError, ValueError):
        return 0
    return max(end - at, 0)
