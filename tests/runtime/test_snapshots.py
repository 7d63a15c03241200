from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from msgspec.structs import replace

from skylift.lazyfs.names import LocalNames
from skylift.lazyfs.store import LocalStore, StoreFullError
from skylift.runtime.snapshot_errors import (
    SnapshotDamagedError,
    SnapshotMissingError,
    SnapshotSpaceError,
    SnapshotUnreachableError,
)
from skylift.runtime.snapshot_index import USED_STEP, Record, SnapshotIndex
from skylift.runtime.snapshot_needs import Needs, needs_of
from skylift.runtime.snapshot_packing import CHUNK
from skylift.runtime.snapshots import Found, Snapshots
from skylift.wire import SnapshotRef

MIB = 1024 * 1024
HERE = needs_of(criu="4.1.1")
MORE = replace(HERE, cpu_features=tuple(sorted({*HERE.cpu_features, "amx_tile"})))
LESS = replace(HERE, cpu_features=tuple(sorted({*HERE.cpu_features} - {"amx_tile"})))


class Hosts:
    """Hosts that share a store, each with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = LocalStore(folder / "store")
        self.names = LocalNames(folder / "names")

    def start(self, host: str, here: Needs = HERE, store_budget: int = 100 * MIB) -> Snapshots:
        return Snapshots(
            self.store,
            self.names,
            self.folder / host,
            here,
            host=host,
            store_budget=store_budget,
            cache_budget=100 * MIB,
        )

    def images(self, name: str, megabytes: int = 1, seed: int = 0) -> Path:
        """A folder of images, with so much that does not compress."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "inventory.img").write_bytes(b"inventory")
        (folder / "pages-1.img").write_bytes(random.Random(seed).randbytes(megabytes * MIB))
        return folder

    def blobs(self) -> set[str]:
        """What is in the store."""
        found = (path for path in self.store.folder.glob("??/*") if path.is_file())
        return {path.parent.name + path.name for path in found}

    def records(self) -> list[Record]:
        return SnapshotIndex(self.names).all()


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts(tmp_path)


def restored(snapshots: Snapshots, ref: SnapshotRef) -> dict[str, bytes]:
    """The files as whoever restores them finds them."""
    held = snapshots.open(ref)
    try:
        held.whole.result(60)
        return {path.name: path.read_bytes() for path in held.folder.iterdir()}
    finally:
        held.release()


def test_another_host_restores_it_over_the_store_alone(hosts: Hosts) -> None:
    ref = hosts.start("one").write(
        "template", "key", hosts.images("images"), image="numpy", metadata={"pid": 7}, keep=False
    )
    other = hosts.start("two")

    assert Found(ref) == other.find("template", "key", "numpy")
    assert {"pid": 7} == other.manifest(ref).metadata
    files = restored(other, ref)
    assert b"inventory" == files["inventory.img"]
    assert (hosts.folder / "images" / "pages-1.img").read_bytes() == files["pages-1.img"]


def test_the_host_that_wrote_it_has_it_unpacked(hosts: Hosts) -> None:
    snapshots = hosts.start("one")

    ref = snapshots.write("template", "key", hosts.images("images"))

    assert not (hosts.folder / "images").exists()
    held = snapshots.open(ref)
    assert not held.fresh
    assert MIB == (held.folder / "pages-1.img").stat().st_size


def test_nothing_is_found_and_nothing_to_be_said_of_an_unknown_key(hosts: Hosts) -> None:
    assert Found(None) == hosts.start("one").find("template", "key")


def test_a_host_is_not_offered_what_it_cannot_restore(hosts: Hosts) -> None:
    hosts.start("one", MORE).write("template", "key", hosts.images("images"))

    found = hosts.start("two", LESS).find("template", "key")

    assert Found(None, "its snapshot needs CPU feature amx_tile, which this machine lacks") == found


def test_a_changed_image_meets_no_old_snapshot(hosts: Hosts) -> None:
    snapshots = hosts.start("one")
    snapshots.write("template", "key", hosts.images("images"), image="numpy-1")

    assert "its snapshot is of an image that has changed since" == (
        snapshots.find("template", "key", "numpy-2").reason
    )


def test_a_host_can_unpack_ahead_what_it_may_need(hosts: Hosts) -> None:
    hosts.start("one", MORE).write("template", "elsewhere", hosts.images("a", seed=1))
    one = hosts.start("one")
    refs = [one.write("template", f"{n}", hosts.images(f"{n}", seed=n)) for n in range(3)]
    one.write("session", "se-1", hosts.images("session", seed=9))
    two = hosts.start("two")

    assert sum(ref.unpacked for ref in refs[1:]) == two.prefetch(int(2.5 * MIB))

    assert [True, False, False] == [two.open(ref).fresh for ref in refs]
    assert 0 == hosts.start("one").prefetch(100 * MIB)


def test_machines_that_lack_something_of_each_other_each_have_theirs(hosts: Hosts) -> None:
    better, here = hosts.start("one", MORE), hosts.start("two", LESS)
    first = better.write("template", "key", hosts.images("a", seed=1))
    second = here.write("template", "key", hosts.images("b", seed=2))

    assert second == here.find("template", "key").ref
    assert {first.manifest, second.manifest} == {record.ref.manifest for record in hosts.records()}


def test_a_new_one_replaces_the_old_one(hosts: Hosts) -> None:
    snapshots = hosts.start("one")
    old = snapshots.write("template", "key", hosts.images("a", seed=1))
    new = snapshots.write("template", "key", hosts.images("b", seed=2))

    assert new == snapshots.find("template", "key").ref
    assert [new] == [record.ref for record in hosts.records()]
    assert not hosts.store.has(old.manifest)
    with pytest.raises(SnapshotMissingError, match="is not in the store any more"):
        snapshots.open(old)


def test_what_another_snapshot_needs_too_stays(hosts: Hosts) -> None:
    snapshots = hosts.start("one")
    first = snapshots.write("session", "a", hosts.images("a", seed=1), keep=False)
    second = snapshots.write("session", "b", hosts.images("b", seed=1), keep=False)

    snapshots.delete(first)
    snapshots.delete(first)

    assert MIB == len(restored(snapshots, second)["pages-1.img"])
    snapshots.delete(second)
    assert set() == hosts.blobs()
    assert [] == hosts.records()


def test_templates_are_evicted_by_their_last_use(hosts: Hosts) -> None:
    snapshots = hosts.start("one", store_budget=int(2.5 * MIB))
    refs = [snapshots.write("template", f"{n}", hosts.images(f"{n}", seed=n)) for n in range(2)]
    index = SnapshotIndex(hosts.names)
    for record in index.all():
        index.put(replace(record, used=record.used - 2 * USED_STEP))
    snapshots.used(refs[0])

    refs.append(snapshots.write("template", "2", hosts.images("2", seed=2)))

    assert {refs[0].manifest, refs[2].manifest} == {each.ref.manifest for each in hosts.records()}
    assert not hosts.store.has(refs[1].manifest)


def test_sessions_are_not_evicted(hosts: Hosts) -> None:
    snapshots = hosts.start("one", store_budget=2 * MIB)
    session = snapshots.write("session", "se-1", hosts.images("session", megabytes=5, seed=1))
    snapshots.write("template", "a", hosts.images("a", seed=2))
    snapshots.write("template", "b", hosts.images("b", seed=3))

    assert session == snapshots.find("session", "se-1").ref


def test_one_that_is_larger_than_the_budget_is_refused_and_leaves_nothing(hosts: Hosts) -> None:
    snapshots = hosts.start("one", store_budget=MIB)

    expected = r"A snapshot of 3\.0 MiB is larger than all of them may be: snapshot_store in \[host\]"
    with pytest.raises(SnapshotSpaceError, match=expected):
        snapshots.write("template", "key", hosts.images("images", megabytes=3))

    assert set() == hosts.blobs()
    assert (hosts.folder / "images" / "pages-1.img").exists()


def test_a_retired_snapshot_is_neither_offered_nor_written_again(hosts: Hosts) -> None:
    snapshots = hosts.start("one")
    ref = snapshots.write("template", "key", hosts.images("images"))
    assert "" == snapshots.why_not_written("key")

    snapshots.retire(ref, "CRIU could not open /dev/nvidia0")
    snapshots.retire(ref, "another reason")

    reason = "its snapshot was retired: CRIU could not open /dev/nvidia0"
    assert Found(None, reason) == snapshots.find("template", "key")
    assert reason == snapshots.why_not_written("key")
    assert reason == hosts.start("two").find("template", "key").reason
    assert set() == hosts.blobs()
    assert [] == list((hosts.folder / "one" / "unpacked").iterdir())


def test_another_criu_may_try_again(hosts: Hosts) -> None:
    snapshots = hosts.start("one")
    snapshots.retire(snapshots.write("template", "key", hosts.images("a")), "it broke")
    newer = hosts.start("two", replace(HERE, criu="4.2"))

    assert "" == newer.why_not_written("key")
    ref = newer.write("template", "key", hosts.images("b"))

    assert Found(ref) == newer.find("template", "key")


def test_a_session_that_could_not_be_restored_is_not_lost(hosts: Hosts) -> None:
    snapshots = hosts.start("one")
    ref = snapshots.write("session", "se-1", hosts.images("images"))

    snapshots.retire(ref, "CRIU could not open a file")

    assert "its snapshot was retired: CRIU could not open a file" == (
        snapshots.find("session", "se-1").reason
    )
    assert MIB == len(restored(snapshots, ref)["pages-1.img"])


def test_after_a_damaged_one_another_may_be_written(hosts: Hosts) -> None:
    snapshots = hosts.start("one")
    ref = snapshots.write("template", "key", hosts.images("a"))
    snapshots.retire(ref, "it is damaged", damaged=True)
    assert Found(None, "its snapshot was retired: it is damaged") == snapshots.find("template", "key")
    assert "" == snapshots.why_not_written("key")
    again = snapshots.write("template", "key", hosts.images("b", seed=1))
    assert Found(again) == snapshots.find("template", "key")
    assert [again] == [record.ref for record in snapshots.all()]


def test_a_damaged_manifest_is_said(hosts: Hosts) -> None:
    snapshots = hosts.start("one")
    ref = snapshots.write("template", "key", hosts.images("images"), keep=False)
    hosts.store.path(ref.manifest).write_bytes(b"{}")

    with pytest.raises(SnapshotDamagedError, match="is damaged"):
        snapshots.open(ref)


def test_an_unreadable_manifest_is_said(hosts: Hosts) -> None:
    ref = SnapshotRef(manifest=hosts.store.put(b'{"format": 99}'))

    with pytest.raises(SnapshotDamagedError, match="cannot be read: Object missing required field"):
        hosts.start("one").open(ref)


def test_a_manifest_cannot_write_outside_its_folder(hosts: Hosts) -> None:
    snapshots = hosts.start("one")
    ref = snapshots.write("template", "key", hosts.images("images"), keep=False)
    text = hosts.store.get(ref.manifest).replace(b'"inventory.img"', b'"../../../etc/x"')

    with pytest.raises(SnapshotDamagedError, match="has a file of a forbidden name"):
        snapshots.open(SnapshotRef(manifest=hosts.store.put(text)))


def test_a_full_store_leaves_nothing_half_and_the_old_one_valid(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = hosts.start("one")
    old = snapshots.write("template", "key", hosts.images("a", megabytes=4, seed=1), keep=False)
    before = hosts.blobs()
    put = hosts.store.put
    count = iter(range(100))

    def full_after_two(data: bytes, *, durable: bool = False) -> str:
        if next(count) >= 2:
            raise StoreFullError(hosts.store.folder, len(data), 0)
        return put(data, durable=durable)

    monkeypatch.setattr(hosts.store, "put", full_after_two)
    with pytest.raises(SnapshotSpaceError, match=r"The snapshot was not written: The store in .* is full"):
        snapshots.write("template", "key", hosts.images("b", megabytes=4, seed=2))

    assert before == hosts.blobs()
    assert Found(old) == snapshots.find("template", "key")
    assert 4 * MIB == len(restored(snapshots, old)["pages-1.img"])


def test_a_store_that_does_not_answer_is_said(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = hosts.start("one")
    ref = snapshots.write("template", "key", hosts.images("images"), keep=False)

    def unreachable(*arguments: object) -> bytes:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(hosts.store, "get", unreachable)
    with pytest.raises(SnapshotUnreachableError, match="could not be read: Connection reset by peer"):
        snapshots.open(ref)
    monkeypatch.setattr(hosts.names, "under", unreachable)
    with pytest.raises(SnapshotUnreachableError, match="could not be looked up: Connection reset by peer"):
        snapshots.find("template", "key")


def test_a_store_that_is_not_mounted_is_not_a_damaged_snapshot(hosts: Hosts) -> None:
    snapshots = hosts.start("one")
    ref = snapshots.write("template", "key", hosts.images("a"))
    other = hosts.start("other")
    hosts.store.folder.rename(hosts.folder / "away")
    with pytest.raises(SnapshotUnreachableError, match="cannot be read from the store now: it is not there"):
        other.open(ref)
    held = snapshots.open(ref)
    held.release()
    (hosts.folder / "away").rename(hosts.store.folder)
    other.open(ref).release()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from skylift.lazyfs.names import LocalNames
    from skylift.lazyfs.store import LocalStore
    from skylift.runtime.snapshot_needs import needs_of
    from skylift.runtime.snapshots import Snapshots

    folder, when = Path(sys.argv[1]), sys.argv[2]
    store, names = LocalStore(folder / "store"), LocalNames(folder / "names")
    snapshots = Snapshots(store, names, folder / "one", needs_of(criu="4.1.1"), host="one",
                          store_budget=1 << 30, cache_budget=1 << 30, workers=1)
    put, count = store.put, iter(range(100))

    def killed(*arguments, **options):
        os.kill(os.getpid(), signal.SIGKILL)

    def put_or_killed(data, *, durable=False):
        return killed() if next(count) == 3 else put(data, durable=durable)

    if when == "writing":
        store.put = put_or_killed
    elif when == "naming":
        names.put = killed
    else:
        store.delete = killed
    snapshots.write("template", "key", folder / "new")
"""


@pytest.mark.parametrize("when", ["writing", "naming", "deleting"])
def test_a_host_that_is_killed_leaves_a_valid_state(hosts: Hosts, when: str) -> None:
    old = hosts.start("one").write("template", "key", hosts.images("old", megabytes=4, seed=1), keep=False)
    before = hosts.blobs()
    hosts.images("new", megabytes=4, seed=2)

    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(hosts.folder), when], timeout=60
    )
    assert -signal.SIGKILL == process.returncode
    snapshots = hosts.start("one")

    (record,) = hosts.records()
    assert Found(record.ref) == snapshots.find("template", "key")
    assert 4 * MIB == len(restored(snapshots, record.ref)["pages-1.img"])
    if when == "deleting":
        assert old != record.ref
        assert len(before) == len(hosts.blobs())
        assert not hosts.store.has(old.manifest)
    else:
        assert old == record.ref
        assert before == hosts.blobs()


def test_records_of_a_newer_version_are_left_alone(hosts: Hosts) -> None:
    hosts.names.put("snapshots/template/key/abc", b'{"kind": "unheard-of"}')
    snapshots = hosts.start("one")

    ref = snapshots.write("template", "key", hosts.images("images"))

    assert Found(ref) == snapshots.find("template", "key")
    assert hosts.names.get("snapshots/template/key/abc") is not None


def test_a_use_is_not_written_down_each_time(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = hosts.start("one")
    ref = snapshots.write("template", "key", hosts.images("images"))

    def fail(*arguments: object) -> None:
        raise AssertionError("written")

    monkeypatch.setattr(hosts.names, "put", fail)
    snapshots.used(ref)
    snapshots.used(SnapshotRef(manifest="0" * 64))


def test_the_size_is_what_it_takes(hosts: Hosts) -> None:
    folder = hosts.images("images", megabytes=2)
    (folder / "text").write_bytes(b"text " * CHUNK)

    ref = hosts.start("one").write("template", "key", folder, keep=False)

    stored = sum(path.stat().st_size for path in hosts.store.folder.glob("??/*") if path.is_file())
    assert stored == ref.size
    assert sum(os.path.getsize(folder / name) for name in os.listdir(folder)) == ref.unpacked
