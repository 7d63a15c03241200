"""Calls that wait for calls: none waits for cores that its own callers hold, and what is stuck is found."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from test_scheduler import H100, World

from skylift.backend.deadlocks import find_deadlocks
from skylift.backend.scheduler import assign, decide
from skylift.backend.scheduler_state import (
    Assign,
    ContainerState,
    HostState,
    PoolState,
    SchedulerState,
    Start,
    Stop,
    Wait,
    Work,
)


def caller(world: World, pool: PoolState, *awaits: Work, depth: int = 0, **what: Any) -> ContainerState:
    """A container whose call waits for these."""
    container = world.container(pool, "busy", **what)
    container.call = Work(f"fc-of-{container.container_id}", world.now, units=0, depth=depth)
    container.awaits = awaits
    for work in awaits:
        if work.pool is not None:
            work.pool.deepen(work, depth + 1)
    return container


def starts(world: World) -> list[str]:
    return [decision.pool_id for decision in world.of(Start)]


# --- who gets what ---------------------------------------------------------------------------------


def test_deeper_work_uses_the_cores_of_those_that_wait() -> None:
    world = World(cpus=2.0)
    outer, inner = world.pool("outer", cpu=2.0), world.pool("inner", cpu=2.0)
    work = world.submit(inner, "fc-1")
    assert ["po-inner"] == starts(world)
    busy = caller(world, outer)
    assert [] == starts(world)
    busy.awaits = (work,)
    inner.deepen(work, 1)
    assert ["po-inner"] == starts(world)


def test_work_that_is_no_deeper_does_not() -> None:
    world = World(cpus=2.0)
    outer, inner = world.pool("outer", cpu=2.0), world.pool("inner", cpu=0.0)
    caller(world, outer, world.submit(inner, "fc-1"))
    world.submit(world.pool("other", cpu=1.0), "fc-2")
    assert ["po-inner"] == starts(world)


def test_a_level_of_calls_never_has_more_than_the_hosts_cores() -> None:
    world = World(cpus=2.0)
    outer, inner = world.pool("outer", cpu=1.0), world.pool("inner", cpu=1.0, max_containers=None)
    for number in range(2):
        caller(world, outer, world.submit(inner, f"fc-{number}"))
    for _ in range(2):
        world.container(inner, "busy").call = Work("fc-busy", world.now, 0, depth=1)
    world.now += 100
    assert [] == starts(world)


def test_deeper_work_chooses_first_and_then_whoever_came_first() -> None:
    world = World(cpus=1.0)
    first, second, deep = (world.pool(name, cpu=1.0) for name in ("first", "second", "deep"))
    world.submit(first, "fc-1")
    world.now += 1
    world.submit(second, "fc-2")
    world.now += 1
    deep.deepen(world.submit(deep, "fc-3"), 1)
    assert ["po-deep"] == starts(world)


def test_who_has_waited_for_long_chooses_before_deeper_work() -> None:
    world = World(cpus=1.0)
    old, deep = world.pool("old", cpu=1.0), world.pool("deep", cpu=1.0)
    world.submit(old, "fc-1")
    world.now += 31
    deep.deepen(world.submit(deep, "fc-2"), 1)
    assert ["po-old"] == starts(world)


def test_in_a_pool_deeper_work_is_served_first_and_else_in_order() -> None:
    world = World()
    pool = world.pool("f", max_containers=1)
    works = [world.submit(pool, f"fc-{number}") for number in range(4)]
    many = world.submit(pool, "fc-map", units=4)
    pool.deepen(works[2], 1)
    pool.deepen(works[1], 2)
    pool.deepen(many, 1)
    assert ["fc-1", "fc-2", "fc-map", "fc-0", "fc-3"] == [work.call_id for work in pool.queue]
    world.container(pool)
    for expected in ["fc-1", "fc-2", "fc-map", "fc-map", "fc-map", "fc-map", "fc-0", "fc-3"]:
        (given_out,) = assign(pool)
        assert expected == given_out.call_id
        assert expected == pool.give(given_out.units, world.now).call_id
    assert 0 == pool.queued_units


def test_what_comes_back_goes_before_what_is_as_deep() -> None:
    world = World()
    pool = world.pool("f")
    pool.deepen(world.submit(pool, "fc-deep"), 1)
    world.submit(pool, "fc-1")
    pool.push_front(Work("fc-back", world.now))
    assert ["fc-deep", "fc-back", "fc-1"] == [work.call_id for work in pool.queue]


def test_a_call_of_the_function_itself_does_not_wait_for_its_caller() -> None:
    world = World(cpus=1.0)
    pool = world.pool("f", cpu=1.0)
    caller(world, pool, world.submit(pool, "fc-1"))
    assert [Start("po-f", "ho-1", None, "1 call waits, and f has 1 busy or starting")] == world.of(Start)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), max_size=8),
    st.integers(1, 6),
)
def test_what_is_given_out_is_what_the_queue_gives(works: list[tuple[int, int]], idle: int) -> None:
    world = World()
    pool = world.pool("f")
    for number, (depth, units) in enumerate(works):
        pool.deepen(world.submit(pool, f"fc-{number}", units=units), depth)
    for _ in range(idle):
        world.container(pool)
    for each in assign(pool):
        world.apply(each)
    assert pool.queued_units == sum(work.units for work in pool.queue)
    assert [] == [work.depth for work in pool.queue if work.units < 0]
    depths = [work.depth for work in pool.queue]
    assert sorted(depths, reverse=True) == depths


# --- what is stuck -----------------------------------------------------------------------------------


def stuck(world: World) -> list[str]:
    return [deadlock.work.call_id for deadlock in find_deadlocks(world.state)]


def test_nothing_waits_for_anything() -> None:
    world = World()
    world.submit(world.pool("f"), "fc-1")
    assert [] == find_deadlocks(world.state)


def test_a_gpu_that_the_caller_holds() -> None:
    world = World()
    outer, inner = world.pool("app.outer", gpus=[H100]), world.pool("app.inner", gpus=[H100])
    work = world.submit(inner, "fc-1")
    container = caller(world, outer, work, gpu_model="H100", gpu_count=1)
    (deadlock,) = find_deadlocks(world.state)
    assert (work, (container.container_id,)) == (deadlock.work, deadlock.waiting)
    assert (
        "app.inner would never begin: it is waiting for an H100: 1 of 1 in use by app.outer (waiting for "
        "calls of its own). What it needs is held by calls that wait for it. Ask for less (cpu=, memory=, "
        "gpu=) for the functions that call each other, or make fewer of these calls at once."
    ) == deadlock.message


def test_a_gpu_that_somebody_else_holds_comes_free() -> None:
    world = World(gpus={"H100": 2})
    outer, inner = world.pool("outer", gpus=[H100]), world.pool("inner", gpus=[H100])
    caller(world, outer, world.submit(inner, "fc-1"), gpu_model="H100", gpu_count=1)
    world.container(world.pool("other", gpus=[H100]), "busy", gpu_model="H100", gpu_count=1)
    assert [] == stuck(world)


def test_memory_that_callers_hold_and_what_others_hold_would_not_do() -> None:
    world = World(memory=1199)
    outer, inner = world.pool("outer", memory=400), world.pool("inner", memory=400)
    for number in range(2):
        caller(world, outer, world.submit(inner, f"fc-{number}"))
    world.container(world.pool("other", memory=300), "busy")
    assert ["fc-0", "fc-1"] == sorted(stuck(world))
    world.host.memory = 1200
    assert [] == stuck(world)


def test_cores_are_no_reason() -> None:
    world = World(cpus=1.0)
    pool = world.pool("f", cpu=1.0)
    for depth in range(5):
        caller(world, pool, Work("fc-elsewhere", world.now), depth=depth)
    work = world.submit(pool, "fc-1")
    caller(world, pool, work, depth=5)
    assert [] == stuck(world)


def test_a_limit_that_callers_fill() -> None:
    world = World()
    pool = world.pool("app.f", max_containers=2)
    first, second = world.submit(pool, "fc-1"), world.submit(pool, "fc-2")
    caller(world, pool, first)
    free = world.container(pool, "busy")
    assert [] == stuck(world)
    free.call = Work("fc-3", world.now, 0)
    free.awaits = (second,)
    found = find_deadlocks(world.state)
    assert {"fc-1", "fc-2"} == {deadlock.work.call_id for deadlock in found}
    assert "it is waiting for one of 2 busy containers (max_containers=2)." in found[0].message
    assert "Raise max_containers for the functions that call each other" in found[0].message


def test_a_chain_goes_on_while_its_end_does() -> None:
    world = World(gpus={"H100": 1})
    outer, middle, inner = (
        world.pool("outer", gpus=[H100]),
        world.pool("middle"),
        world.pool("inner", gpus=[H100]),
    )
    last = world.submit(inner, "fc-last")
    middle_work = Work("fc-middle", world.now, 0, depth=1)
    middle_work.pool = middle
    caller(world, outer, middle_work, gpu_model="H100", gpu_count=1)
    at_middle = world.container(middle, "busy")
    at_middle.call = middle_work
    assert [] == stuck(world)
    at_middle.awaits = (last,)
    inner.deepen(last, 2)
    assert ["fc-last", "fc-middle"] == stuck(world)


def test_one_that_waits_for_several_goes_on_while_one_of_them_does() -> None:
    world = World()
    pool, inner = world.pool("f", gpus=[H100]), world.pool("g", gpus=[H100])
    blocked, runs = world.submit(inner, "fc-blocked"), Work("fc-runs", world.now, 0)
    caller(world, pool, blocked, runs, gpu_model="H100", gpu_count=1)
    other = world.container(world.pool("h"), "busy")
    other.call = runs
    assert [] == stuck(world)
    other.call = None
    assert [] == stuck(world), "what nobody has may be on its way"


def test_calls_that_wait_for_each_other() -> None:
    world = World()
    pool = world.pool("app.f")
    works = [Work(f"fc-{number}", world.now, 0) for number in range(2)]
    for mine, other in (works, reversed(works)):
        mine.pool = pool
        container = world.container(pool, "busy")
        container.call, container.awaits = mine, (other,)
    found = find_deadlocks(world.state)
    assert {"fc-0", "fc-1"} == {deadlock.work.call_id for deadlock in found}
    assert (
        "app.f would never end: it waits, directly or by way of other calls, for a call that waits for it. "
        "Let a call wait only for calls that it makes itself."
    ) == found[0].message


def test_nothing_is_known_without_hosts() -> None:
    world = World()
    outer, inner = world.pool("outer", gpus=[H100]), world.pool("inner", gpus=[H100])
    caller(world, outer, world.submit(inner, "fc-1"), gpu_model="H100", gpu_count=1)
    assert ["fc-1"] == stuck(world)
    away = HostState("ho-2", "elsewhere", cpus=1.0, memory=100)
    away.connected = False
    world.state.hosts["ho-2"] = away
    assert [] == stuck(world)


# --- trees of calls ------------------------------------------------------------------------------------


class Trees:
    """Calls that call, each waiting for all that it has called; containers start and stop at once."""

    def __init__(self, seed: int, cpus: float, max_containers: int | None) -> None:
        self.random = random.Random(seed)
        self.state = SchedulerState()
        self.host = HostState("ho-1", "lab", cpus=cpus, memory=1 << 20)
        self.state.hosts["ho-1"] = self.host
        self.now = 0.0
        self.count = 0
        self.open: dict[int, list[Work]] = {}
        """What running calls wait for."""
        self.pools = [
            PoolState(f"po-{number}", f"f{number}", cpu=cpu, memory=1, max_containers=max_containers)
            for number, cpu in enumerate((0.125, 1.0, cpus))
        ]
        self.state.pools = {pool.pool_id: pool for pool in self.pools}

    def submit(self, depth: int) -> Work:
        self.count += 1
        work = Work(f"fc-{self.count}", self.now, depth=depth)
        self.random.choice(self.pools).push(work)
        return work

    def step(self) -> bool:
        self.now += 1.0
        moved = False
        for decision in decide(self.state, self.now):
            if isinstance(decision, Start):
                pool = self.state.pools[decision.pool_id]
                self.count += 1
                made = ContainerState(
                    f"co-{self.count}", pool.pool_id, "ho-1", cpu=pool.cpu, memory=1, since=self.now
                )
                pool.containers[made.container_id] = self.host.containers[made.container_id] = made
                pool.set_phase(made, "idle", self.now)
            elif isinstance(decision, Assign):
                pool = self.state.pools[decision.pool_id]
                container = pool.containers[decision.container_id]
                container.call = pool.give(decision.units, self.now)
                pool.set_phase(container, "busy", self.now)
                depth = container.call.depth + 1
                children = self.random.choice([0, 1, 2]) if depth < 5 else 0
                container.awaits = tuple(self.submit(depth) for _ in range(children))
            elif isinstance(decision, Stop):
                gone = self.host.containers.pop(decision.container_id)
                del self.state.pools[gone.pool_id].containers[gone.container_id]
                self.state.pools[gone.pool_id].set_phase(gone, "stopping", self.now)
            else:
                continue
            moved = True
        held = {container.call for container in self.host.containers.values()}
        queued = {work for pool in self.pools for work in pool.queue}
        for container in list(self.host.containers.values()):
            if container.phase != "busy":
                continue
            container.awaits = tuple(work for work in container.awaits if work in held or work in queued)
            if not container.awaits:
                container.call = None
                self.state.pools[container.pool_id].set_phase(container, "idle", self.now)
                moved = True
        return moved


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.sampled_from([1.0, 2.0, 4.0]))
def test_trees_of_calls_come_to_their_end_however_few_cores_there_are(
    seed: int, roots: int, cpus: float
) -> None:
    trees = Trees(seed, cpus, None)
    for _ in range(roots):
        trees.submit(0)
    for _ in range(2000):
        if not trees.step() and not any(pool.queue for pool in trees.pools):
            break
        assert [] == find_deadlocks(trees.state)
    assert [] == [pool.label for pool in trees.pools if pool.queue]
    assert [] == [each for each in trees.host.containers.values() if each.phase == "busy"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_where_limits_stop_them_that_is_found(seed: int, roots: int) -> None:
    trees = Trees(seed, 2.0, 1)
    for _ in range(roots):
        trees.submit(0)
    for _ in range(2000):
        moved = trees.step()
        if not moved and not any(pool.queue for pool in trees.pools):
            return
        if find_deadlocks(trees.state):
            assert not any(trees.step() for _ in range(50)) or find_deadlocks(trees.state)
            return
    waits = [each for each in decide(trees.state, trees.now) if isinstance(each, Wait)]
    raise AssertionError(f"they neither end nor are they stuck: {waits}")
