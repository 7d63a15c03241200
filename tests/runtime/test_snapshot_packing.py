from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skylift.lazyfs.store import LocalStore, StoreFullError
from skylift.runtime.snapshot_errors import (
    SnapshotDamagedError,
    SnapshotError,
    SnapshotSpaceError,
    SnapshotUnreachableError,
)
from skylift.runtime.snapshot_manifest import Chunk, Manifest
from skylift.runtime.snapshot_needs import needs_of
from skylift.runtime.snapshot_packing import CHUNK, SHORT_CHUNK, ZERO_RUN, Packed, chunk_bounds, pack
from skylift.runtime.snapshot_unpacking import Unpacking

PAGE = 4096


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def manifest_of(packed: Packed) -> Manifest:
    needs = needs_of(criu="4.1.1")
    return Manifest(
        kind="template", key="k", created=0.0, needs=needs, chunks=packed.chunks, files=packed.files
    )


def unpack(packed: Packed, store: LocalStore, folder: Path) -> None:
    folder.mkdir()
    unpacking = Unpacking(manifest_of(packed), "ab" * 32, folder, store)
    unpacking.start()
    unpacking.whole.result(60)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_come_back_as_they_were(source: Path, store: LocalStore, tmp_path: Path) -> None:
    noise = random.Random(1).randbytes
    (source / "inventory.img").write_bytes(b"small")
    (source / "empty.img").write_bytes(b"")
    (source / "pages-1.img").write_bytes(
        b"text " * 100_000 + bytes(3 * CHUNK) + noise(2 * CHUNK + 17) + bytes(ZERO_RUN)
    )
    (source / "zeros").write_bytes(bytes(2 * CHUNK))

    packed = pack(source, store.put, {})
    unpack(packed, store, tmp_path / "out")

    assert contents(source) == contents(tmp_path / "out")


def test_zeros_take_no_room_in_the_store_nor_unpacked(
    source: Path, store: LocalStore, tmp_path: Path
) -> None:
    (source / "pages-1.img").write_bytes(b"x" * PAGE + bytes(8 * CHUNK) + b"y" * PAGE)

    packed = pack(source, store.put, {})
    unpack(packed, store, tmp_path / "out")

    assert 2 == len(packed.chunks)
    assert packed.stored < 2 * PAGE
    assert (tmp_path / "out" / "pages-1.img").stat().st_blocks * 512 <= 4 * ZERO_RUN


def test_what_does_not_compress_is_stored_as_it_is(source: Path, store: LocalStore) -> None:
    (source / "noise").write_bytes(os.urandom(CHUNK))
    (source / "text").write_bytes(b"text " * 100_000)

    packed = pack(source, store.put, {})

    assert ["raw", "zstd"] == sorted(chunk.encoding for chunk in packed.chunks)


def test_small_files_share_a_blob(source: Path, store: LocalStore) -> None:
    for number in range(100):
        (source / f"core-{number}.img").write_bytes(f"{number}".encode() * 50)

    assert 1 == len(pack(source, store.put, {}).chunks)


def test_equal_data_is_stored_once(source: Path, store: LocalStore) -> None:
    data = os.urandom(CHUNK)
    (source / "a").write_bytes(data)
    (source / "b").write_bytes(data)

    packed = pack(source, store.put, {})

    assert CHUNK == packed.stored
    assert 1 == len({chunk.blob for chunk in packed.chunks})


def test_an_unchanged_array_is_found_again_where_it_has_moved_in_the_file(
    source: Path, store: LocalStore
) -> None:
    array = random.Random(2).randbytes(8 * CHUNK)
    (source / "pages-1.img").write_bytes(b"a" * (3 * PAGE) + array)
    before = pack(source, store.put, {"pages-1.img": [0, 3 * PAGE]})
    (source / "pages-1.img").write_bytes(b"b" * (100 * PAGE) + array + b"c" * PAGE)
    after = pack(source, store.put, {"pages-1.img": [0, 100 * PAGE, 100 * PAGE + len(array)]})

    same = {chunk.blob for chunk in before.chunks} & {chunk.blob for chunk in after.chunks}
    assert 8 == len(same)


@given(
    size=st.integers(1, 8 * CHUNK),
    runs=st.lists(st.integers(0, 8 * CHUNK), max_size=30).map(sorted),
)
def test_chunks_cover_a_file_and_are_neither_long_nor_without_reason_short(
    size: int, runs: list[int]
) -> None:
    bounds = list(chunk_bounds(size, [run for run in runs if run < size]))

    assert 0 == bounds[0][0]
    assert size == bounds[-1][1]
    for (_, end), (begin, _) in itertools.pairwise(bounds):
        assert end == begin
    for begin, end in bounds:
        assert 0 < end - begin <= CHUNK
        assert end - begin >= SHORT_CHUNK or end in (*runs, size)


def test_a_store_without_room_ends_it(source: Path) -> None:
    (source / "pages-1.img").write_bytes(os.urandom(4 * CHUNK))

    def full(data: object) -> str:
        raise StoreFullError(Path("/somewhere"), 10, 5)

    with pytest.raises(StoreFullError, match="is full: 10 bytes were to be written and 5 are free"):
        pack(source, full, {})


def test_a_blob_that_was_changed_is_noticed(source: Path, store: LocalStore, tmp_path: Path) -> None:
    (source / "pages-1.img").write_bytes(os.urandom(2 * CHUNK))
    packed = pack(source, store.put, {})
    path = store.path(packed.chunks[1].blob)
    first, *rest = path.read_bytes()
    path.write_bytes(bytes([first ^ 1, *rest]))

    with pytest.raises(SnapshotDamagedError, match=r"^Snapshot abababababababab is damaged: .*has no blob"):
        unpack(packed, store, tmp_path / "out")


def test_a_blob_that_was_cut_off_is_noticed(source: Path, store: LocalStore, tmp_path: Path) -> None:
    (source / "pages-1.img").write_bytes(b"text " * 100_000)
    packed = pack(source, store.put, {})
    path = store.path(packed.chunks[0].blob)
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(SnapshotDamagedError, match="is damaged"):
        unpack(packed, store, tmp_path / "out")


def test_a_blob_that_is_gone_is_named(source: Path, store: LocalStore, tmp_path: Path) -> None:
    (source / "pages-1.img").write_bytes(os.urandom(CHUNK))
    packed = pack(source, store.put, {})
    store.delete(packed.chunks[0].blob)

    with pytest.raises(SnapshotDamagedError, match=f"has no blob {packed.chunks[0].blob}"):
        unpack(packed, store, tmp_path / "out")


def test_a_blob_that_arrived_damaged_is_fetched_again(
    source: Path, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "pages-1.img").write_bytes(b"text " * 100_000)
    packed = pack(source, store.put, {})
    whole = store.path(packed.chunks[0].blob).read_bytes()
    store.path(packed.chunks[0].blob).write_bytes(b"spoiled")
    get = store.get
    calls: list[str] = []

    def get_of_a_cache(blob: str) -> bytes:
        calls.append(blob)
        if len(calls) == 2:
            store.put(whole)
        return get(blob)

    monkeypatch.setattr(store, "get", get_of_a_cache)
    unpack(packed, store, tmp_path / "out")

    assert contents(source) == contents(tmp_path / "out")


def test_data_that_does_not_decompress_is_damage(source: Path, store: LocalStore, tmp_path: Path) -> None:
    (source / "pages-1.img").write_bytes(b"text " * 100_000)
    packed = pack(source, store.put, {})
    blob = store.put(b"not compressed")
    chunk = Chunk(blob, "zstd", packed.chunks[0].length)
    bad = Packed(chunks=(chunk, *packed.chunks[1:]), files=packed.files, stored=0)

    with pytest.raises(SnapshotDamagedError, match="is not compressed data"):
        unpack(bad, store, tmp_path / "out")


def test_a_store_that_does_not_answer_is_no_damage(
    source: Path, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "pages-1.img").write_bytes(b"text " * 100_000)
    packed = pack(source, store.put, {})

    def unreachable(blob: str) -> bytes:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(store, "get", unreachable)
    with pytest.raises(
        SnapshotUnreachableError, match=r"cannot be read from the store now: Connection refused\."
    ):
        unpack(packed, store, tmp_path / "out")


def test_a_full_disk_is_said(
    source: Path, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "pages-1.img").write_bytes(os.urandom(CHUNK))
    packed = pack(source, store.put, {})

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(
        SnapshotSpaceError, match=r"No room to unpack snapshot .*: it takes 2\.0 MiB\. Free some"
    ):
        unpack(packed, store, tmp_path / "out")


def test_small_files_are_there_before_the_pages(
    source: Path, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "inventory.img").write_bytes(b"small" * 100)
    (source / "pages-1.img").write_bytes(os.urandom(2 * CHUNK))
    packed = pack(source, store.put, {})
    out = tmp_path / "out"
    out.mkdir()
    unpacking = Unpacking(manifest_of(packed), "ab" * 32, out, store)
    view = store.view

    def after_the_small_ones(blob: str) -> memoryview:
        unpacking.small.result(60)
        return view(blob)

    monkeypatch.setattr(store, "view", after_the_small_ones)
    unpacking.start()
    unpacking.small.result(60)

    assert b"small" * 100 == (out / "inventory.img").read_bytes()
    assert 2 * CHUNK == (out / "pages-1.img").stat().st_size
    unpacking.whole.result(60)
    assert contents(source) == contents(out)


def test_a_folder_that_is_gone_is_said(source: Path, store: LocalStore, tmp_path: Path) -> None:
    (source / "core-1.img").write_bytes(b"memory")
    packed = pack(source, store.put, {})
    unpacking = Unpacking(manifest_of(packed), "ab" * 32, tmp_path / "nowhere", store)

    unpacking.start()

    with pytest.raises(SnapshotError, match=r"cannot be unpacked in .*: No such file or directory"):
        unpacking.small.result(60)
