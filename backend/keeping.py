"""Which containers are kept though nothing runs in them, which are let go, and which sessions sleep.

Part of the scheduler: pure functions of what there is, and a clock.
"""

from __future__ import annotations

from collections.abc import Iterable

from skylift.backend.placement import Room, find_room
from skylift.backend.reasons import warm_reason
from skylift.backend.scheduler_state import (
    ContainerState,
    Decision,
    Keep,
    PoolState,
    SchedulerState,
    Sleep,
    Start,
    Stop,
    Wait,
)

SLEEP_FOR_OTHERS = 60.0
"""Seconds. A session that has been idle for so long sleeps where others need what it has."""


def live(pool: PoolState) -> list[ContainerState]:
    """Its containers that can take work, now or soon."""
    return [c for c in pool.containers.values() if c.phase in ("starting", "idle", "busy") and not c.retiring]


# --- containers that nothing waits for ---------------------------------------------------------------


def start_warm(
    pool: PoolState, units: int, assigned: int, started: int, rooms: list[Room], now: float
) -> list[Decision]:
    """The containers to start for `min_containers` and `buffer_containers`, as far as there is room: nothing
    is ended for their sake.

    `units`: that no idle container takes now; `assigned`: idle containers that get work now; `started`:
    containers that are started for what waits.
    """
    if not (pool.needed and pool.min_containers) and not pool.buffer_containers:
        return []
    here = live(pool)
    more = least(pool) - len(here) - started
    buffer = 0
    if pool.buffer_containers and (units or assigned or any(c.phase == "busy" for c in here)):
        coming = sum(1 for container in here if container.phase == "starting") + started
        # Where more waits than containers are coming for it, how many the work itself needs is decided first.
        if units <= coming:
            idle = sum(1 for container in here if container.phase == "idle") - assigned
            buffer = pool.buffer_containers - (idle + coming - units)
    reason = warm_reason(pool, buffer > more)
    more = max(more, buffer)
    if pool.max_containers is not None:
        more = min(more, pool.max_containers - len(pool.containers) - started)
    again = max(pool.not_before, pool.warm_not_before)
    if more > 0 and now < again:
        # What waits has been told already.
        return [] if units else [Wait(pool.pool_id, "a container failed to start: trying again", again)]
    starts: list[Decision] = []
    while len(starts) < more and (place := find_room(rooms, pool)) is not None:
        room, gpu = place
        room.take(pool, gpu)
        starts.append(Start(pool.pool_id, room.host.host_id, gpu, reason))
    return starts


def least(pool: PoolState) -> int:
    """How many containers the pool has at least, as far as there is room."""
    if not pool.needed:
        return 0
    return min(pool.min_containers, pool.max_containers or pool.min_containers)


def spare(pool: PoolState) -> list[ContainerState]:
    """The idle containers that neither `min_containers` nor `buffer_containers` keeps, the one idle for
    longest first."""
    idle = len(pool.idle)
    if least(pool):
        idle = min(idle, len(live(pool)) - least(pool))
    if pool.buffer_containers and _active(pool):
        idle = min(idle, len(pool.idle) - pool.buffer_containers)
    return pool.idle[: max(0, idle)]


def _active(pool: PoolState) -> bool:
    return bool(pool.queue) or any(container.phase == "busy" for container in pool.containers.values())


# --- letting go --------------------------------------------------------------------------------------


def let_go(
    state: SchedulerState, pool: PoolState, waiting: bool, ending: set[str], now: float
) -> list[Decision]:
    """What becomes of the pool's idle containers. `waiting`: it has work that none of them takes."""
    decisions: list[Decision] = [
        Stop(container.container_id, "it has done what it was kept for")
        for container in pool.containers.values()
        if container.phase == "idle" and container.retiring and container.container_id not in ending
    ]
    if waiting or pool.queue:
        return decisions
    for container in spare(pool):
        if container.container_id in ending or (pool.session and why_kept(state, container)):
            continue
        until = max(container.since, pool.left) + pool.scaledown_window
        if now < until:
            decisions.append(Keep(container.container_id, until))
        else:
            decisions.append(_out_of_time(state, pool, container))
    return decisions


def _out_of_time(state: SchedulerState, pool: PoolState, container: ContainerState) -> Decision:
    idle = f"idle for {pool.scaledown_window:g} s"
    if not pool.session or pool.idle_policy == "stop":
        return Stop(container.container_id, idle)
    problem = why_awake(state, container)
    if not problem:
        return Sleep(container.container_id, idle)
    return Stop(container.container_id, f"{idle}, and cannot sleep: {problem}")


def why_awake(state: SchedulerState, container: ContainerState) -> str:
    """Why a session's container cannot sleep, as far as is known; else ""."""
    if container.cannot_sleep:
        return container.cannot_sleep
    host = state.hosts.get(container.host_id)
    return host.cannot_sleep if host is not None else ""


def why_kept(state: SchedulerState, container: ContainerState) -> str:
    """Why an idle container is kept without an end; "" where it is not."""
    pool = state.pools.get(container.pool_id)
    if pool is None or container.phase != "idle" or container.retiring:
        return ""
    if pool.session:
        if pool.idle_policy == "keep":
            return "idle_policy=keep"
        if pool.idle_policy == "sleep" and (problem := why_awake(state, container)):
            return f"cannot sleep: {problem}"
        return ""
    if container in spare(pool):
        return ""
    kept_anyway = least(pool) and container in pool.idle[max(0, len(live(pool)) - least(pool)) :]
    return (
        f"min_containers={pool.min_containers}"
        if kept_anyway
        else f"buffer_containers={pool.buffer_containers}"
    )


# --- making room for others ----------------------------------------------------------------------------


def idle_elsewhere(
    state: SchedulerState, pool: PoolState, ending: set[str], *, kept_too: bool = False
) -> list[ContainerState]:
    """Idle containers that may be ended for the pool's sake, the one idle for longest first; with `kept_too`
    also those that `min_containers` and `buffer_containers` keep, behind the others."""
    found: list[ContainerState] = []
    kept: list[ContainerState] = []
    for other in state.pools.values():
        if other is pool or other.session or other.queue or not other.idle:
            continue
        may_go = spare(other)
        found += may_go
        if kept_too:
            kept += other.idle[len(may_go) :]
    return [c for each in (found, kept) for c in _by_age(each) if c.container_id not in ending]


def sleepers_elsewhere(
    state: SchedulerState, pool: PoolState, ending: set[str], now: float
) -> tuple[list[ContainerState], float | None]:
    """Idle sessions that may be put to sleep for the pool's sake, the one idle for longest first; and when
    there will be another one, if it stays idle."""
    found: list[ContainerState] = []
    soon: float | None = None
    for other in state.pools.values():
        if (
            other is pool
            or not other.session
            or other.queue
            or other.idle_policy not in ("sleep", "sleep-or-stop")
        ):
            continue
        for container in other.idle:
            if container.container_id in ending or why_awake(state, container):
                continue
            at = container.since + SLEEP_FOR_OTHERS
            if at <= now:
                found.append(container)
            elif soon is None or at < soon:
                soon = at
    return _by_age(found), soon


def _by_age(containers: Iterable[ContainerState]) -> list[ContainerState]:
    return sorted(containers, key=lambda container: container.since)
