"""The scheduler: a pure function from what there is, and a clock, to decisions with their reasons.

`decide` changes nothing. The control plane carries its decisions out, and calls it again when something has
happened or when a decision says so. The path of a warm call uses `assign` alone, for one pool.

What holds (and is tested): a container with room never stays idle while work of its pool waits; no limit
and no reservation is ever exceeded; within a pool work starts in the order in which it came, maps taking
turns; a session's container is never ended to make room (where it has been idle for a minute it may be put to
sleep, which loses nothing); whoever waits for long is served before what came later; what running calls wait
for is served before what nothing waits for, and never waits for their cores; nothing is ended for containers
that are only kept warm, and they give way to what has waited for long.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable
from itertools import islice

from skylift.backend.keeping import idle_elsewhere, let_go, live, sleepers_elsewhere, start_warm
from skylift.backend.placement import Room, find_coming, find_room, make_room
from skylift.backend.reasons import blocked_by, impossible, label, own_reason, session_start, start_reason
from skylift.backend.scheduler_state import (
    DEFAULT_STARTUP,
    Assign,
    ContainerState,
    Decision,
    Fail,
    Keep,
    PoolState,
    Retire,
    SchedulerState,
    Sleep,
    Start,
    Stop,
    Wait,
    Work,
)

FAIR_AFTER = 30.0
"""Seconds. Work that has waited for so long takes busy containers, after their present call, from pools whose
own work came later."""

LOOK_AGAIN = 0.1
"""Seconds between two looks at whether work that runs has become long enough to start another container."""


def decide(state: SchedulerState, now: float) -> list[Decision]:
    """What to do now. The reasons are for people."""
    decisions: list[Decision] = []
    left: list[tuple[PoolState, int, float]] = []
    assigned: dict[str, int] = {}
    for pool in state.pools.values():
        given = assign(pool)
        decisions += given
        assigned[pool.pool_id] = len(given)
        units = pool.queued_units - sum(assignment.units for assignment in given)
        if units > 0:
            left.append((pool, units, pool.queue[0].since))
        elif pool.waking is not None and not pool.queue and not pool.containers:
            left.append((pool, 1, pool.waking))
    left.sort(key=lambda waiting: _turn(waiting[0], waiting[2], now))
    rooms = [Room(host) for host in state.hosts.values()]
    ending: set[str] = set()
    for pool, units, since in left:
        _find_containers(state, pool, units, since, rooms, ending, decisions, now)
    waiting = {pool.pool_id: units for pool, units, _ in left}
    started = Counter(decision.pool_id for decision in decisions if isinstance(decision, Start))
    for pool in state.pools.values():
        key = pool.pool_id
        decisions += start_warm(pool, waiting.get(key, 0), assigned[key], started[key], rooms, now)
    for pool in state.pools.values():
        decisions += let_go(state, pool, pool.pool_id in waiting, ending, now)
    return decisions


# --- giving out work -------------------------------------------------------------------------------


def assign(pool: PoolState) -> list[Assign]:
    """Which of the pool's idle containers gets which of its work. The container used last comes first."""
    if not pool.idle or not pool.queue:
        return []
    first = pool.queue[0]
    if len(pool.idle) == 1 or (len(pool.queue) == 1 and first.units == 1):
        return [Assign(pool.pool_id, first.call_id, pool.idle[-1].container_id, share(pool, first))]
    given: list[Assign] = []
    # Calls are served once; a map goes to the end of the line with what it has left.
    line = deque((work, work.units) for work in islice(pool.queue, len(pool.idle)))
    for container in reversed(pool.idle):
        if not line:
            break
        work, units = line.popleft()
        some = min(units, share(pool, work))
        given.append(Assign(pool.pool_id, work.call_id, container.container_id, some))
        if units > some:
            rest = work, units - some
            line.insert(_place(line, work) if work.depth else len(line), rest)
    return given


def _place(line: Iterable[tuple[Work, int]], work: Work) -> int:
    """Where in a line work comes behind all that is as deep, as in `PoolState.queue`."""
    return sum(1 for other, _ in line if other.depth >= work.depth)


def share(pool: PoolState, work: Work) -> int:
    """How many of a map's inputs one container gets at once: its batch, but no more than what leaves the
    others their part."""
    if work.units == 1:
        return 1
    working = sum(1 for container in pool.containers.values() if container.phase in ("idle", "busy"))
    return max(1, min(work.batch, math.ceil(work.units / max(1, working))))


def top_up(pool: PoolState, work: Work, outstanding: int) -> int:
    """How many more inputs of a map a container gets that has `outstanding` ones still to do; 0 for none.

    So that it need not wait for the gateway between two batches. Never where other work waits for the
    container, and never behind inputs that take long.
    """
    if work.batch < 2 or outstanding > work.batch // 2 or not work.units:
        return 0
    if len(pool.queue) > 1 or pool.idle:
        return 0
    return share(pool, work)


# --- getting containers ----------------------------------------------------------------------------


def _turn(pool: PoolState, since: float, now: float) -> tuple[bool, int, float]:
    """Who chooses first: whoever has waited for long and has nothing that works for it; then what the deepest
    calls wait for, since they let go of what they have only after it; then whoever has waited longest."""
    overdue = now - since >= FAIR_AFTER and not live(pool)
    return not overdue, -pool.depth, since


def wanted(pool: PoolState, units: int, now: float) -> int:
    """How many more containers the pool should have for `units` that no idle container takes.

    Another one pays when what waits would take longer to drain than it takes to start. How long units take is
    known from those that are over; before any is, one that runs is expected to run for as long as it has
    already (so the longer the first one runs, the more containers come). No more start at once than are
    ready.
    """
    live = _working(pool)
    if not live:
        more = 1
    else:
        busy = [now - container.since for container in live if container.phase == "busy"]
        starting = sum(1 for container in live if container.phase == "starting")
        duration = pool.duration or max(busy, default=0.0)
        remaining = sum(age if age > duration else duration - age for age in busy)
        startup = pool.startup or DEFAULT_STARTUP
        useful = min(math.ceil((remaining + units * duration) / startup), units + len(busy))
        more = min(useful - len(live), max(1, len(live) - starting) - starting)
    if pool.max_containers is not None:
        more = min(more, pool.max_containers - len(pool.containers))
    return max(0, more)


def _find_containers(
    state: SchedulerState,
    pool: PoolState,
    units: int,
    since: float,
    rooms: list[Room],
    ending: set[str],
    decisions: list[Decision],
    now: float,
) -> None:
    if not pool.containers:
        problem = impossible(state.hosts.values(), pool)
        if problem is not None:
            decisions.append(Fail(pool.pool_id, problem))
            return
    if now < pool.not_before:
        decisions.append(Wait(pool.pool_id, "its container failed to start: trying again", pool.not_before))
        return
    more = wanted(pool, units, now)
    started = 0
    while started < more and (place := find_room(rooms, pool)) is not None:
        room, gpu = place
        room.take(pool, gpu)
        started += 1
        decisions.append(Start(pool.pool_id, room.host.host_id, gpu, start_reason(pool, units, gpu)))
    if started or not more:
        decisions.append(_wait_for_own(pool, units, started, now))
        return
    coming = find_coming(rooms, pool)
    if coming is not None:
        reason = blocked_by(state, rooms, pool)
        coming[0].take(pool, coming[1])
        decisions.append(Wait(pool.pool_id, reason))
        return
    # What gets on without, if slowly, puts no session to sleep.
    sleepers, soon = ([], None) if _working(pool) else sleepers_elsewhere(state, pool, ending, now)
    made = make_room(rooms, pool, [*idle_elsewhere(state, pool, ending), *sleepers])
    if made is not None:
        room, gpu, victims = made
        reason = blocked_by(state, rooms, pool)
        for victim in victims:
            ending.add(victim.container_id)
            room.coming.add(victim)
            decisions.append(_make_way(state, victim, pool))
        room.take(pool, gpu)
        decisions.append(Wait(pool.pool_id, reason))
        return
    _wait_for_others(state, pool, since, rooms, ending, decisions, now, sleepers, soon)


def _make_way(state: SchedulerState, victim: ContainerState, pool: PoolState) -> Decision:
    reason = f"idle, and {pool.label} needs the room"
    owner = state.pools.get(victim.pool_id)
    if owner is not None and owner.session:
        return Sleep(victim.container_id, reason)
    return Stop(victim.container_id, reason)


def _wait_for_others(
    state: SchedulerState,
    pool: PoolState,
    since: float,
    rooms: list[Room],
    ending: set[str],
    decisions: list[Decision],
    now: float,
    sleepers: list[ContainerState],
    soon: float | None,
) -> None:
    """`sleepers`: see `sleepers_elsewhere`, as of `soon`."""
    if _working(pool):
        # It gets on, if slowly: it does not make others stop.
        decisions.append(Wait(pool.pool_id, own_reason(pool)))
        return
    reason = blocked_by(state, rooms, pool)
    if now - since < FAIR_AFTER:
        until = since + FAIR_AFTER
        decisions.append(Wait(pool.pool_id, reason, until if soon is None else min(until, soon)))
        return
    busy = [
        container
        for container in _containers(state)
        if container.phase == "busy" and container.container_id not in ending
    ]
    retired = [container for container in busy if container.retiring]
    givers = [c for c in busy if not c.retiring and _gives_way(state, c, pool, since)]
    givers.sort(key=lambda container: container.since)
    idle = idle_elsewhere(state, pool, ending, kept_too=True)
    made = make_room(rooms, pool, [*retired, *idle, *givers, *sleepers])
    if made is not None:
        room, gpu, victims = made
        for victim in victims:
            ending.add(victim.container_id)
            if victim.phase == "idle":
                decisions.append(_make_way(state, victim, pool))
            elif not victim.retiring:
                decisions.append(
                    Retire(
                        victim.container_id,
                        f"{pool.label} has waited longer than what {label(state, victim)} has",
                    )
                )
        # What becomes free on that host meanwhile is kept for it.
        room.take(pool, gpu)
        soon = None
    decisions.append(Wait(pool.pool_id, reason, soon))


def _gives_way(state: SchedulerState, container: ContainerState, pool: PoolState, since: float) -> bool:
    owner = state.pools.get(container.pool_id)
    if owner is None or owner is pool or owner.session:
        return False
    return not owner.queue or owner.queue[0].since > since


def _containers(state: SchedulerState) -> Iterable[ContainerState]:
    for host in state.hosts.values():
        yield from host.containers.values()


def _working(pool: PoolState) -> list[ContainerState]:
    """Those that can take the work which is served next: a container whose call waits for that very work, or
    for other work as deep, will not."""
    depth = pool.depth
    return [container for container in live(pool) if not container.lends_to(depth)]


# --- words -----------------------------------------------------------------------------------------


_VERBS = {Stop: "is stopped", Sleep: "is put to sleep", Retire: "is stopped after its call"}


def explain(state: SchedulerState, pool_id: str, now: float) -> str:
    """What the scheduler would do for a pool now, and why, in one sentence a decision."""
    pool = state.pools.get(pool_id)
    if pool is None:
        return "nothing waits or runs there"
    lines: list[str] = []
    for decision in decide(state, now):
        if isinstance(decision, Assign) and decision.pool_id == pool_id:
            lines.append(f"{decision.call_id} goes to container {decision.container_id}, which is idle")
        elif isinstance(decision, Start) and decision.pool_id == pool_id:
            lines.append(f"a container is started on {state.hosts[decision.host_id].name}: {decision.reason}")
        elif isinstance(decision, Fail) and decision.pool_id == pool_id:
            lines.append(f"it fails: {decision.problem.message}")
        elif isinstance(decision, Wait) and decision.pool_id == pool_id:
            lines.append(decision.reason)
        elif isinstance(decision, (Stop, Sleep, Retire)) and decision.container_id in pool.containers:
            verb = _VERBS[type(decision)]
            lines.append(f"container {decision.container_id} {verb}: {decision.reason}")
        elif isinstance(decision, Keep) and decision.container_id in pool.containers:
            lines.append(
                f"container {decision.container_id} is kept for {max(0.0, decision.until - now):.0f} s more"
            )
    return "; ".join(lines) or "everything that was asked for runs"


def _wait_for_own(pool: PoolState, units: int, started: int, now: float) -> Wait:
    at_limit = pool.max_containers is not None and len(pool.containers) + started >= pool.max_containers
    if started and not pool.containers:
        return Wait(pool.pool_id, session_start(pool) if pool.session else "starting a container")
    reason = "starting another container" if started else own_reason(pool)
    return Wait(pool.pool_id, reason, None if at_limit else now + LOOK_AGAIN)
