from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from skylift.lazyfs.store import (
    BlobDamagedError,
    BlobMissingError,
    LocalStore,
    StoreFullError,
    blob_name,
)

ABSENT = "0" * 64


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def leftovers(store: LocalStore) -> list[Path]:
    return list((store.folder / "tmp").iterdir())


class TestPut:
    def test_what_is_put_can_be_got(self, store: LocalStore) -> None:
        blob = store.put(b"some bytes")

        assert blake3(b"some bytes").hexdigest() == blob
        assert b"some bytes" == store.get(blob)
        assert b"some bytes" == store.view(blob)
        assert store.has(blob)
        assert len(b"some bytes") == store.size(blob)
        assert b"some bytes" == store.path(blob).read_bytes()
        assert [] == leftovers(store)

    def test_empty_and_durable(self, store: LocalStore) -> None:
        empty = store.put(b"", durable=True)
        assert b"" == store.get(empty) == bytes(store.view(empty))

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_every_kind_of_bytes(self, store: LocalStore, kind: type) -> None:
        assert b"abc" == store.get(store.put(kind(b"abc")))

    def test_the_same_bytes_are_written_once(self, store: LocalStore) -> None:
        blob = store.put(b"x" * 1000)
        inode = store.path(blob).stat().st_ino

        assert blob == store.put(b"x" * 1000)
        assert inode == store.path(blob).stat().st_ino

    def test_only_the_owner_can_read_it(self, store: LocalStore) -> None:
        assert 0o600 == store.path(store.put(b"secret")).stat().st_mode & 0o777
        assert 0o700 == (store.folder / "tmp").stat().st_mode & 0o777

    @given(chunks=st.lists(st.binary(max_size=200), max_size=8))
    def test_a_stream_is_the_same_blob_as_its_bytes(
        self, tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
    ) -> None:
        store = LocalStore(tmp_path_factory.mktemp("store"))

        assert (blob_name(b"".join(chunks)), sum(map(len, chunks))) == store.put_stream(chunks)
        assert b"".join(chunks) == store.get(blob_name(b"".join(chunks)))

    def test_a_stream_that_breaks_off_leaves_nothing(self, store: LocalStore) -> None:
        def broken() -> Iterator[bytes]:
            yield b"first"
            raise ConnectionError("the client is gone")

        with pytest.raises(ConnectionError, match="the client is gone"):
            store.put_stream(broken())
        assert [] == leftovers(store)
        assert not store.has(blob_name(b"first"))


class TestMissingAndDamaged:
    def test_get_of_a_missing_blob_names_it_and_the_folder(self, store: LocalStore) -> None:
        with pytest.raises(BlobMissingError) as caught:
            store.get(ABSENT)
        message = f"The store in {store.folder} has no blob {ABSENT}: it was deleted, or never arrived there."
        assert message == str(caught.value)

    def test_size_and_path_of_a_missing_blob(self, store: LocalStore) -> None:
        assert not store.has(ABSENT)
        with pytest.raises(BlobMissingError):
            store.size(ABSENT)
        with pytest.raises(BlobMissingError):
            store.path(ABSENT)
        with pytest.raises(BlobMissingError):
            store.view(ABSENT)

    def test_deleted_twice(self, store: LocalStore) -> None:
        blob = store.put(b"bye")
        store.delete(blob)
        store.delete(blob)
        assert not store.has(blob)

    @pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63 + "/", "0" * 65])
    def test_what_is_not_a_name_never_becomes_a_path(self, store: LocalStore, name: str) -> None:
        with pytest.raises(ValueError, match="is not the name of a blob"):
            store.has(name)

    @pytest.mark.parametrize("read", [LocalStore.get, LocalStore.view])
    def test_a_damaged_blob_is_found_and_can_be_put_again(
        self, store: LocalStore, read: Callable[[LocalStore, str], object]
    ) -> None:
        blob = store.put(b"right")
        store.path(blob).write_bytes(b"wrong")

        with pytest.raises(BlobDamagedError, match=f"Blob {blob} in .* is damaged: "):
            read(store, blob)
        assert not store.has(blob)
        assert blob == store.put(b"right")
        assert b"right" == store.get(blob)

    def test_a_torn_blob_is_replaced_by_a_whole_one(self, store: LocalStore) -> None:
        blob = store.put(b"whole")
        store.path(blob).write_bytes(b"wh")

        store.put(b"whole")
        assert b"whole" == store.get(blob)


class TestManyWriters:
    def test_threads_that_put_the_same_blobs(self, store: LocalStore) -> None:
        payloads = [bytes([number % 5]) * 300_000 for number in range(40)]
        with ThreadPoolExecutor(8) as pool:
            blobs = list(pool.map(store.put, payloads))

        assert [blob_name(payload) for payload in payloads] == blobs
        assert payloads[:5] == [store.get(blob) for blob in blobs[:5]]
        assert [] == leftovers(store)

    def test_another_process_sees_it(self, store: LocalStore) -> None:
        blob = store.put(b"shared")
        script = (
            "import sys, pathlib; from skylift.lazyfs.store import LocalStore;"
            "print(LocalStore(pathlib.Path(sys.argv[1])).get(sys.argv[2]).decode())"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(store.folder), blob],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "shared\n" == done.stdout


def test_stale_temporary_files_are_removed_and_fresh_ones_are_not(store: LocalStore) -> None:
    stale, fresh = store.folder / "tmp" / "1-stale", store.folder / "tmp" / "1-fresh"
    stale.write_bytes(b"")
    fresh.write_bytes(b"")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(stale, (long_ago, long_ago))

    LocalStore(store.folder)
    assert [fresh] == leftovers(store)


@pytest.mark.root
class TestFullDisk:
    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[LocalStore]:
        folder = tmp_path / "small"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
        try:
            yield LocalStore(folder)
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    def test_the_error_names_the_folder_and_the_sizes(self, small: LocalStore) -> None:
        kept = small.put(b"small")
        with pytest.raises(StoreFullError) as caught:
            small.put(bytes(2_000_000))

        assert 2_000_000 == caught.value.needed
        assert 0 < caught.value.free < 1_100_000
        assert str(caught.value).startswith(
            f"The store in {small.folder} is full: 2,000,000 bytes were to be written and "
        )
        assert str(caught.value).endswith(
            "Free some space on that disk, or set SKYLIFT_HOME to a folder on a larger one."
        )
        assert [] == leftovers(small)
        assert b"small" == small.get(kept)

    def test_a_stream(self, small: LocalStore) -> None:
        with pytest.raises(StoreFullError):
            small.put_stream(bytes(100_000) for _ in range(30))
        assert [] == leftovers(small)
