"""Finds calls that can never begin, because all that they need is held by calls that wait for them.

Cores cannot be the reason (`ContainerState.lends_to`); memory, GPUs and `max_containers` can, and calls
that wait for each other. A pure function of the scheduler's state. Where it is in doubt it says nothing:
what it names is stuck, unless somebody stops waiting.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from skylift.backend.placement import Amount, Room, choices
from skylift.backend.reasons import blocked_by, own_reason
from skylift.backend.scheduler_state import ContainerState, PoolState, SchedulerState, Work


class Deadlock(msgspec.Struct, frozen=True):
    """Work that running calls wait for, and that cannot go on before they do."""

    work: Work
    waiting: tuple[str, ...]
    """The containers whose calls wait for it."""
    message: str
    """For whoever waits: why, and what to do."""


def find_deadlocks(state: SchedulerState) -> list[Deadlock]:
    """All of them; first the one to break, in the deepest call: then those above it may go on."""
    stuck = {
        container.container_id: container
        for host in state.hosts.values()
        for container in host.containers.values()
        if container.awaits and container.phase == "busy"
    }
    if not stuck:
        return []
    look = _Look(state, stuck)
    while moving := [each for each in stuck.values() if any(look.moves(work) for work in each.awaits)]:
        for container in moving:
            del stuck[container.container_id]
    waiting: dict[int, tuple[Work, list[str]]] = {}
    for container in stuck.values():
        for work in container.awaits:
            waiting.setdefault(id(work), (work, []))[1].append(container.container_id)
    found = [Deadlock(work, tuple(names), look.message(work)) for work, names in waiting.values()]
    found.sort(key=lambda deadlock: (not deadlock.work.units, -deadlock.work.depth, -deadlock.work.since))
    return found


class _Look:
    """One look at the state. `stuck` are the containers not known to go on; it shrinks meanwhile."""

    def __init__(self, state: SchedulerState, stuck: dict[str, ContainerState]) -> None:
        self.state = state
        self.stuck = stuck
        self.rooms = [Room(host) for host in state.hosts.values()]
        self.holders: dict[int, list[ContainerState]] = {}
        for container in self._containers():
            if container.call is not None:
                self.holders.setdefault(id(container.call), []).append(container)

    def moves(self, work: Work) -> bool:
        """Whether the work is being done, or can be, without any of the stuck containers."""
        holders = self.holders.get(id(work), [])
        if any(holder.container_id not in self.stuck for holder in holders):
            return True
        if work.units and work.pool is not None:
            return self._can_begin(work.pool)
        # What nobody has is on its way somewhere.
        return not holders

    def _can_begin(self, pool: PoolState) -> bool:
        if any(key not in self.stuck for key in pool.containers):
            return True
        if pool.max_containers is not None and len(pool.containers) >= pool.max_containers:
            return False
        # A host that is away may come back, and one that was never there may come.
        hosts = self.state.hosts.values()
        return not hosts or any(not room.host.connected or self._fits(room, pool) for room in self.rooms)

    def _fits(self, room: Room, pool: PoolState) -> bool:
        there = room.host.containers
        others = Amount().plus(container for key, container in there.items() if key not in self.stuck)
        return any(room.fits(pool, gpu, others) for gpu in choices(room.host, pool))

    def message(self, work: Work) -> str:
        """Why it is stuck."""
        pool = work.pool
        if pool is None or not work.units:
            name = pool.label if pool is not None else work.call_id
            return (
                f"{name} would never end: it waits, directly or by way of other calls, for a call that waits "
                "for it. Let a call wait only for calls that it makes itself."
            )
        if pool.containers and len(pool.containers) == pool.max_containers:
            reason, advice = own_reason(pool), "Raise max_containers"
        else:
            reason, advice = blocked_by(self.state, self.rooms, pool), "Ask for less (cpu=, memory=, gpu=)"
        return (
            f"{pool.label} would never begin: it is {reason}. What it needs is held by calls that wait for "
            f"it. {advice} for the functions that call each other, or make fewer of these calls at once."
        )

    def _containers(self) -> Iterator[ContainerState]:
        for host in self.state.hosts.values():
            yield from host.containers.values()
