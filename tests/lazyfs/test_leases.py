from __future__ import annotations

import threading

import pytest
from memory_store import MemoryNames, World

from skylift.lazyfs.leases import (
    Lease,
    LeaseLostError,
    announce_sweep,
    live_leases,
    sweep_announced,
)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def names(world: World) -> MemoryNames:
    return MemoryNames(world)


def test_a_lease_counts_until_it_ends(world: World, names: MemoryNames) -> None:
    with Lease(names, "upload", clock=world.clock) as lease:
        world.now += 599
        lease.renew_when_due()
        world.now += 599
        (record,) = live_leases(names, world.now)
        assert ("upload", True, ()) == (record.what, record.writing, record.trees)
        lease.renew(trees=("a",))
        assert [("a",)] == [record.trees for record in live_leases(names, world.now)]
    assert [] == live_leases(names, world.now)


def test_one_that_is_not_renewed_is_lost(world: World, names: MemoryNames) -> None:
    lease = Lease(names, "upload to volume data", clock=world.clock)
    world.now += 601
    assert [] == live_leases(names, world.now, remove=False)
    lease.renew()
    world.now += 601
    assert [] == live_leases(names, world.now)
    with pytest.raises(LeaseLostError) as caught:
        lease.renew()
    assert str(caught.value) == (
        "The lease of the upload to volume data has ended: it was not renewed for 600 seconds, because this "
        "machine slept or the store did not answer. What it wrote may have been collected; do it again."
    )
    assert [] == names.under("leases")


def test_records_that_cannot_be_read_are_removed(world: World, names: MemoryNames) -> None:
    names.put("leases/x", b"what is this")
    assert [] == live_leases(names, world.now)
    assert [] == names.under("leases")


def test_who_comes_in_a_sweep_waits_for_its_end(world: World, names: MemoryNames) -> None:
    sweep = announce_sweep(names, world.clock)
    assert sweep is not None
    waited = []

    def wait(seconds: float) -> None:
        waited.append(len(live_leases(names, world.now)))
        if len(waited) == 3:
            sweep.end()

    Lease(names, "upload", clock=world.clock, wait=wait).end()
    assert [1, 1, 1] == waited


def test_who_gives_up_waiting_leaves_no_lease(world: World, names: MemoryNames) -> None:
    announce_sweep(names, world.clock)

    def wait(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Lease(names, "upload", clock=world.clock, wait=wait)
    assert [] == names.under("leases")


def test_a_sweep_of_who_is_gone_ends_by_itself(world: World, names: MemoryNames) -> None:
    sweep = announce_sweep(names, world.clock)
    assert sweep is not None
    assert announce_sweep(names, world.clock) is None
    world.now += 30
    sweep.renew_when_due()
    world.now += 39
    assert sweep.may_delete
    world.now += 2
    assert not sweep.may_delete
    assert sweep_announced(names, world.now)
    world.now += 20
    other = announce_sweep(names, world.clock)
    assert other is not None
    sweep.end()  # it wakes up late
    sweep.renew_when_due()
    assert sweep_announced(names, world.now)
    other.end()
    assert not sweep_announced(names, world.now)


def test_renewed_by_a_thread(world: World, names: MemoryNames) -> None:
    lease = Lease(names, "upload", clock=world.clock)
    world.now += 500
    renewed = threading.Event()

    class Watched(MemoryNames):
        def swap(self, name: str, expected: bytes | None, value: bytes) -> bool:
            done = super().swap(name, expected, value)
            renewed.set()
            return done

    names.__class__ = Watched
    with lease.renewed_meanwhile(every=0.001):
        assert renewed.wait(30)
    world.now += 500
    assert 1 == len(live_leases(names, world.now))
