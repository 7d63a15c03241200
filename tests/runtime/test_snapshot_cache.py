from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec
import pytest

from skylift.lazyfs.store import LocalStore
from skylift.runtime.snapshot_cache import SnapshotCache
from skylift.runtime.snapshot_errors import SnapshotDamagedError, SnapshotSpaceError
from skylift.runtime.snapshot_manifest import Manifest
from skylift.runtime.snapshot_needs import needs_of
from skylift.runtime.snapshot_packing import CHUNK, pack

SIZE = CHUNK
BUDGET = 2 * SIZE + SIZE // 2
"""Two snapshots, not three."""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def cache(tmp_path: Path, store: LocalStore) -> SnapshotCache:
    return SnapshotCache(tmp_path / "cache", BUDGET, store)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def name(number: int) -> str:
    return f"{number:064x}"


def written(store: LocalStore, folder: Path) -> Manifest:
    """A snapshot in the store; its files lie in `folder`."""
    folder.mkdir()
    (folder / "pages-1.img").write_bytes(os.urandom(SIZE))
    (folder / "inventory.img").write_bytes(b"inventory")
    packed = pack(folder, store.put, {})
    return Manifest(
        kind="template",
        key="k",
        created=0.0,
        needs=needs_of(criu="4.1.1"),
        chunks=packed.chunks,
        files=packed.files,
    )


def unpacked(cache: SnapshotCache, number: int, manifest: Manifest) -> Path:
    held = cache.hold(name(number), manifest)
    held.whole.result(60)
    # The thread that has unpacked it writes it down after that.
    for thread in threading.enumerate():
        if thread.name == "unpack snapshot":
            thread.join(60)
    held.release()
    return held.folder


def left(folder: Path) -> list[int]:
    """The numbers of the snapshots that are there."""
    return sorted(int(path.name, 16) for path in folder.iterdir() if path.is_dir())


def test_a_snapshot_is_unpacked_once(cache: SnapshotCache, store: LocalStore, tmp_path: Path) -> None:
    manifest = written(store, tmp_path / "source")

    first = cache.hold(name(1), manifest)
    second = cache.hold(name(1), manifest)
    first.whole.result(60)
    second.whole.result(60)
    third = cache.hold(name(1), manifest)

    assert [True, True, False] == [first.fresh, second.fresh, third.fresh]
    assert first.folder == second.folder == third.folder
    assert (tmp_path / "source" / "pages-1.img").read_bytes() == (first.folder / "pages-1.img").read_bytes()
    assert third.whole.done()


def test_the_least_recently_used_go(
    cache: SnapshotCache, store: LocalStore, folder: Path, tmp_path: Path
) -> None:
    manifests = [written(store, tmp_path / f"{number}") for number in range(3)]
    unpacked(cache, 0, manifests[0])
    unpacked(cache, 1, manifests[1])
    unpacked(cache, 0, manifests[0])
    unpacked(cache, 2, manifests[2])

    assert [0, 2] == left(folder)
    assert SIZE * 2 <= cache.size <= BUDGET


def test_what_is_in_use_stays_until_it_is_let_go(
    cache: SnapshotCache, store: LocalStore, folder: Path, tmp_path: Path
) -> None:
    manifests = [written(store, tmp_path / f"{number}") for number in range(3)]
    held = [cache.hold(name(number), manifest) for number, manifest in enumerate(manifests)]
    for each in held:
        each.whole.result(60)
    assert [0, 1, 2] == left(folder)

    for each in held:
        each.release()
        each.release()

    assert [1, 2] == left(folder)


def test_a_truncated_copy_is_unpacked_anew(cache: SnapshotCache, store: LocalStore, tmp_path: Path) -> None:
    manifest = written(store, tmp_path / "source")
    copy = unpacked(cache, 1, manifest)
    os.truncate(copy / "pages-1.img", 10)

    copy = unpacked(cache, 1, manifest)

    assert (tmp_path / "source" / "pages-1.img").read_bytes() == (copy / "pages-1.img").read_bytes()


def test_what_could_not_be_unpacked_is_tried_again(
    cache: SnapshotCache, store: LocalStore, folder: Path, tmp_path: Path
) -> None:
    manifest = written(store, tmp_path / "source")
    blob = next(chunk.blob for chunk in manifest.chunks if chunk.length == SIZE)
    data = store.get(blob)
    store.delete(blob)
    held = cache.hold(name(1), manifest)
    with pytest.raises(SnapshotDamagedError):
        held.whole.result(60)
    held.release()

    store.put(data)
    unpacked(cache, 1, manifest)

    assert [1] == left(folder)


def test_a_folder_is_taken_over(
    cache: SnapshotCache, store: LocalStore, folder: Path, tmp_path: Path
) -> None:
    manifest = written(store, tmp_path / "source")

    cache.adopt(name(1), manifest, tmp_path / "source")

    assert not (tmp_path / "source").exists()
    held = cache.hold(name(1), manifest)
    assert not held.fresh
    assert b"inventory" == (held.folder / "inventory.img").read_bytes()


def test_only_the_host_comes_in_and_inside_criu_may_read(
    cache: SnapshotCache, store: LocalStore, folder: Path, tmp_path: Path
) -> None:
    manifest = written(store, tmp_path / "source")
    copies = [unpacked(cache, 1, manifest)]
    cache.adopt(name(2), manifest, tmp_path / "source")
    copies.append(unpacked(cache, 2, manifest))

    assert 0o700 == folder.stat().st_mode & 0o777
    assert [0o755, 0o755] == [copy.stat().st_mode & 0o777 for copy in copies]
    assert 0o644 == (copies[0] / "pages-1.img").stat().st_mode & 0o777


def test_the_next_host_finds_it(
    cache: SnapshotCache, store: LocalStore, folder: Path, tmp_path: Path
) -> None:
    manifest = written(store, tmp_path / "source")
    unpacked(cache, 1, manifest)

    after = SnapshotCache(folder, BUDGET, store)

    assert manifest == after.manifest(name(1))
    assert not after.hold(name(1), manifest).fresh


def test_after_a_restart_of_the_machine_nothing_is_trusted(
    cache: SnapshotCache, store: LocalStore, folder: Path, tmp_path: Path
) -> None:
    manifest = written(store, tmp_path / "source")
    unpacked(cache, 1, manifest)
    (note,) = folder.glob("*.whole")
    content = msgspec.json.decode(note.read_bytes())
    note.write_bytes(msgspec.json.encode({**content, "boot": "another"}))

    after = SnapshotCache(folder, BUDGET, store)

    assert after.manifest(name(1)) is None
    assert [] == list(folder.iterdir())


def test_a_host_that_was_killed_while_it_unpacked_leaves_nothing_half(
    store: LocalStore, folder: Path
) -> None:
    (folder / name(1)).mkdir(parents=True)
    (folder / name(1) / "pages-1.img").write_bytes(b"half")
    (folder / ".0123").mkdir()

    SnapshotCache(folder, BUDGET, store)

    assert [] == list(folder.iterdir())


def test_what_is_discarded_while_in_use_goes_with_its_last_user(
    cache: SnapshotCache, store: LocalStore, folder: Path, tmp_path: Path
) -> None:
    manifest = written(store, tmp_path / "source")
    held = cache.hold(name(1), manifest)
    held.whole.result(60)

    cache.discard(name(1))
    cache.discard(name(1))
    assert cache.manifest(name(1)) is None
    held.release()

    assert [] == list(folder.iterdir())


def test_a_full_disk_makes_room_for_the_next_attempt(
    cache: SnapshotCache,
    store: LocalStore,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new = written(store, tmp_path / "old"), written(store, tmp_path / "new")
    unpacked(cache, 1, old)
    pwrite = os.pwrite
    watched, over = threading.Event(), threading.Event()

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if 1 in left(folder):
            watched.wait(60)
            raise OSError(28, "No space left on device")
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    held = cache.hold(name(2), new)
    held.whole.add_done_callback(lambda whole: over.set())  # called after the cache's own
    watched.set()
    with pytest.raises(SnapshotSpaceError):
        held.whole.result(60)
    assert over.wait(60)
    held.release()

    unpacked(cache, 2, new)

    assert [2] == left(folder)
