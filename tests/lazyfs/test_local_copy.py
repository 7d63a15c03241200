"""A layer's copy on this host, without a kernel in front of it."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from counting_store import CountingStore
from hypothesis import given, settings
from hypothesis import strategies as st

from skylift.lazyfs import local_copy
from skylift.lazyfs.chunked import CHUNK_SIZE, ChunkedFile, encode, write_chunks
from skylift.lazyfs.fetching import Fetching
from skylift.lazyfs.local_copy import LocalCopy, remember_layer, remembered_layer
from skylift.lazyfs.store import LocalStore, blob_name

LAYER = "ab" * 32
SIZE = 6 * CHUNK_SIZE + 1234


@pytest.fixture
def fetching() -> Iterator[Fetching]:
    fetching = Fetching(patience=10)
    yield fetching
    fetching.close()


@pytest.fixture
def data() -> bytes:
    some = bytearray(random.Random(1).randbytes(SIZE))
    some[2 * CHUNK_SIZE : 3 * CHUNK_SIZE] = bytes(CHUNK_SIZE)
    return bytes(some)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path / "store")


@pytest.fixture
def file(tmp_path: Path, data: bytes, store: CountingStore) -> ChunkedFile:
    (tmp_path / "image").write_bytes(data)
    return write_chunks(tmp_path / "image", store)


@pytest.fixture
def copy(tmp_path: Path, file: ChunkedFile, store: CountingStore, fetching: Fetching) -> Iterator[LocalCopy]:
    copy = LocalCopy(LAYER, file, store, tmp_path / "copy", fetching)
    yield copy
    copy.close()


def read(copy: LocalCopy, offset: int, length: int) -> bytes:
    """Wait for the answer; raises what it says."""
    answered: Future[Any] = Future()
    copy.read(offset, length, answered.set_result)
    result = answered.result(30)
    if isinstance(result, OSError):
        raise result
    return bytes(result)


def settle(copy: LocalCopy) -> None:
    """Wait for what is fetched ahead, and until all is on the disk."""
    for flight in list(copy._flights.values()):
        assert flight.landed.wait(30)


def test_reads_what_was_written(copy: LocalCopy, data: bytes) -> None:
    assert read(copy, 0, 10) == data[:10]
    assert read(copy, CHUNK_SIZE - 5, 10) == data[CHUNK_SIZE - 5 : CHUNK_SIZE + 5]
    assert read(copy, 0, SIZE) == data
    assert read(copy, SIZE - 3, 3) == data[-3:]


@settings(max_examples=25, deadline=None)
@given(ranges=st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)), min_size=1, max_size=8))
def test_any_ranges_at_once(tmp_path_factory: pytest.TempPathFactory, ranges: list[tuple[int, int]]) -> None:
    folder = tmp_path_factory.mktemp("copy")
    data = random.Random(2).randbytes(SIZE)
    (folder / "image").write_bytes(data)
    store = LocalStore(folder / "store")
    file = write_chunks(folder / "image", store)
    fetching = Fetching()
    copy = LocalCopy(LAYER, file, store, folder / "copy", fetching)
    try:
        answers: list[tuple[int, int, Future[Any]]] = []
        for offset, length in ranges:
            length = min(length, SIZE - offset)
            answers.append((offset, length, Future()))
            copy.read(offset, length, answers[-1][2].set_result)
        for offset, length, answered in answers:
            assert answered.result(30) == data[offset : offset + length]
    finally:
        copy.close()
        fetching.close()


def test_a_chunk_is_fetched_once(copy: LocalCopy, store: CountingStore) -> None:
    for _ in range(3):
        read(copy, 100, 100)
    settle(copy)
    assert store.gets[copy._file.chunks[0].blob] == 1


def test_chunks_ahead_are_fetched_too(copy: LocalCopy, store: CountingStore) -> None:
    read(copy, 4 * CHUNK_SIZE, 1)
    settle(copy)
    assert store.gets[copy._file.chunks[5].blob] == 1
    assert copy.trace() == [4]
    assert copy.stats().here == 3  # with the zeros


def test_more_is_fetched_ahead_from_a_store_that_is_far(
    copy: LocalCopy, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = CountingStore.get

    def slowly(store: CountingStore, blob: str) -> bytes:
        time.sleep(0.05)
        return get(store, blob)

    monkeypatch.setattr(CountingStore, "get", slowly)
    read(copy, 0, 1)
    settle(copy)
    assert copy.stats().here == 3  # the one ahead, and the zeros
    read(copy, 3 * CHUNK_SIZE, 1)
    settle(copy)
    assert copy.stats().here == len(copy._file.chunks)
    assert copy.trace() == [0, 3]


def test_the_trace_is_the_order_of_first_reads(copy: LocalCopy) -> None:
    for offset in (5 * CHUNK_SIZE, 0, 5 * CHUNK_SIZE, 3 * CHUNK_SIZE):
        read(copy, offset, 1)
    assert copy.trace() == [5, 0, 3]


def test_zeros_are_not_fetched(copy: LocalCopy, store: CountingStore) -> None:
    assert read(copy, 2 * CHUNK_SIZE, CHUNK_SIZE) == bytes(CHUNK_SIZE)
    assert store.gets.total() == 0


def test_what_is_here_survives_a_restart(
    tmp_path: Path, copy: LocalCopy, file: ChunkedFile, store: CountingStore, fetching: Fetching, data: bytes
) -> None:
    read(copy, CHUNK_SIZE, 10)
    settle(copy)
    before = store.gets.total()
    again = LocalCopy(LAYER, file, store, tmp_path / "copy", fetching)
    try:
        assert again.trace() == [1]
        assert read(again, CHUNK_SIZE, 10) == data[CHUNK_SIZE : CHUNK_SIZE + 10]
        assert store.gets.total() == before
        assert again.stats().spoiled == 0
    finally:
        again.close()


def test_a_bit_that_flipped_on_this_disk_is_fetched_again(
    tmp_path: Path, copy: LocalCopy, file: ChunkedFile, store: CountingStore, fetching: Fetching, data: bytes
) -> None:
    assert read(copy, 0, SIZE) == data
    settle(copy)
    flip(tmp_path / "copy" / "data", 4 * CHUNK_SIZE + 77)
    again = LocalCopy(LAYER, file, store, tmp_path / "copy", fetching)
    try:
        assert read(again, 0, SIZE) == data
        assert again.stats().spoiled == 1
        settle(again)
        assert (tmp_path / "copy" / "data").read_bytes() == data
    finally:
        again.close()


def test_a_record_without_its_bytes_is_no_copy(
    tmp_path: Path, copy: LocalCopy, file: ChunkedFile, store: CountingStore, fetching: Fetching, data: bytes
) -> None:
    # As after a power failure.
    read(copy, 0, SIZE)
    settle(copy)
    with (tmp_path / "copy" / "data").open("r+b") as local:
        local.truncate(0)
    again = LocalCopy(LAYER, file, store, tmp_path / "copy", fetching)
    try:
        assert read(again, 0, SIZE) == data
    finally:
        again.close()


def test_a_torn_trace(
    tmp_path: Path, copy: LocalCopy, file: ChunkedFile, store: CountingStore, fetching: Fetching
) -> None:
    read(copy, 0, 1)
    with (tmp_path / "copy" / "order").open("ab") as order:
        order.write(b"\xff\xff\xff\xff\x01")
    again = LocalCopy(LAYER, file, store, tmp_path / "copy", fetching)
    try:
        assert again.trace() == [0]
    finally:
        again.close()


def test_a_bit_that_flipped_in_the_store_is_an_error(
    copy: LocalCopy, store: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    flip(store.path(copy._file.chunks[3].blob), 1000)
    with pytest.raises(OSError, match="Errno 5"):
        read(copy, 3 * CHUNK_SIZE, 10)
    assert "A read of layer abab" in caplog.text
    assert copy.stats().failed == 1


def test_a_chunk_that_is_gone_is_an_error_until_it_is_back(
    copy: LocalCopy, store: CountingStore, data: bytes
) -> None:
    path = store.path(copy._file.chunks[3].blob)
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(OSError, match="has no blob"):
        read(copy, 3 * CHUNK_SIZE, 10)
    assert read(copy, 0, 10) == data[:10]
    path.write_bytes(kept)
    assert read(copy, 3 * CHUNK_SIZE, 10) == data[3 * CHUNK_SIZE : 3 * CHUNK_SIZE + 10]


def test_a_store_that_does_not_answer(
    tmp_path: Path, file: ChunkedFile, store: CountingStore, data: bytes
) -> None:
    fetching = Fetching(patience=0.2)
    copy = LocalCopy(LAYER, file, store, tmp_path / "copy", fetching)
    store.gate.clear()
    try:
        with pytest.raises(OSError, match=r"the store did not answer for 0\.2 s"):
            read(copy, 0, 10)
        store.gate.set()
        settle(copy)
        assert read(copy, 0, 10) == data[:10]
    finally:
        store.gate.set()
        copy.close()
        fetching.close()


def test_a_full_disk_serves_from_memory(
    copy: LocalCopy, data: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int, data: bytes, offset: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(local_copy, "write_at", full)
        assert read(copy, 0, SIZE) == data
        assert read(copy, CHUNK_SIZE - 1, 2) == data[CHUNK_SIZE - 1 : CHUNK_SIZE + 1]
        settle(copy)
    assert caplog.text.count("cannot be kept on this disk") == 1
    assert copy.stats().unkept == 6
    assert copy.stats().here == 1


def test_who_waits_overtakes_what_is_fetched_ahead(
    tmp_path: Path, file: ChunkedFile, store: CountingStore, fetching: Fetching, data: bytes
) -> None:
    copy = LocalCopy(LAYER, file, store, tmp_path / "copy", fetching)
    busy = threading.Event()
    for _ in range(6):
        fetching._ahead.submit(busy.wait)
    try:
        assert copy.prefetch([5, 4, 2, 99, -1]) == 2
        assert read(copy, 5 * CHUNK_SIZE, 1) == data[5 * CHUNK_SIZE : 5 * CHUNK_SIZE + 1]
        assert store.gets[file.chunks[4].blob] == 0
    finally:
        busy.set()
        copy.close()


def test_prefetched_chunks_are_not_in_the_trace(copy: LocalCopy, store: CountingStore) -> None:
    assert copy.prefetch([3, 1]) == 2
    settle(copy)
    assert copy.trace() == []
    assert copy.stats().here == 3
    assert store.gets.total() == 2


def test_a_read_after_the_end_of_the_layer(copy: LocalCopy) -> None:
    copy.close()
    with pytest.raises(OSError, match="the layer was removed"):
        read(copy, 0, 1)


def test_what_a_layer_is_made_of_is_remembered(tmp_path: Path, file: ChunkedFile) -> None:
    manifest = encode(file)
    remember_layer(tmp_path / "copy", manifest)
    assert remembered_layer(tmp_path / "copy", blob_name(manifest)) == manifest
    assert remembered_layer(tmp_path / "copy", LAYER) is None
    assert remembered_layer(tmp_path / "other", LAYER) is None


def flip(path: Path, offset: int) -> None:
    """One bit of a file."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        (byte,) = os.pread(descriptor, 1, offset)
        os.pwrite(descriptor, bytes([byte ^ 1]), offset)
    finally:
        os.close(descriptor)
