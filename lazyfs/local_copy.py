"""A layer's image on this host: of its chunks, those that were read, in a sparse file.

Beside the file lies a record of 8 bytes for each chunk, a part of the BLAKE3 of its bytes there. It is
written after the bytes, and compared when a process needs the chunk for the first time: so what a crash left
half written, and what the disk has spoiled since, is fetched again and never served.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from blake3 import blake3

from skylift.lazyfs.chunked import ChunkedFile, ChunkedReader
from skylift.lazyfs.daemon_messages import LayerStats
from skylift.lazyfs.fetching import Fetching, Flight, Waiting
from skylift.lazyfs.positioned_io import write_at
from skylift.lazyfs.pushing import Pushing
from skylift.lazyfs.served_files import Reply, ServedFile
from skylift.lazyfs.store import Bytes, Store

log = logging.getLogger(__name__)

_RECORD = 8
_NUMBER = struct.Struct("<I")
_NEAR, _FAR = 1, 4
"""Chunks that are fetched ahead of a read; far where the one before was read too, and where the first of
those that were fetched ahead is read in its turn."""
_SLOW = 0.004
"""Seconds for a chunk, beyond which it is the way to the store that takes time, and not the bytes."""
_MORE = 4
"""So many times more is fetched ahead from such a store: what nobody needs costs little there."""
_UNKEPT = 32
"""Chunks kept in memory where the disk has no room for them."""


class LocalCopy(ServedFile):
    """One layer's image, as far as it is here; the rest is fetched when it is read. Thread-safe."""

    def __init__(
        self,
        layer: str,
        file: ChunkedFile,
        store: Store,
        folder: Path,
        fetching: Fetching,
        pushing: Pushing | None = None,
    ) -> None:
        """What `folder` (made where it is missing) holds of this layer already is used. Raises OSError."""
        self.layer = layer
        self.size = file.size
        self.node = (int(layer[:15], 16) << 1) + 2  # 0 is no node, 1 the folder
        self._file = file
        self._reader = ChunkedReader(file, store, kept=0)
        self._fetching = fetching
        self._pushing = pushing
        self._wanted_whole: set[int] = set()
        """Chunks that another host has read: the kernel is given them before it asks."""
        self._next_ahead: dict[int, int] = {}
        """By the first chunk of those that were fetched ahead: where the next ones begin."""
        self._fresh = bytearray(len(file.chunks))
        """1: it was fetched by this process."""
        self._fetch_seconds = 0.0
        """That a chunk took of late."""
        self._pushed = bytearray(len(file.chunks))
        """1: the kernel was given the whole chunk. (It may have dropped it since, and asks then.)"""
        self._lock = threading.Lock()
        self._flights: dict[int, Flight] = {}
        self._unkept: OrderedDict[int, Bytes] = OrderedDict()
        self._ready = bytearray(len(file.chunks))
        """1: the file's bytes are right, and were looked at by this process."""
        self._stats = LayerStats(layer, file.size, len(file.chunks))
        self._closed = False
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            self._data = _open(opened, folder / "data")
            os.ftruncate(self._data, file.size)
            records = _open(opened, folder / "have")
            length = _RECORD * max(1, len(file.chunks))
            if os.fstat(records).st_size != length:
                # In full: a hole that cannot be filled later is a SIGBUS.
                os.ftruncate(records, 0)
                os.pwrite(records, bytes(length), 0)
            self._have = opened.enter_context(mmap.mmap(records, length))
            self._order_file = _open(opened, folder / "order", os.O_APPEND)
            self._opened = opened.pop_all()
        self._order = self._read_order()
        self._seen = set(self._order)

    def read(self, offset: int, length: int, reply: Reply) -> None:
        """See `ServedFile.read`."""
        size = self._file.chunk_size
        touched = range(offset // size, (offset + length - 1) // size + 1)
        self._note(touched, length)
        self._go_on_ahead(touched)
        missing = [number for number in touched if not self._here(number)]
        if not missing:
            try:
                reply(_pread(self._data, offset, length))
                # What was on this disk already, the kernel reads ahead as it thinks right.
                self._push(number for number in touched if self._fresh[number])
                return
            except OSError as error:
                log.error("The local copy of layer %s cannot be read (%s): fetching again", self.layer, error)
                missing = list(touched)
                for number in missing:
                    self._forget(number)
        flights = [self._flight(number) for number in missing]

        def done(results: Sequence[Bytes | None]) -> None:
            reply(self._assemble(offset, length, dict(zip(missing, results, strict=True))))
            self._push(number for number, data in zip(missing, results, strict=True) if data is not None)

        def failed(error: BaseException) -> None:
            self._stats.failed += 1
            log.error("A read of layer %s at %d fails: %s", self.layer, offset, error)
            reply(OSError(errno.EIO, str(error)))

        self._fetching.wait(Waiting(flights, done, failed))
        self._read_ahead(missing)

    def prefetch(self, chunks: Iterable[int]) -> int:
        """Fetch these in their order, in the background; returns how many are not here yet."""
        numbers = [number for number in chunks if 0 <= number < len(self._ready)]
        self._wanted_whole.update(numbers)
        self._push(number for number in numbers if self._ready[number])
        return self._bring_ahead(numbers)

    def _bring_ahead(self, numbers: Iterable[int]) -> int:
        count = 0
        for number in numbers:
            if not self._here(number):
                self._flight(number, ahead=True)
                count += 1
        return count

    def trace(self) -> list[int]:
        """The chunks that were read, in the order of their first reads."""
        with self._lock:
            return list(self._order)

    def stats(self) -> LayerStats:
        """What happened so far in this process; `LayerStats.here` counts all that is here."""
        with self._lock:
            here = sum(
                any(self._have[_RECORD * number : _RECORD * (number + 1)]) or not chunk.blob
                for number, chunk in enumerate(self._file.chunks)
            )
            self._stats.here = here
            self._stats.read_chunks = len(self._order)
            self._stats.flying = len(self._flights)
            return LayerStats(**{name: getattr(self._stats, name) for name in LayerStats.__struct_fields__})

    def close(self) -> None:
        """Let go of the files; reads that are under way fail."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            flights = list(self._flights.values())
        # What runs uses the descriptors.
        running = [flight for flight in flights if not flight.future.cancel()]
        for flight in running:
            flight.landed.wait(self._fetching.patience)
        self._opened.close()

    def _push(self, numbers: Iterable[int]) -> None:
        """Give the kernel whole chunks of which it has asked for a part, since it will ask for more."""
        if self._pushing is None:
            return
        for number in numbers:
            if not self._pushed[number] and self._file.chunks[number].blob:
                self._pushed[number] = 1
                self._stats.pushed += 1
                self._pushing.push(self.node, number * self._file.chunk_size, partial(self._bytes_of, number))

    def _bytes_of(self, number: int) -> Bytes | None:
        """A chunk that is here; None where it is not (its writing failed, say)."""
        with self._lock:
            flight = self._flights.get(number)
        if flight is not None:
            return flight.future.result() if flight.future.done() and not flight.future.cancelled() else None
        if self._closed or not self._ready[number]:
            return None
        return _pread(self._data, number * self._file.chunk_size, self._file.chunks[number].length)

    def _here(self, number: int) -> bool:
        return bool(self._ready[number]) or not self._file.chunks[number].blob

    def _note(self, touched: range, length: int) -> None:
        self._stats.reads += 1
        self._stats.read_bytes += length
        if self._seen.issuperset(touched):
            return
        with self._lock:
            for number in touched:
                if number not in self._seen:
                    self._seen.add(number)
                    self._order.append(number)
                    with contextlib.suppress(OSError):  # a full disk is no reason to fail a read
                        os.write(self._order_file, _NUMBER.pack(number))

    def _read_order(self) -> list[int]:
        data = os.pread(self._order_file, _NUMBER.size * 4 * (len(self._ready) + 1), 0)
        whole = len(data) - len(data) % _NUMBER.size
        numbers = (number for (number,) in _NUMBER.iter_unpack(data[:whole]))
        return list(dict.fromkeys(number for number in numbers if number < len(self._ready)))

    def _read_ahead(self, missing: Sequence[int]) -> None:
        self._ahead_from(missing[-1] + 1, _FAR if missing[0] - 1 in self._seen else _NEAR)

    def _go_on_ahead(self, touched: range) -> None:
        """What was fetched ahead is read: so will be what follows, and nobody should have to wait for it."""
        for number in touched:
            start = self._next_ahead.pop(number, None)
            if start is not None:
                self._ahead_from(start, _FAR)

    def _ahead_from(self, start: int, count: int) -> None:
        """Fetch so many from there, or more where the store is far."""
        if self._fetch_seconds > _SLOW:
            count *= _MORE
        end = min(start + count, len(self._ready))
        if start < end:
            self._next_ahead[start] = end
            self._bring_ahead(range(start, end))

    def _flight(self, number: int, *, ahead: bool = False) -> Flight:
        """What has one chunk verified or fetched, and is under way if that is for `ahead`; who waits for the
        chunk already gets the same."""
        with self._lock:
            flight = self._flights.get(number)
            if flight is None:
                flight = Flight(lambda: self._bring(number), lambda data: self._land(number, data))
                if self._closed:
                    flight.future.set_exception(OSError(errno.EIO, "the layer was removed"))
                    return flight
                self._flights[number] = flight
                if ahead:
                    self._fetching.start_ahead(flight)
        return flight

    def _land(self, number: int, data: Bytes | None) -> None:
        """Put a chunk on the disk. Its readers have been answered; until then they get it from memory."""
        try:
            if data is not None and not self._closed:
                write_at(self._data, data, number * self._file.chunk_size)
                self._have[_RECORD * number : _RECORD * (number + 1)] = _record(data)
                self._fresh[number] = self._ready[number] = 1
                if number in self._wanted_whole:
                    self._push((number,))
        except OSError as error:
            assert data is not None
            self._keep_in_memory(number, data, error)
        finally:
            with self._lock:
                self._flights.pop(number, None)

    def _bring(self, number: int) -> Bytes | None:
        """A chunk's bytes, fetched; None where they are on the disk and right."""
        chunk = self._file.chunks[number]
        if self._here(number):
            return None
        record = self._have[_RECORD * number : _RECORD * (number + 1)]
        offset = number * self._file.chunk_size
        if any(record):
            with contextlib.suppress(OSError):
                if _record(_pread(self._data, offset, chunk.length)) == record:
                    self._ready[number] = 1
                    return None
            self._stats.spoiled += 1
            log.warning("Chunk %d of layer %s was spoiled on this disk: fetching again", number, self.layer)
            self._forget(number)
        with self._lock:
            if number in self._unkept:
                self._unkept.move_to_end(number)
                return self._unkept[number]
        begun = time.monotonic()
        data = self._reader.chunk(number)
        # (Threads may overwrite each other's figure: it is a rough one.)
        self._fetch_seconds += (time.monotonic() - begun - self._fetch_seconds) / 8
        self._stats.fetched += 1
        self._stats.fetched_bytes += len(data)
        return data

    def _keep_in_memory(self, number: int, data: Bytes, error: OSError) -> None:
        with self._lock:
            self._stats.unkept += number not in self._unkept
            first = self._stats.unkept == 1 and number not in self._unkept
            self._unkept[number] = data
            while len(self._unkept) > _UNKEPT:
                self._unkept.popitem(last=False)
        if first:
            log.error(
                "What is read of layer %s cannot be kept on this disk (%s): it is fetched again and again. "
                "Free some space there.",
                self.layer,
                error,
            )

    def _forget(self, number: int) -> None:
        self._ready[number] = 0
        self._have[_RECORD * number : _RECORD * (number + 1)] = bytes(_RECORD)

    def _assemble(self, offset: int, length: int, fetched: dict[int, Bytes | None]) -> bytes | OSError:
        size = self._file.chunk_size
        try:
            if all(data is None for data in fetched.values()):
                return _pread(self._data, offset, length)
            parts: list[Bytes] = []
            end = offset + length
            for number in range(offset // size, (end - 1) // size + 1):
                begin = number * size
                first, last = max(offset, begin), min(end, begin + size)
                data = fetched.get(number)
                if data is None:
                    parts.append(_pread(self._data, first, last - first))
                else:
                    parts.append(memoryview(data)[first - begin : last - begin])
            return b"".join(parts)
        except OSError as error:
            log.error("The local copy of layer %s cannot be read: %s", self.layer, error)
            return OSError(errno.EIO, str(error))


def remember_layer(folder: Path, manifest: bytes) -> None:
    """Keep what a layer is made of beside its copy, for a restart while the store is away. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = folder / "layer.new"
    temporary.write_bytes(manifest)
    temporary.replace(folder / "layer")


def remembered_layer(folder: Path, layer: str) -> bytes | None:
    """What `remember_layer` kept, if it is whole."""
    with contextlib.suppress(OSError):
        manifest = (folder / "layer").read_bytes()
        if blake3(manifest).hexdigest() == layer:
            return manifest
    return None


def _record(data: Bytes) -> bytes:
    # Never all zeros, which is "not here".
    return blake3(data).digest(_RECORD - 1) + b"\1"


def _open(opened: contextlib.ExitStack, path: Path, flags: int = 0) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    opened.callback(os.close, descriptor)
    return descriptor


def _pread(descriptor: int, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            raise OSError(errno.EIO, "the file is shorter than it was")
        data += more
    return data
