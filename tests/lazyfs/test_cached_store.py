from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skylift.lazyfs.cache_folder import CacheFolder
from skylift.lazyfs.cached_store import CachedStore
from skylift.lazyfs.listing import stored_blobs
from skylift.lazyfs.store import BlobMissingError, Bytes, LocalStore, StoreError, blob_name

ABSENT = "0" * 64


class Remote(LocalStore):
    """Says what was asked of it; it can be away."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fetched: list[str] = []
        self.away = False
        self.gate: threading.Event | None = None

    def _ask(self) -> None:
        if self.away:
            raise OSError("the remote store does not answer")

    def put(self, data: Bytes, *, durable: bool = False) -> str:
        self._ask()
        return super().put(data, durable=durable)

    def get(self, blob: str) -> bytes:
        self._ask()
        self.fetched.append(blob)
        if self.gate is not None:
            assert self.gate.wait(30)
        return super().get(blob)

    def size(self, blob: str) -> int:
        self._ask()
        return super().size(blob)


class FileRemote(Remote):
    """One that writes files."""

    def fetch_to(self, blob: str, path: Path) -> int:
        return path.write_bytes(self.get(blob))


@pytest.fixture(params=[Remote, FileRemote])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    remote: Remote = request.param(tmp_path / "remote")
    return remote


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def cached(remote: Remote, tmp_path: Path, clock: Clock, budget: int = 100, boot: str = "1") -> CachedStore:
    return CachedStore(remote, CacheFolder(tmp_path / "cache", budget, boot=boot, clock=clock))


@pytest.fixture
def store(remote: Remote, tmp_path: Path, clock: Clock) -> Iterator[CachedStore]:
    store = cached(remote, tmp_path, clock)
    yield store
    store.close()


def kept(store: CachedStore) -> int:
    """Bytes on the disk."""
    return sum(file.stat().st_size for file in store.folder.folder.rglob("*") if file.is_file())


class TestReadingAndWriting:
    def test_what_was_put_is_in_both(self, store: CachedStore, remote: Remote) -> None:
        blob = store.put(b"some bytes")
        assert remote.has(blob)
        remote.away = True
        assert b"some bytes" == store.get(blob) == store.view(blob) == store.path(blob).read_bytes()
        assert 10 == store.size(blob) == kept(store)
        assert [] == remote.fetched

    def test_what_was_read_is_not_fetched_again(self, store: CachedStore, remote: Remote) -> None:
        for number, read in enumerate(
            (store.get, lambda blob: bytes(store.view(blob)), lambda blob: store.path(blob).read_bytes())
        ):
            blob = remote.put(bytes([number]) * 5)
            assert bytes([number]) * 5 == read(blob) == read(blob) == store.get(blob)
        assert 3 == len(remote.fetched)

    def test_streams(self, store: CachedStore, remote: Remote) -> None:
        assert (blob_name(b"onetwo"), 6) == store.put_stream([b"one", b"two"])
        assert b"onetwo" == store.get(blob_name(b"onetwo"))
        assert [] == remote.fetched

        def broken() -> Iterator[bytes]:
            yield b"first"
            raise ConnectionError("the client is gone")

        with pytest.raises(ConnectionError):
            store.put_stream(broken())
        assert 6 == kept(store)

    def test_what_is_there_is_asked_of_the_remote_store(self, store: CachedStore, remote: Remote) -> None:
        blob = store.put(b"some bytes")
        LocalStore.delete(remote, blob)
        assert not store.has(blob)
        with pytest.raises(BlobMissingError):
            store.size(blob)
        store.put(b"some bytes")
        assert remote.has(blob)
        store.settle()

    def test_missing_deleted_listed(self, store: CachedStore, remote: Remote) -> None:
        for read in (store.get, store.view, store.path, store.size):
            with pytest.raises(BlobMissingError):
                read(ABSENT)
        blob = store.put(b"some bytes")
        assert [blob] == [found.blob for found in stored_blobs(store)]
        store.delete(blob)
        assert not remote.has(blob)
        with pytest.raises(BlobMissingError):
            store.get(blob)
        assert 0 == kept(store) == store.folder.total
        assert store.there()

    def test_a_remote_that_is_away(self, store: CachedStore, remote: Remote) -> None:
        blob = remote.put(b"some bytes")
        remote.away = True
        with pytest.raises(OSError, match="does not answer"):
            store.get(blob)
        with pytest.raises(OSError, match="does not answer"):
            store.put(b"other")
        assert 0 == kept(store)
        remote.away = False
        assert b"some bytes" == store.get(blob)

    @pytest.mark.parametrize("damage", [b"spoiled", b"", None])
    def test_what_is_damaged_here_is_fetched_again(
        self, store: CachedStore, remote: Remote, damage: bytes | None
    ) -> None:
        blob = store.put(b"some bytes")
        path = store.path(blob)
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage)
        assert b"some bytes" == store.get(blob)
        assert [blob] == remote.fetched
        assert b"some bytes" == store.path(blob).read_bytes()
        assert 10 == store.folder.total == kept(store)

    def test_many_who_want_it_fetch_it_once(self, store: CachedStore, remote: Remote) -> None:
        blob = remote.put(b"some bytes")
        remote.gate = threading.Event()
        with ThreadPoolExecutor(8) as pool:
            reads = [pool.submit(store.get, blob) for _ in range(8)]
            remote.gate.set()
            assert [b"some bytes"] * 8 == [read.result() for read in reads]
        assert [blob] == remote.fetched


class TestBudget:
    def test_what_was_used_last_stays(self, store: CachedStore, remote: Remote) -> None:
        blobs = [store.put(bytes([number]) * 30) for number in range(3)]
        store.get(blobs[0])
        store.put(b"x" * 30)
        remote.away = True
        assert store.get(blobs[0])
        assert store.get(blobs[2])
        with pytest.raises(OSError, match="does not answer"):
            store.get(blobs[1])

    def test_the_last_use_outlives_the_process(self, remote: Remote, tmp_path: Path, clock: Clock) -> None:
        store = cached(remote, tmp_path, clock)
        blobs = []
        for number in range(3):
            clock.now += 1000
            blobs.append(store.put(bytes([number]) * 30))
        clock.now += 1000
        store.get(blobs[0])
        store.close()

        again = cached(remote, tmp_path, clock, budget=60)
        remote.away = True
        assert 60 == again.folder.total == kept(again)
        assert again.get(blobs[0])
        with pytest.raises(OSError, match="does not answer"):
            again.get(blobs[1])
        again.close()

    @pytest.mark.parametrize("read", ["get", "view", "path"])
    def test_a_blob_that_is_larger_than_the_budget(
        self, store: CachedStore, remote: Remote, read: str
    ) -> None:
        small = store.put(b"small")
        blob = store.put(b"x" * 101)
        assert (blob, 101) == store.put_stream([b"x" * 50, b"x" * 51])
        for _ in range(2):
            got = getattr(store, read)(blob)
            assert b"x" * 101 == (got.read_bytes() if isinstance(got, Path) else got)
        assert 5 == kept(store)
        remote.away = True
        assert b"small" == store.get(small)

    def test_blobs_in_use_are_not_torn(self, store: CachedStore, clock: Clock) -> None:
        blob = store.put(b"used" * 10)
        view, path = store.view(blob), store.path(blob)
        for number in range(5):
            store.put(bytes([number]) * 60)
        assert b"used" * 10 == view == path.read_bytes()
        opened = path.open("rb")
        clock.now += 31
        store.put(b"y" * 100)
        assert not path.exists()
        with opened:
            assert b"used" * 10 == opened.read() == view
        assert 100 == kept(store)

    @settings(max_examples=50, deadline=None)
    @given(
        actions=st.lists(
            st.tuples(st.sampled_from(["put", "get", "stream", "delete", "reopen"]), st.integers(0, 12)),
            max_size=40,
        ),
        budget=st.integers(0, 60),
    )
    def test_any_history_reads_right_and_stays_within_it(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        actions: list[tuple[str, int]],
        budget: int,
    ) -> None:
        folder, clock = tmp_path_factory.mktemp("c"), Clock()
        remote = FileRemote(folder / "remote")
        store = cached(remote, folder, clock, budget)
        present: set[int] = set()
        for step, (action, number) in enumerate(actions):
            clock.now += 100
            data = bytes([number]) * (number * 3)
            if action == "put":
                store.put(data)
                present.add(number)
            elif action == "stream":
                store.put_stream([data[:5], data[5:]])
                present.add(number)
            elif action == "delete":
                store.delete(blob_name(data))
                present.discard(number)
            elif action == "reopen":
                store.close()
                store = cached(remote, folder, clock, budget, boot=str(step % 3))
            elif number in present:
                assert data == store.get(blob_name(data))
            else:
                with pytest.raises(BlobMissingError):
                    store.get(blob_name(data))
            assert kept(store) == store.folder.total <= budget
        store.close()


class TestCrashes:
    def test_after_another_boot_files_are_checked_first(
        self, remote: Remote, tmp_path: Path, clock: Clock
    ) -> None:
        store = cached(remote, tmp_path, clock)
        torn, whole, unread = (store.put(data) for data in (b"torn bytes", b"whole bytes", b"unread"))
        os.truncate(store.path(torn), 4)
        store.folder.temporary().write_bytes(b"half")
        store.close()

        again = cached(remote, tmp_path, clock, boot="2")
        assert b"torn bytes" == again.path(torn).read_bytes()
        assert b"whole bytes" == again.path(whole).read_bytes()
        assert [torn] == remote.fetched
        assert 10 + 11 + 6 == again.folder.total == kept(again)
        again.put(b"unread")
        assert 27 == kept(again)
        assert b"unread" == again.path(unread).read_bytes()
        again.close()

    def test_after_a_kill_what_is_half_written_is_gone(
        self, remote: Remote, tmp_path: Path, clock: Clock
    ) -> None:
        store = cached(remote, tmp_path, clock)
        blob = store.put(b"some bytes")
        store.folder.temporary().write_bytes(b"half")
        store.close()
        again = cached(remote, tmp_path, clock)
        assert 10 == kept(again)
        remote.away = True
        assert b"some bytes" == again.get(blob)
        again.close()

    def test_two_cannot_have_one_folder(self, store: CachedStore, remote: Remote, tmp_path: Path) -> None:
        with pytest.raises(StoreError) as caught:
            CacheFolder(tmp_path / "cache", 10)
        assert str(caught.value) == (
            f"The cache in {tmp_path / 'cache'} is in use by another process. Give each its own folder."
        )


@pytest.mark.root
class TestFullDisk:
    @pytest.fixture
    def small(self, remote: Remote, tmp_path: Path, clock: Clock) -> Iterator[CachedStore]:
        folder = tmp_path / "cache"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=True)
        try:
            store = cached(remote, tmp_path, clock, budget=1 << 30)
            yield store
            store.close()
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    def test_everything_goes_on_without_the_folder(self, small: CachedStore, remote: Remote) -> None:
        fits = small.put(b"fits")
        data = os.urandom(400_000)
        blob = small.put(data)
        assert (blob, len(data)) == small.put_stream([data[:200_000], data[200_000:]])
        assert data == small.get(blob) == small.view(blob) == small.path(blob).read_bytes()
        assert small.path(blob).is_relative_to(remote.folder)
        assert 4 == kept(small) == small.folder.total
        assert b"fits" == small.get(fits)
