"""The scheduler's decisions, on states made by hand and in simulations of arbitrary work."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skylift.backend.keeping import SLEEP_FOR_OTHERS, why_kept
from skylift.backend.scheduler import FAIR_AFTER, assign, decide, explain, share, top_up
from skylift.backend.scheduler_state import (
    Assign,
    ContainerState,
    Decision,
    Fail,
    HostState,
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
from skylift.wire import GpuRequest

H100 = GpuRequest(model="H100")


class World:
    """A state to decide on, in which decisions come true."""

    def __init__(self, **host: Any) -> None:
        self.state = SchedulerState()
        self.now = 1000.0
        self.started: list[str] = []
        """Calls, in the order in which they were given to containers."""
        self._numbers = itertools.count()
        self.ends: dict[str, tuple[float, Work | None]] = {}
        self.lengths: dict[str, float] = {}
        self.first_wait: dict[str, float] = {}
        self.sleepless: set[str] = set()
        """Pools whose sessions cannot sleep, and only find out when it is tried."""
        self.idle_since = 0.0
        self.slept: list[str] = []
        """Containers that were put to sleep, also those that could not."""
        defaults: dict[str, Any] = {"cpus": 4.0, "memory": 8192, "gpus": {"H100": 1}}
        self.host = HostState("ho-1", "lab", **{**defaults, **host})
        self.state.hosts["ho-1"] = self.host

    def pool(self, name: str, **what: Any) -> PoolState:
        what.setdefault("scaledown_window", 60.0)
        pool = PoolState(f"po-{name}", name, **what)
        self.state.pools[pool.pool_id] = pool
        return pool

    def submit(self, pool: PoolState, call_id: str, length: float = 0.0, units: int = 1) -> Work:
        work = Work(call_id, self.now, units)
        pool.push(work)
        self.lengths[call_id] = length
        return work

    def container(self, pool: PoolState, phase: str = "idle", **what: Any) -> ContainerState:
        number = next(self._numbers)
        what = {"cpu": pool.cpu, "memory": pool.memory, **what}
        container = ContainerState(
            f"co-{pool.label}-{number}",
            pool.pool_id,
            "ho-1",
            phase="starting",
            since=self.now,
            **what,
        )
        pool.containers[container.container_id] = container
        self.host.containers[container.container_id] = container
        pool.set_phase(container, phase, self.now)
        return container

    def decide(self) -> list[Decision]:
        return decide(self.state, self.now)

    def of(self, kind: type) -> list[Decision]:
        return [decision for decision in self.decide() if isinstance(decision, kind)]

    # --- making decisions come true ----------------------------------------------------------------

    def apply(self, decision: Decision) -> None:
        if isinstance(decision, Assign):
            pool = self.state.pools[decision.pool_id]
            container = pool.containers[decision.container_id]
            assert "idle" == container.phase
            assert pool.queue[0].call_id == decision.call_id
            pool.give(decision.units, self.now)
            pool.set_phase(container, "busy", self.now)
            container.cannot_sleep = ""
            self.started.append(decision.call_id)
            self.ends[container.container_id] = (self.now + self.lengths[decision.call_id], None)
        elif isinstance(decision, Start):
            pool = self.state.pools[decision.pool_id]
            gpu = decision.gpu
            container = self.container(
                pool, "starting", gpu_model=gpu.model if gpu else "", gpu_count=gpu.count if gpu else 0
            )
            self.ends[container.container_id] = (self.now + 1.0, None)
        elif isinstance(decision, Stop):
            container = self.host.containers[decision.container_id]
            assert "idle" == container.phase
            pool = self.state.pools[container.pool_id]
            assert not (pool.session and "needs the room" in decision.reason)
            pool.set_phase(container, "stopping", self.now)
            self.ends[container.container_id] = (self.now + 0.5, None)
        elif isinstance(decision, Sleep):
            container = self.host.containers[decision.container_id]
            assert "idle" == container.phase
            pool = self.state.pools[container.pool_id]
            assert pool.session
            container.sleeping = True
            self.idle_since = container.since
            pool.set_phase(container, "stopping", self.now)
            self.slept.append(decision.container_id)
            self.ends[container.container_id] = (self.now + 0.5, None)
        elif isinstance(decision, Retire):
            container = self.host.containers[decision.container_id]
            assert "busy" == container.phase
            self.state.pools[container.pool_id].retire(container)
        elif isinstance(decision, Fail):
            pool = self.state.pools[decision.pool_id]
            pool.queue.clear()
            pool.queued_units = 0

    def settle(self) -> None:
        """Decide until nothing more is to be done now."""
        for _ in range(50):
            acting = [d for d in self.decide() if not isinstance(d, (Wait, Keep))]
            self.check()
            if not acting:
                return
            for decision in acting:
                self.apply(decision)
            self.check()
        raise AssertionError(f"decisions do not come to rest: {acting}")

    def check(self) -> None:
        """No reservation and no limit is exceeded."""
        containers = self.host.containers.values()
        assert sum(container.cpu for container in containers) <= self.host.cpus + 1e-6
        assert sum(container.memory for container in containers) <= self.host.memory
        gpus: Counter[str] = Counter()
        for container in containers:
            if container.gpu_count:
                gpus[container.gpu_model] += container.gpu_count
        for model, count in gpus.items():
            assert count <= self.host.gpus.get(model, 0)
        for pool in self.state.pools.values():
            if pool.max_containers is not None:
                assert len(pool.containers) <= pool.max_containers
            assert pool.queued_units == sum(work.units for work in pool.queue)

    def step(self) -> bool:
        """Let the next thing happen. False when nothing would."""
        waits = [d.until for d in self.decide() if isinstance(d, (Wait, Keep)) and d.until is not None]
        times = [end for end, _ in self.ends.values()] + waits
        if not times:
            return False
        self.now = max(self.now, min(times)) + 1e-6
        for container_id, (end, _) in list(self.ends.items()):
            if end > self.now:
                continue
            del self.ends[container_id]
            container = self.host.containers[container_id]
            pool = self.state.pools[container.pool_id]
            if container.sleeping and pool.label in self.sleepless:
                container.sleeping = False
                container.cannot_sleep = "it has an open file"
                pool.set_phase(container, "idle", self.idle_since)
            elif container.phase == "stopping":
                pool.asleep = container.sleeping
                del self.host.containers[container_id]
                del pool.containers[container_id]
            else:
                pool.asleep = False
                if container.phase == "busy":
                    pool.duration = self.now - container.since
                pool.set_phase(container, "idle", self.now)
        self.settle()
        return True


# --- giving out work -------------------------------------------------------------------------------


def test_an_idle_container_takes_a_call_at_once() -> None:
    world = World()
    pool = world.pool("f")
    container = world.container(pool)
    world.submit(pool, "fc-1")
    assert [Assign("po-f", "fc-1", container.container_id, 1)] == assign(pool)


def test_calls_are_served_in_the_order_in_which_they_came() -> None:
    world = World()
    pool = world.pool("f", max_containers=1)
    for number in range(5):
        world.submit(pool, f"fc-{number}", 0.1)
    world.settle()
    while pool.queue:
        assert world.step()
    assert [f"fc-{number}" for number in range(5)] == world.started


def test_a_map_is_spread_over_the_idle_containers() -> None:
    world = World()
    pool = world.pool("f")
    for _ in range(2):
        world.container(pool)
    work = world.submit(pool, "fc-map", units=10)
    work.batch = 100
    assert [5, 5] == [assignment.units for assignment in assign(pool)]


def test_a_map_takes_turns_with_other_work() -> None:
    world = World()
    pool = world.pool("f")
    for _ in range(3):
        world.container(pool)
    world.submit(pool, "fc-map", units=10)
    world.submit(pool, "fc-call")
    assert ["fc-map", "fc-call", "fc-map"] == [assignment.call_id for assignment in assign(pool)]


def test_a_batch_leaves_the_other_containers_their_part() -> None:
    world = World()
    pool = world.pool("f")
    for _ in range(4):
        world.container(pool, "busy")
    assert 25 == share(pool, Work("fc-map", 0.0, 100, batch=500))
    assert 10 == share(pool, Work("fc-map", 0.0, 100, batch=10))


def test_a_container_is_topped_up_only_with_quick_inputs_and_when_nobody_waits() -> None:
    world = World()
    pool = world.pool("f")
    world.container(pool, "busy")
    quick = world.submit(pool, "fc-map", units=100)
    quick.batch = 20
    assert 20 == top_up(pool, quick, outstanding=10)
    assert 0 == top_up(pool, quick, outstanding=11)
    quick.batch = 1
    assert 0 == top_up(pool, quick, outstanding=0)
    quick.batch = 20
    world.submit(pool, "fc-other")
    assert 0 == top_up(pool, quick, outstanding=0)


# --- starting containers ---------------------------------------------------------------------------


def test_the_first_call_starts_one_container_and_says_why() -> None:
    world = World()
    pool = world.pool("app.f", gpus=[H100])
    for number in range(20):
        world.submit(pool, f"fc-{number}")
    decisions = world.decide()
    assert [
        Start(
            "po-app.f", "ho-1", GpuRequest(model="H100", exact=True), "the first container of app.f on H100"
        ),
        Wait("po-app.f", "starting a container", None),
    ] == decisions


def test_quick_calls_stay_in_one_container() -> None:
    world = World()
    pool = world.pool("f")
    pool.duration = 0.001
    world.container(pool, "busy")
    for number in range(100):
        world.submit(pool, f"fc-{number}")
    assert [] == world.of(Start)


def test_long_calls_get_more_containers() -> None:
    world = World()
    pool = world.pool("f")
    pool.duration = 10.0
    world.container(pool, "busy")
    world.submit(pool, "fc-1")
    world.submit(pool, "fc-2")
    assert ["2 calls wait, and f has 1 busy or starting"] == [start.reason for start in world.of(Start)]


def test_the_age_of_a_first_call_counts_before_anything_is_known() -> None:
    world = World()
    pool = world.pool("f")
    world.container(pool, "busy")
    world.submit(pool, "fc-1")
    assert [] == world.of(Start)
    world.now += 5.0
    assert 1 == len(world.of(Start))


def test_a_failed_start_is_not_tried_again_at_once() -> None:
    world = World()
    pool = world.pool("f")
    pool.not_before = world.now + 2
    world.submit(pool, "fc-1")
    assert [Wait("po-f", "its container failed to start: trying again", world.now + 2)] == world.decide()


def test_gpus_are_taken_in_order_of_preference() -> None:
    world = World(gpus={"L4": 1, "A100-80GB": 1})
    pool = world.pool("f", gpus=[H100, GpuRequest(model="A100-80GB"), GpuRequest(model="L4")])
    world.submit(pool, "fc-1")
    assert ["A100-80GB"] == [start.gpu.model for start in world.of(Start)]
    other = world.pool("g", gpus=[GpuRequest(model="A100-80GB")])
    world.container(other, "busy", gpu_model="A100-80GB", gpu_count=1)
    assert ["L4"] == [start.gpu.model for start in world.of(Start)]


def test_a_better_model_serves_unless_exactly_this_one_is_asked_for() -> None:
    world = World(gpus={"H200": 1})
    pool = world.pool("f", gpus=[H100])
    world.submit(pool, "fc-1")
    assert ["H200"] == [start.gpu.model for start in world.of(Start)]
    exact = world.pool("g", gpus=[GpuRequest(model="H100", exact=True)])
    world.submit(exact, "fc-2")
    assert ["po-g"] == [fail.pool_id for fail in world.of(Fail)]


def test_any_takes_what_there_is() -> None:
    world = World(gpus={"Tesla K80": 1})
    pool = world.pool("f", gpus=[GpuRequest(model="any")])
    world.submit(pool, "fc-1")
    assert ["Tesla K80"] == [start.gpu.model for start in world.of(Start)]


# --- what cannot be, and what must wait --------------------------------------------------------------


def test_a_gpu_that_no_host_has_fails_and_names_what_there_is() -> None:
    world = World(gpus={"H100": 2, "L4": 1})
    pool = world.pool("nb.train", gpus=[GpuRequest(model="B200"), GpuRequest(model="H100", count=8)])
    world.submit(pool, "fc-1")
    (fail,) = world.of(Fail)
    assert isinstance(fail, Fail)
    assert "ResourceExhaustedError" == fail.problem.error
    assert (
        "nb.train asks for B200 or H100:8, and no host has that: lab has 2× H100, 1× L4. "
        "Ask for H100 or L4 in that number, or leave the GPU out." == fail.problem.message
    )


def test_a_host_without_gpus_says_how_to_go_on_without() -> None:
    world = World(gpus={})
    world.submit(world.pool("f", gpus=[H100]), "fc-1")
    (fail,) = world.of(Fail)
    assert isinstance(fail, Fail)
    assert (
        "f asks for H100, and no host has that: lab has no GPU. Leave the GPU out (gpu=None, %%gpu cpu), or "
        "try it with a simulated one: simulate_gpus in [host] of config.toml." == fail.problem.message
    )


def test_more_cores_or_memory_than_any_host_has_fails_and_names_both() -> None:
    world = World(cpus=4.0, memory=8192)
    world.submit(world.pool("f", cpu=8.0), "fc-1")
    world.submit(world.pool("g", memory=65536), "fc-2")
    messages = [fail.problem.message for fail in world.of(Fail)]
    assert (
        "f asks for 8 cores (cpu=), and no host that suits it offers as many: lab has 4. "
        "Ask for at most that." == messages[0]
    )
    assert (
        "g asks for 65,536 MiB (memory=), and no host that suits it offers as much: lab has 8,192 MiB. "
        "Ask for at most that." == messages[1]
    )


def test_a_busy_gpu_is_waited_for_and_its_holder_is_named() -> None:
    world = World()
    session = world.pool("session train", session="se-1", gpus=[H100])
    world.container(session, "busy", gpu_model="H100", gpu_count=1)
    pool = world.pool("nb.f", gpus=[H100])
    world.submit(pool, "fc-1")
    (wait,) = world.of(Wait)
    assert isinstance(wait, Wait)
    assert "waiting for an H100: 1 of 1 in use by session train" == wait.reason
    assert "waiting for an H100: 1 of 1 in use by session train" == explain(world.state, "po-nb.f", world.now)


def test_without_a_host_work_waits_for_one() -> None:
    world = World()
    world.state.hosts.clear()
    world.submit(world.pool("f", gpus=[H100]), "fc-1")
    assert ["waiting for a host to connect"] == [wait.reason for wait in world.of(Wait)]


def test_a_host_that_lost_its_link_is_named() -> None:
    world = World()
    world.host.connected = False
    world.submit(world.pool("f"), "fc-1")
    assert ["waiting for host lab to come back: the link to it is lost"] == [
        wait.reason for wait in world.of(Wait)
    ]


# --- making room ---------------------------------------------------------------------------------------


def test_the_container_idle_for_longest_is_ended_for_others() -> None:
    world = World(cpus=1.0, gpus={})
    old, new = world.pool("old", cpu=0.5), world.pool("new", cpu=0.5)
    first = world.container(old)
    world.now += 1
    world.container(new)
    world.submit(world.pool("f", cpu=0.5), "fc-1")
    assert [Stop(first.container_id, "idle, and f needs the room")] == world.of(Stop)


def idle_session(world: World, **what: Any) -> ContainerState:
    """A session with the one GPU."""
    session = world.pool("session a", session="se-1", gpus=[H100], scaledown_window=600.0, **what)
    return world.container(session, gpu_model="H100", gpu_count=1)


def test_a_session_is_never_ended_for_others_but_put_to_sleep_after_a_minute() -> None:
    world = World()
    container = idle_session(world)
    world.submit(world.pool("f", gpus=[H100]), "fc-1")
    (wait,) = world.of(Wait)
    assert isinstance(wait, Wait)
    assert world.now + FAIR_AFTER == wait.until
    world.now += SLEEP_FOR_OTHERS - 1
    (wait,) = world.of(Wait)
    assert isinstance(wait, Wait)
    assert world.now + 1 == wait.until
    assert [] == world.of(Sleep)
    world.now += 1
    assert [Sleep(container.container_id, "idle, and f needs the room")] == world.of(Sleep)
    assert [] == [*world.of(Stop), *world.of(Retire)]


@pytest.mark.parametrize("policy", ["stop", "keep"])
def test_a_session_that_is_not_to_sleep_does_not_for_others(policy: Any) -> None:
    world = World()
    idle_session(world, idle_policy=policy)
    world.submit(world.pool("f", gpus=[H100]), "fc-1")
    for _ in range(5):
        world.now += 100
        assert [] == [*world.of(Stop), *world.of(Retire), *world.of(Sleep)]


def test_a_session_that_cannot_sleep_stays_and_nobody_looks_again_for_it() -> None:
    world = World()
    container = idle_session(world)
    world.host.cannot_sleep = "there is no CRIU"
    world.submit(world.pool("f", gpus=[H100]), "fc-1")
    world.now += 700
    (wait,) = world.decide()
    assert isinstance(wait, Wait)
    assert wait.until is None
    assert "cannot sleep: there is no CRIU" == why_kept(world.state, container)


def test_what_gets_on_puts_no_session_to_sleep() -> None:
    world = World(gpus={"H100": 2})
    idle_session(world)
    pool = world.pool("f", gpus=[H100])
    pool.duration = 100.0
    world.container(pool, "busy", gpu_model="H100", gpu_count=1)
    world.submit(pool, "fc-1", units=50)
    world.now += 100
    assert [] == world.of(Sleep)


def test_an_idle_function_makes_room_before_a_session_sleeps() -> None:
    world = World(gpus={"H100": 2})
    idle_session(world)
    world.now += 100
    idle = world.container(world.pool("g", gpus=[H100]), gpu_model="H100", gpu_count=1)
    world.submit(world.pool("f", gpus=[H100]), "fc-1")
    assert [Stop(idle.container_id, "idle, and f needs the room")] == world.of(Stop)
    assert [] == world.of(Sleep)


# --- idle sessions ---------------------------------------------------------------------------------------


def out_of_time(world: World, **what: Any) -> list[Decision]:
    idle_session(world, **what)
    world.now += 600
    return world.decide()


def test_an_idle_session_sleeps_after_its_window() -> None:
    world = World()
    assert [Sleep("co-session a-0", "idle for 600 s")] == out_of_time(world)
    assert "container co-session a-0 is put to sleep: idle for 600 s" == explain(
        world.state, "po-session a", world.now
    )


def test_an_idle_session_is_ended_or_kept_where_that_is_asked_for() -> None:
    assert [Stop("co-session a-0", "idle for 600 s")] == out_of_time(World(), idle_policy="stop")
    world = World()
    assert [] == out_of_time(world, idle_policy="keep")
    (container,) = world.host.containers.values()
    assert "idle_policy=keep" == why_kept(world.state, container)


def test_a_session_that_cannot_sleep_is_kept_or_ended_with_the_reason() -> None:
    for policy, expected in (
        ("sleep", []),
        ("sleep-or-stop", [Stop("co-session a-0", "idle for 600 s, and cannot sleep: there is no CRIU")]),
    ):
        world = World()
        world.host.cannot_sleep = "there is no CRIU"
        assert expected == out_of_time(world, idle_policy=policy)


def test_sleep_that_failed_is_not_tried_again_before_a_cell_has_run() -> None:
    world = World()
    world.sleepless = {"session a"}
    container = idle_session(world)
    world.now += 600
    world.settle()
    assert world.step()
    assert ("idle", [container.container_id]) == (container.phase, world.slept)
    assert not world.step()
    world.submit(world.state.pools["po-session a"], "fc-1", 1.0)
    world.settle()
    while world.step():
        pass
    assert [container.container_id] * 2 == world.slept


def test_a_sleeping_session_is_woken_where_it_sleeps() -> None:
    world = World()
    world.state.hosts = {"ho-0": HostState("ho-0", "other", cpus=4.0, memory=8192), **world.state.hosts}
    session = world.pool("session a", session="se-1")
    session.asleep, session.hosts = True, frozenset(["ho-1"])
    world.submit(session, "fc-1")
    (start,) = world.of(Start)
    assert isinstance(start, Start)
    assert ("ho-1", "waking session a") == (start.host_id, start.reason)
    assert ["waking the session"] == [wait.reason for wait in world.of(Wait)]
    world.host.connected = False
    assert ["waiting for host lab, where the session sleeps, to come back"] == [
        wait.reason for wait in world.of(Wait)
    ]
    del world.state.hosts["ho-1"]
    assert ["waiting for the host, where the session sleeps, to come back"] == [
        wait.reason for wait in world.of(Wait)
    ]


def test_a_session_is_woken_without_a_cell_on_request() -> None:
    world = World()
    session = world.pool("session a", session="se-1", gpus=[H100])
    assert [] == world.decide()
    session.waking = world.now
    assert 1 == len(world.of(Start))
    world.settle()
    assert 1 == len(session.containers)


def test_a_cell_that_comes_while_its_session_falls_asleep_says_so() -> None:
    world = World()
    container = idle_session(world)
    world.apply(Sleep(container.container_id, ""))
    world.submit(world.state.pools["po-session a"], "fc-1")
    assert ["waiting for the session to be asleep, to wake it then"] == [w.reason for w in world.of(Wait)]
    world.submit(world.pool("f", gpus=[H100]), "fc-2")
    assert "waiting for an H100: 1 of 1 in use by session a (falling asleep)" in [
        wait.reason for wait in world.of(Wait)
    ]


# --- warm pools --------------------------------------------------------------------------------------------


def test_containers_are_kept_while_a_client_is_there() -> None:
    world = World()
    pool = world.pool("f", min_containers=2, scaledown_window=60.0)
    assert [] == world.decide()
    pool.needed = True
    assert ["min_containers=2 of f"] * 2 == [start.reason for start in world.of(Start)]
    world.settle()
    while world.step():
        pass
    assert ["idle"] * 2 == [container.phase for container in pool.containers.values()]
    world.now += 3600
    assert [] == world.decide()
    assert {"min_containers=2"} == {why_kept(world.state, c) for c in pool.containers.values()}
    pool.needed, pool.left = False, world.now
    assert [world.now + 60.0] * 2 == [keep.until for keep in world.of(Keep)]
    while world.step():
        pass
    assert {} == pool.containers


def test_what_is_over_the_minimum_is_ended_the_one_idle_for_longest_first() -> None:
    world = World()
    pool = world.pool("f", min_containers=1)
    pool.needed = True
    first = world.container(pool)
    world.now += 1
    second = world.container(pool)
    assert ["", "min_containers=1"] == [why_kept(world.state, each) for each in (first, second)]
    world.now += 3600
    assert [Stop(first.container_id, "idle for 60 s")] == world.decide()


def test_a_buffer_is_kept_while_there_is_work() -> None:
    world = World()
    pool = world.pool("f", buffer_containers=2)
    assert [] == world.decide()
    world.submit(pool, "fc-1", 100.0)
    world.settle()
    assert 3 == len(pool.containers), "one for the call, two for what may come"
    while any(container.phase == "starting" for container in pool.containers.values()):
        assert world.step()
    assert ["busy", "idle", "idle"] == sorted(container.phase for container in pool.containers.values())
    idle = pool.idle[0]
    assert "buffer_containers=2" == why_kept(world.state, idle)
    world.submit(pool, "fc-2", 100.0)
    world.settle()
    assert 4 == len(pool.containers)
    while world.step():
        pass
    assert {} == pool.containers


def test_a_buffer_does_not_grow_with_a_queue() -> None:
    world = World()
    pool = world.pool("f", buffer_containers=2)
    pool.duration = 0.001
    world.container(pool, "busy")
    world.submit(pool, "fc-map", units=100)
    assert [] == world.of(Start)


def test_the_maximum_holds_for_warm_containers() -> None:
    world = World()
    pool = world.pool("f", max_containers=1, buffer_containers=3)
    world.submit(pool, "fc-1", 10.0)
    world.settle()
    assert 1 == len(pool.containers)


def test_nothing_is_ended_for_warm_containers() -> None:
    world = World(cpus=1.0, gpus={})
    world.container(world.pool("other", cpu=1.0))
    pool = world.pool("f", cpu=0.5, min_containers=1)
    pool.needed = True
    assert [] == [*world.of(Start), *world.of(Stop)]


def test_warm_containers_give_way_to_what_has_waited_for_long() -> None:
    world = World(cpus=1.0, gpus={})
    warm = world.pool("warm", cpu=1.0, min_containers=1)
    warm.needed = True
    kept = world.container(warm)
    pool = world.pool("f", cpu=1.0)
    world.submit(pool, "fc-1", 1.0)
    assert [] == world.of(Stop)
    world.now += FAIR_AFTER
    assert [Stop(kept.container_id, "idle, and f needs the room")] == world.of(Stop)
    world.settle()
    while pool.queue:
        assert world.step()
    while not warm.containers:
        assert world.step(), "it is started again when there is room"


def test_a_warm_container_that_does_not_start_is_not_tried_again_at_once() -> None:
    world = World()
    pool = world.pool("f", min_containers=1)
    pool.needed = True
    pool.warm_not_before = world.now + 60
    assert [Wait("po-f", "a container failed to start: trying again", world.now + 60)] == world.decide()


def test_only_what_helps_is_ended() -> None:
    world = World(cpus=2.0, gpus={"H100": 1})
    small = world.pool("small", cpu=0.5)
    world.container(small)
    world.now += 1
    gpu = world.pool("gpu", cpu=0.5, gpus=[H100])
    holder = world.container(gpu, gpu_model="H100", gpu_count=1)
    world.submit(world.pool("f", cpu=0.5, gpus=[H100]), "fc-1")
    assert [holder.container_id] == [stop.container_id for stop in world.of(Stop)]


def test_room_that_is_being_made_is_not_made_twice() -> None:
    world = World(cpus=1.0, gpus={})
    old = world.pool("old", cpu=0.5)
    for _ in range(2):
        world.container(old)
    world.submit(world.pool("f", cpu=0.5), "fc-1")
    (stop,) = world.of(Stop)
    world.apply(stop)
    assert [] == world.of(Stop)


def test_whoever_waits_long_gets_a_busy_container_from_those_who_came_later() -> None:
    world = World()
    busy = world.pool("busy", gpus=[H100])
    holder = world.container(busy, "busy", gpu_model="H100", gpu_count=1)
    world.submit(world.pool("patient", gpus=[H100]), "fc-1")
    world.now += 1
    world.submit(busy, "fc-2")
    assert [] == world.of(Retire)
    world.now += FAIR_AFTER
    assert [Retire(holder.container_id, "patient has waited longer than what busy has")] == world.of(Retire)


def test_an_idle_container_is_kept_for_its_window_and_then_ended() -> None:
    world = World()
    pool = world.pool("f", scaledown_window=60.0)
    container = world.container(pool)
    assert [Keep(container.container_id, world.now + 60.0)] == world.decide()
    world.now += 60.0
    assert [Stop(container.container_id, "idle for 60 s")] == world.decide()


# --- laws ----------------------------------------------------------------------------------------------

POOLS = st.lists(
    st.fixed_dictionaries(
        {
            "cpu": st.sampled_from([0.125, 0.5, 1.0, 2.0]),
            "memory": st.sampled_from([128, 1024, 4096]),
            "gpu": st.sampled_from([0, 0, 1, 2]),
            "max_containers": st.sampled_from([None, 1, 2]),
            "min_containers": st.sampled_from([0, 0, 1]),
            "buffer_containers": st.sampled_from([0, 0, 2]),
            "session": st.booleans(),
            "idle_policy": st.sampled_from(["sleep", "sleep", "sleep-or-stop", "stop"]),
            "sleepless": st.booleans(),
            "calls": st.lists(
                st.tuples(
                    st.sampled_from([0.0, 0.01, 0.5, 40.0]), st.integers(0, 20), st.sampled_from([1, 1, 7])
                ),
                max_size=8,
            ),
        }
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(POOLS)
def test_all_work_is_done_within_the_limits_and_in_order(pools: list[dict[str, Any]]) -> None:
    world = World(cpus=2.0, memory=4096, gpus={"H100": 2})
    submissions: list[tuple[int, int, int, float, int]] = []
    for number, what in enumerate(pools):
        gpu = what["gpu"]
        pool = world.pool(
            f"p{number}",
            cpu=what["cpu"],
            memory=what["memory"],
            gpus=[GpuRequest(model="H100", count=gpu)] if gpu else [],
            max_containers=what["max_containers"],
            min_containers=what["min_containers"],
            buffer_containers=what["buffer_containers"],
            session=f"se-{number}" if what["session"] else "",
            idle_policy=what["idle_policy"],
            scaledown_window=20.0,
        )
        pool.needed = True
        if what["sleepless"] and what["idle_policy"] == "sleep-or-stop":
            world.sleepless.add(pool.label)
        for index, (length, at, units) in enumerate(what["calls"]):
            submissions.append((at, number, index, length, units))
    submissions.sort()
    start = world.now
    expected: Counter[str] = Counter()
    for at, number, index, length, units in submissions:
        while world.now < start + at and world.step():
            pass
        world.now = max(world.now, start + at)
        world.submit(world.state.pools[f"po-p{number}"], f"fc-{number}-{index}", length, units)
        expected[f"fc-{number}-{index}"] += units
        world.settle()
    for _ in range(3000):
        if not world.step():
            break
    left = {pool.label: pool.queued_units for pool in world.state.pools.values() if pool.queue}
    assert {} == left
    assert expected == Counter(world.started)
    for pool in world.state.pools.values():
        pool.needed, pool.left = False, world.now
    while world.step():
        pass
    assert {} == world.host.containers


@settings(max_examples=100, deadline=None)
@given(POOLS, st.integers(0, 60))
def test_no_container_idles_while_its_pool_has_work(pools: list[dict[str, Any]], steps: int) -> None:
    world = World(cpus=2.0, memory=4096, gpus={"H100": 2})
    for number, what in enumerate(pools):
        pool = world.pool(f"p{number}", cpu=what["cpu"], max_containers=what["max_containers"])
        for index, (length, _, units) in enumerate(what["calls"]):
            world.submit(pool, f"fc-{number}-{index}", length, units)
    world.settle()
    for _ in range(steps):
        for pool in world.state.pools.values():
            assert not (pool.idle and pool.queue)
        if not world.step():
            break


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.floats(0.1, 20.0))
def test_a_stream_of_later_work_starves_nobody(busy_pools: int, length: float) -> None:
    world = World(gpus={"H100": 1})
    others = [world.pool(f"busy{number}", gpus=[H100]) for number in range(busy_pools)]
    for pool in others:
        world.submit(pool, f"{pool.label}-0", length)
    world.settle()
    patient = world.pool("patient", gpus=[H100])
    world.submit(patient, "patient", 1.0)
    deadline = world.now + (FAIR_AFTER + 2 * length + 5) * (busy_pools + 1)
    count = 0
    while "patient" not in world.started:
        for pool in others:
            if not pool.queue:
                count += 1
                world.submit(pool, f"{pool.label}-{count}", length)
        world.settle()
        assert world.step()
        assert world.now < deadline


@settings(max_examples=100, deadline=None)
@given(POOLS)
def test_deciding_changes_nothing(pools: list[dict[str, Any]]) -> None:
    world = World(cpus=2.0, memory=4096, gpus={"H100": 2})
    for number, what in enumerate(pools):
        pool = world.pool(f"p{number}", cpu=what["cpu"], memory=what["memory"])
        for index, (length, _, units) in enumerate(what["calls"]):
            world.submit(pool, f"fc-{number}-{index}", length, units)
        if number % 2:
            world.container(pool)
    assert world.decide() == world.decide()
