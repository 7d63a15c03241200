from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import Killed, MemoryNames, MemoryStore, World

from skylift.lazyfs.garbage import Collected, CollectError, Reach, collect, reach_by_name
from skylift.lazyfs.leases import Lease, LeaseLostError, announce_sweep
from skylift.lazyfs.names import LocalNames, Names
from skylift.lazyfs.store import BlobMissingError, LocalStore, Store, blob_name

DAY = 24 * 3600


def roots(names: Names, store: Store) -> Reach:
    """Roots are lists of blobs, themselves in the store."""

    def trace(name: str, value: bytes) -> Iterable[str]:
        manifest = value.decode()
        return [manifest, *json.loads(store.get(manifest))]

    return reach_by_name(names, "images", trace)


def commit(store: Store, names: Names, name: str, parts: list[bytes]) -> list[str]:
    blobs = [store.put(part) for part in parts]
    names.put(f"images/{name}", store.put(json.dumps(blobs).encode()).encode())
    return blobs


class TestCollecting:
    """In folders."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "store")

    @pytest.fixture
    def names(self, tmp_path: Path) -> LocalNames:
        return LocalNames(tmp_path / "names")

    def age(self, store: LocalStore, blob: str, now: float) -> None:
        os.utime(store.path(blob), (now - 2 * DAY, now - 2 * DAY))

    def test_what_is_reached_or_young_stays(self, store: LocalStore, names: LocalNames) -> None:
        used = commit(store, names, "a", [b"one", b"two"])
        garbage, young = store.put(b"garbage"), store.put(b"young")
        now = store.path(young).stat().st_mtime
        for blob in (*used, garbage):
            self.age(store, blob, now)

        reach = roots(names, store)
        expected = Collected(deleted=1, freed=7, used=3, young=1)
        assert expected == collect(store, names, [reach], clock=lambda: now, dry_run=True)
        assert store.has(garbage)
        assert [] == names.under("sweeps")
        assert expected == collect(store, names, [reach], clock=lambda: now)
        assert not store.has(garbage)
        assert store.has(young)
        assert all(map(store.has, used))

        names.delete("images/a")
        later = now + 2 * DAY
        assert Collected(4, 3 + 3 + 5 + 136, 0, 0) == collect(store, names, [reach], clock=lambda: later)
        assert [] == list(store.folder.glob("??/*"))

    def test_it_waits_for_who_writes(self, store: LocalStore, names: LocalNames) -> None:
        store.put(b"garbage")
        now = 1e10
        with Lease(names, "upload to volume data", clock=lambda: now):
            done = collect(store, names, [], clock=lambda: now)
            assert Collected(0, 0, 0, 0, 1, "it waits for the upload to volume data") == done
        with Lease(names, "container", writing=False, clock=lambda: now):
            assert 1 == collect(store, names, [], clock=lambda: now).deleted

    def test_trees_in_use_are_roots(self, store: LocalStore, names: LocalNames) -> None:
        tree = store.put(b"tree")
        reach: Reach = lambda leases: [tree for lease in leases for tree in lease.trees]  # noqa: E731
        now = [1e10]
        lease = Lease(names, "container", writing=False, trees=(tree,), clock=lambda: now[0])
        assert 0 == collect(store, names, [reach], clock=lambda: now[0]).deleted
        assert 0 == collect(store, names, [reach], clock=lambda: now[0], dry_run=True).deleted
        now[0] += 601
        assert 1 == collect(store, names, [reach], clock=lambda: now[0]).deleted
        with pytest.raises(LeaseLostError):
            lease.renew()

    def test_of_two_collectors_one_works(self, store: LocalStore, names: LocalNames) -> None:
        store.put(b"garbage")
        now = [1e10]
        assert announce_sweep(names, lambda: now[0]) is not None
        assert "another collector is at work" == collect(store, names, [], clock=lambda: now[0]).reason
        now[0] += 61  # it was killed
        assert 1 == collect(store, names, [], clock=lambda: now[0]).deleted

    def test_a_sweep_is_short(self) -> None:
        world = World()
        store, names = MemoryStore(world), MemoryNames(world)
        for number in range(100):
            store.put(bytes([number]))
        world.now += 2 * DAY

        def slowly() -> None:
            world.now += 0.5

        world.before = slowly
        done = collect(store, names, [], clock=world.clock)
        assert "the time for one sweep was over" == done.reason
        assert 20 < done.deleted < 62
        assert 100 == done.deleted + done.left
        world.before = lambda: None
        assert done.left == collect(store, names, [], clock=world.clock).deleted

    def test_nothing_is_deleted_where_it_is_not_known_what_is_used(
        self, store: LocalStore, names: LocalNames
    ) -> None:
        store.put(b"garbage")
        names.put("images/a", blob_name(b"lost").encode())
        with pytest.raises(CollectError) as caught:
            collect(store, names, [roots(names, store)], clock=lambda: 1e10)
        assert str(caught.value) == (
            "No garbage was collected, since it is not known what is in use: The store in "
            f"{store.folder} has no blob {blob_name(b'lost')}: it was deleted, or never arrived there. "
            "Repair or delete what that belongs to."
        )
        assert store.has(blob_name(b"garbage"))

    def test_a_root_that_fails_in_the_sweep_ends_it(self, store: LocalStore, names: LocalNames) -> None:
        store.put(b"garbage")
        answers = [[], BlobMissingError("0" * 64, "there")]

        def reach(leases: object) -> list[str]:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        with pytest.raises(CollectError):
            collect(store, names, [reach], clock=lambda: 1e10)
        assert store.has(blob_name(b"garbage"))
        assert announce_sweep(names, lambda: 1e10) is not None


class GivesUpError(Exception):
    """A writer that would have to wait."""


class Upload:
    """A writer, one step at a time."""

    def __init__(self, history: History, name: str, parts: list[int]) -> None:
        self.history = history
        self.name = f"images/{name}"
        self.lease: Lease | None = None
        self.left = list(parts)
        self.blobs: list[str] = []

    def step(self) -> bool:
        """Whether there is more to do."""
        store, names, world = self.history.store, self.history.names, self.history.world
        if self.lease is None:
            self.lease = Lease(names, self.name, clock=world.clock, wait=self.wait)
            return True
        self.lease.renew_when_due()
        if self.left:
            data = bytes([self.left.pop()]) * 3
            blob = blob_name(data)
            if not store.has(blob):  # otherwise it counts on that
                store.put(data)
            self.blobs.append(blob)
            return True
        manifest = store.put(json.dumps(self.blobs).encode())
        self.lease.renew()
        names.put(self.name, manifest.encode())
        self.lease.renew()
        self.lease.end()
        return False

    def wait(self, seconds: float) -> None:
        raise GivesUpError


class History:
    """Random actions of several processes, each of which may be killed at any operation, and between whose
    operations those of others come."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        self.choose = choose
        """A number below the one given."""
        self.world = World()
        self.store = MemoryStore(self.world)
        self.names = MemoryNames(self.world)
        self.uploads: list[Upload] = []
        self.depth = 0
        self.world.before = self.between

    def between(self) -> None:
        chosen = self.choose(12)
        if chosen == 1:
            raise Killed
        if chosen == 2 and self.depth < 2:
            for _ in range(1 + self.choose(8)):
                self.act()

    def act(self) -> None:
        self.depth += 1
        try:
            self.action()
        except (Killed, GivesUpError, LeaseLostError):
            pass
        finally:
            self.depth -= 1

    def action(self) -> None:
        kind = self.choose(7)
        if kind <= 1:
            self.uploads.append(Upload(self, str(self.choose(3)), [self.choose(5) for _ in range(2)]))
        if kind <= 3 and self.uploads:
            upload = self.uploads.pop(self.choose(len(self.uploads)))
            more = True
            for _ in range(1 + self.choose(5)):
                more = more and upload.step()
            if more:  # one that was killed does not come back
                self.uploads.append(upload)
        elif kind == 4:
            self.names.delete(f"images/{self.choose(3)}")
        elif kind == 5:
            collect(self.store, self.names, [roots(self.names, self.store)], grace=50, clock=self.world.clock)
        elif kind == 6 and self.depth == 1:
            self.world.now += [10, 55, 70, 300, 700][self.choose(5)]

    def check(self) -> None:
        for name, value in self.names.values.items():
            if name.startswith("images/"):
                manifest = self.store.data[value.decode()]
                assert all(blob in self.store.data for blob in json.loads(manifest))

    def settle(self) -> None:
        """Everybody is gone; then all garbage goes."""
        self.world.before = lambda: None
        self.uploads.clear()
        self.world.now += 10_000
        reach = roots(self.names, self.store)
        collect(self.store, self.names, [reach], grace=50, clock=self.world.clock)
        self.check()
        assert set(self.store.data) == set(reach([]))
        assert {name.split("/")[0] for name in self.names.values} <= {"images", "sweeps"}


@settings(max_examples=1000, deadline=None)
@given(
    randomness=st.randoms(use_true_random=False),
    actions=st.integers(1, 60),
)
def test_nothing_reachable_is_collected_and_all_garbage_is_in_the_end(
    randomness: object, actions: int
) -> None:
    history = History(randomness.randrange)  # type: ignore[attr-defined]
    for _ in range(actions):
        history.act()
        history.check()
    history.settle()
