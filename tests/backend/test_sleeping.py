"""Sessions that sleep: when idle or told to, remembered over restarts, woken by a cell or on request."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from control_harness import H100, FakeClient, FakeHost, Plane, Refused, spec

from skylift.backend import sleeping
from skylift.backend.views import SessionView, Slept, Woken
from skylift.wire import (
    ForgetSession,
    FunctionSpec,
    GpuRequest,
    Problem,
    SessionSlept,
    SleepContainer,
    SleepingSession,
    SnapshotRef,
    StartContainer,
    StopContainer,
    StopSession,
)

pytestmark = pytest.mark.anyio

ID = "se-00000001"


def session(**what: object) -> FunctionSpec:
    return spec("cell", session=ID, session_name="train", **what)


async def run_cell(host: FakeHost, client: FakeClient, **what: object) -> str:
    """A cell that runs and ends; returns its container."""
    call_id = client.submit(client.define(session(**what)), kind="cell")
    run = await host.run(call_id)
    host.emit(call_id, end="done")
    return run.container_id


async def put_to_sleep(plane: Plane) -> Slept:
    result = await plane.control.sleep_session("local", ID)
    assert isinstance(result, Slept), result
    return result


def view(plane: Plane) -> SessionView:
    (found,) = plane.control.sessions("local")
    return found


async def problem_of(result: Any) -> str:
    problem = await result
    assert isinstance(problem, Problem), problem
    return f"{problem.error}: {problem.message}"


# --- falling asleep ------------------------------------------------------------------------------------


async def test_an_idle_session_falls_asleep_and_the_next_cell_wakes_it(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    first = await run_cell(host, client, scaledown_window=0.05)
    sleep = await host.one(SleepContainer)
    assert first == sleep.container_id
    await host.until(lambda: view(plane).state == "asleep")
    assert (1000, 4000, "") == (view(plane).size, view(plane).unpacked, view(plane).problem)
    assert view(plane).since > 0
    assert () == await plane.control.containers("local")
    assert [] == host.all(StopContainer)
    assert ["it was put to sleep: idle for 0.05 s"] == [
        container.exit_reason for container in await plane.control.containers("local", running=False)
    ]
    second = await run_cell(host, client, scaledown_window=50.0)
    start = host.specs[second]
    assert start.wake is not None
    assert (f"{1:064}", 1000) == (start.wake.manifest, start.wake.size)
    assert 0.05 == start.spec.scaledown_window, "it is started as what it was"
    assert ("idle", 0.0, 50.0) == (view(plane).state, view(plane).since, view(plane).idle_window)
    assert "waking session train" == view(plane).container.reason  # type: ignore[union-attr]
    assert [] == host.all(ForgetSession)


async def test_a_session_sleeps_when_it_is_told_to(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    await run_cell(host, client)
    assert Slept(seconds=0.8, size=1000, unpacked=4000) == await put_to_sleep(plane)
    assert Slept(seconds=0.0, size=1000, unpacked=4000) == await put_to_sleep(plane), "it sleeps already"
    assert 1 == len(host.all(SleepContainer))


async def test_two_who_ask_for_sleep_are_both_answered(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    await run_cell(host, client)
    both = await asyncio.gather(put_to_sleep(plane), put_to_sleep(plane))
    assert both[0] == both[1]
    assert 1 == len(host.all(SleepContainer))


async def test_only_an_idle_session_can_be_put_to_sleep(plane: Plane) -> None:
    assert await plane.control.sleep_session("local", ID) is None
    host, client = plane.host(slow=True), plane.client()
    function_id = client.define(session())
    call_id = client.submit(function_id, kind="cell")

    def ask() -> Any:
        return problem_of(plane.control.sleep_session("local", ID))

    waiting = "ConflictError: session train is about to run a cell or being woken: wait until that is over."
    assert waiting == await ask()
    start = await host.one(StartContainer)
    host.ready(start.container_id)
    await host.run(call_id)
    assert "ConflictError: session train is running a cell: interrupt it or wait." == await ask()
    host.emit(call_id, end="done")
    host.disconnect()
    assert "ConflictError: session train is on host lab, whose link is lost: try again later." == await ask()
    host.connect()
    client.say(StopSession(session=ID))
    assert "ConflictError: session train is being ended." == await ask()
    assert await plane.control.sleep_session("eve", ID) is None


async def test_a_host_where_sessions_cannot_sleep_is_not_asked_to(plane: Plane) -> None:
    import msgspec

    host = FakeHost(plane)
    host.facts = msgspec.structs.replace(host.facts, cannot_sleep="this machine has no CRIU")
    host.connect()
    await run_cell(host, plane.client(), scaledown_window=0.01)
    assert "ConflictError: session train cannot sleep: this machine has no CRIU. It runs on." == (
        await problem_of(plane.control.sleep_session("local", ID))
    )
    await asyncio.sleep(0.05)
    shown = view(plane)
    assert ("idle", "cannot sleep: this machine has no CRIU", 0.0) == (shown.state, shown.kept, shown.ends_at)
    assert shown.container is not None
    assert shown.kept == shown.container.kept
    assert [] == host.all(SleepContainer)
    assert plane.control._dispatcher._due == float("inf"), "nothing is looked at again by the clock"


async def test_what_cannot_sleep_runs_on_says_why_and_is_tried_again_after_a_cell(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    host.sleepless = "it has an open connection to 10.0.0.5:443"
    await run_cell(host, client, scaledown_window=0.02)
    await host.one(SleepContainer)
    await host.until(lambda: view(plane).state == "idle")
    assert "cannot sleep: it has an open connection to 10.0.0.5:443" == view(plane).kept
    await asyncio.sleep(0.1)
    assert 1 == len(host.all(SleepContainer))
    host.sleepless = ""
    await run_cell(host, client, scaledown_window=0.02)
    await host.until(lambda: view(plane).state == "asleep")


async def test_sleep_or_stop_ends_what_cannot_sleep(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    host.sleepless = "it has an open file"
    await run_cell(host, client, scaledown_window=0.02, idle_policy="sleep-or-stop")
    stop = await host.one(StopContainer)
    assert "idle for 0.02 s, and cannot sleep: it has an open file" == stop.reason


async def test_whoever_asks_is_told_why_it_cannot_sleep(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    host.sleepless = "it has an open file."
    await run_cell(host, client)
    assert "ConflictError: session train cannot sleep: it has an open file. It runs on." == await problem_of(
        plane.control.sleep_session("local", ID)
    )
    await run_cell(host, client)


async def test_a_session_that_takes_long_to_sleep(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sleeping, "WAIT_SECONDS", 0.05)
    host, client = plane.host(), plane.client()
    container_id = await run_cell(host, client)
    host.slow = True
    assert "TimeoutError: session train is not asleep after 0.05 s. %gpu shows when it is." == (
        await problem_of(plane.control.sleep_session("local", ID))
    )
    assert "falling asleep" == view(plane).state
    host.fall_asleep(container_id)
    assert "asleep" == view(plane).state


async def test_a_cell_that_comes_meanwhile_waits_and_wakes_it(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    container_id = await run_cell(host, client)
    host.slow = True
    asking = asyncio.create_task(put_to_sleep(plane))
    await host.one(SleepContainer)
    call_id = client.submit(client.define(session()), kind="cell")
    status = await client.until(lambda: client.last_status(call_id))
    assert "waiting for the session to be asleep, to wake it then" == status.detail
    host.slow = False
    host.fall_asleep(container_id)
    await asking
    run = await host.run(call_id)
    assert host.specs[run.container_id].wake is not None


async def test_a_cell_that_comes_meanwhile_runs_at_once_where_it_cannot_sleep(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    container_id = await run_cell(host, client)
    host.slow, host.sleepless = True, "it has an open file"
    asking = asyncio.create_task(problem_of(plane.control.sleep_session("local", ID)))
    await host.one(SleepContainer)
    call_id = client.submit(client.define(session()), kind="cell")
    host.fall_asleep(container_id)
    await asking
    assert container_id == (await host.run(call_id)).container_id


async def test_an_idle_session_makes_room_after_a_minute(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skylift.backend.keeping.SLEEP_FOR_OTHERS", 0.05)
    host, client = plane.host(), plane.client()
    await run_cell(host, client, gpus=(H100,))
    call_id = client.submit(client.define(spec("f", gpus=(H100,))))
    await host.run(call_id)
    assert 1 == len(host.all(SleepContainer))
    assert [] == host.all(StopContainer)
    host.finish(call_id)
    again = await run_cell(host, client, gpus=(H100,))
    assert host.specs[again].wake is not None


# --- being ended ---------------------------------------------------------------------------------------


async def test_a_sleeping_session_that_is_stopped_is_forgotten(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    await run_cell(host, client)
    await put_to_sleep(plane)
    (key,) = host.sleeping
    client.say(StopSession(session=ID))
    assert [ForgetSession(pool_id=key)] == host.all(ForgetSession)
    assert () == plane.control.sessions("local")
    assert [] == client.all(Refused)
    again = await run_cell(host, client)
    assert host.specs[again].wake is None


async def test_nobody_else_can_stop_or_wake_it(plane: Plane) -> None:
    host = plane.host()
    await run_cell(host, plane.client())
    await put_to_sleep(plane)
    assert not plane.control.stop_session("eve", ID)
    assert await plane.control.wake_session("eve", ID) is None
    assert () == plane.control.sessions("eve")
    assert "asleep" == view(plane).state


@pytest.mark.parametrize("sleepless", ["", "it has an open file"])
async def test_a_session_that_is_stopped_while_it_falls_asleep_ends(plane: Plane, sleepless: str) -> None:
    host, client = plane.host(), plane.client()
    container_id = await run_cell(host, client)
    host.slow, host.sleepless = True, sleepless
    asking = asyncio.create_task(problem_of(plane.control.sleep_session("local", ID)))
    await host.one(SleepContainer)
    assert plane.control.stop_session("local", ID)
    assert [] == host.all(StopContainer)
    host.fall_asleep(container_id)
    await asking
    if sleepless:
        await host.one(StopContainer)
    else:
        await host.one(ForgetSession)
    host.slow = False
    await host.until(lambda: plane.control.sessions("local") == ())
    again = await run_cell(host, client)
    assert host.specs[again].wake is None


async def test_a_host_that_was_away_is_told_what_was_stopped_meanwhile(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    await run_cell(host, client)
    await put_to_sleep(plane)
    host.disconnect()
    client.say(StopSession(session=ID))
    assert [] == host.all(ForgetSession)
    await plane.settle()
    await plane.stop()
    await plane.start()
    assert () == plane.control.sessions("local")
    host.connect()
    assert 1 == len(host.all(ForgetSession))
    assert () == plane.control.sessions("local")
    host.disconnect()
    host.connect()
    assert 1 == len(host.all(ForgetSession))
    await plane.settle()
    await plane.stop()
    await plane.start()
    assert {} == plane.control._sleeping._ended


# --- waking --------------------------------------------------------------------------------------------


async def test_a_session_is_woken_without_a_cell(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    assert await plane.control.wake_session("local", ID) is None
    await run_cell(host, client)
    await put_to_sleep(plane)
    assert Woken(seconds=0.25) == await plane.control.wake_session("local", ID)
    assert "idle" == view(plane).state
    assert Woken(seconds=0.0) == await plane.control.wake_session("local", ID), "it is awake already"
    assert 2 == len(host.all(StartContainer))
    again = await run_cell(host, client)
    assert host.all(StartContainer)[1].container_id == again


async def test_a_session_that_cannot_be_woken_keeps_its_state_and_is_not_tried_again(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    await run_cell(host, client)
    await put_to_sleep(plane)
    host.unwakeable = "the store does not answer."
    calls = [client.submit(client.define(session()), kind="cell") for _ in range(2)]
    message = (
        "session train could not be woken: the store does not answer. Its state is kept: %gpu wake tries "
        "again, %gpu stop gives it up and the next cell starts it anew."
    )
    for call_id in calls:
        assert f"RemoteError: {message}" == (await client.ended(call_id)).summary
    await asyncio.sleep(0.05)
    assert 2 == len(host.all(StartContainer))
    assert ("asleep", "the store does not answer.") == (view(plane).state, view(plane).problem)
    assert f"RemoteError: {message}" == await problem_of(plane.control.wake_session("local", ID))
    host.unwakeable = ""
    assert Woken(seconds=0.25) == await plane.control.wake_session("local", ID)
    assert "" == view(plane).problem


async def test_a_problem_of_waking_is_remembered(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    await run_cell(host, client)
    await put_to_sleep(plane)
    host.unwakeable = "the store does not answer"
    await problem_of(plane.control.wake_session("local", ID))
    await plane.settle()
    await plane.stop()
    await plane.start()
    assert ("asleep", "the store does not answer") == (view(plane).state, view(plane).problem)
    host.connect()
    assert "the store does not answer" == view(plane).problem


async def test_a_session_that_finds_no_room_to_wake(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sleeping, "WAIT_SECONDS", 0.05)
    host, client = plane.host(), plane.client()
    await run_cell(host, client, gpus=(H100,))
    await put_to_sleep(plane)
    await host.run(client.submit(client.define(spec("f", gpus=(H100,)))))
    assert (
        "TimeoutError: session train is not awake after 0.05 s: waiting for an H100: 1 of 1 in use by app.f."
        == await problem_of(plane.control.wake_session("local", ID))
    )
    assert "asleep" == view(plane).state
    assert 2 == len(host.all(StartContainer)), "nobody waits for it any more"


async def test_a_container_that_dies_while_its_session_wakes_with_it_ends_the_waiting(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    await run_cell(host, client)
    await put_to_sleep(plane)
    host.slow = True
    waking = asyncio.create_task(problem_of(plane.control.wake_session("local", ID)))
    start = (await host.until(lambda: host.all(StartContainer)[1:]))[0]
    host.exited(start.container_id, "killed")
    assert "session train could not be woken: killed." in await waking
    assert "asleep" == view(plane).state


async def test_a_sleeping_session_that_is_asked_for_with_other_gpus_is_a_conflict(plane: Plane) -> None:
    host, client = plane.host(gpus={"H100": 1, "L4": 2}), plane.client()
    await run_cell(host, client, gpus=(H100,))
    await put_to_sleep(plane)
    client.submit(client.define(session(gpus=(GpuRequest(model="L4", count=2),))), kind="cell")
    (refused,) = client.all(Refused)
    assert (
        "session train sleeps, with H100, and this cell asks for L4:2. A cell that asks for the same wakes "
        "it, as %gpu wake does; %gpu stop ends it, and its variables are lost. Or give the other session a "
        "name of its own (--name)." == refused.problem.message
    )
    assert "asleep" == view(plane).state


# --- restarts ------------------------------------------------------------------------------------------


async def test_a_gateway_remembers_what_sleeps_while_no_host_is_there(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    await run_cell(host, client)
    await put_to_sleep(plane)
    since = view(plane).since
    await plane.settle()
    await plane.stop()
    await plane.start()
    assert ("asleep", since, "train") == (view(plane).state, view(plane).since, view(plane).name)
    client = plane.client()
    call_id = client.submit(client.define(session()), kind="cell")
    status = await client.until(lambda: client.last_status(call_id))
    assert "waiting for the host process to start" == status.detail
    host.connect()
    run = await host.run(call_id)
    assert host.specs[run.container_id].wake is not None


async def test_a_gateway_that_died_before_it_wrote_that_down_hears_it_from_the_host(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    container_id = await run_cell(host, client)
    host.slow = True
    asking = asyncio.create_task(plane.control.sleep_session("local", ID))
    await host.one(SleepContainer)
    await plane.crash()
    asking.cancel()
    host.say = lambda message: None  # type: ignore[method-assign]
    host.fall_asleep(container_id)
    del host.say
    await plane.start()
    assert () == plane.control.sessions("local")
    host.connect()
    assert ("asleep", "train") == (view(plane).state, view(plane).name)
    await plane.settle()
    await plane.stop()
    await plane.start()
    assert "asleep" == view(plane).state


async def test_what_the_host_does_not_have_is_dropped(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    host = plane.host()
    await run_cell(host, plane.client())
    await put_to_sleep(plane)
    host.disconnect()
    host.sleeping.clear()
    with caplog.at_level(logging.WARNING):
        host.connect()
    assert () == plane.control.sessions("local")
    assert "Host lab does not have the sleeping session train any more" in caplog.text


async def test_a_sleeping_session_of_nobody_known_is_left_alone(plane: Plane) -> None:
    host = FakeHost(plane)
    ref = SnapshotRef(manifest="0" * 64)
    host.sleeping["po-x"] = SleepingSession(pool_id="po-x", spec=session(), snapshot=ref)
    host.connect()
    assert () == plane.control.sessions("local")
    assert [] == host.all(ForgetSession)


async def test_a_host_whose_link_was_lost_while_a_session_fell_asleep_is_asked_again(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    container_id = await run_cell(host, client)
    host.slow = True
    asking = asyncio.create_task(put_to_sleep(plane))
    await host.one(SleepContainer)
    host.disconnect()
    host.connect()
    assert [SleepContainer(container_id=container_id)] * 2 == host.all(SleepContainer)
    host.fall_asleep(container_id)
    await asking


async def test_a_session_that_fell_asleep_while_the_link_was_lost(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    container_id = await run_cell(host, client)
    host.slow = True
    asking = asyncio.create_task(plane.control.sleep_session("local", ID))
    await host.one(SleepContainer)
    host.disconnect()
    host.say = lambda message: None  # type: ignore[method-assign]
    host.fall_asleep(container_id)
    del host.say
    host.connect()
    assert isinstance(await asking, Slept)
    assert "asleep" == view(plane).state
    (ended,) = await plane.control.containers("local", running=False)
    assert "it was put to sleep: somebody asked for it" == ended.exit_reason


async def test_a_session_that_was_stopped_and_fell_asleep_while_the_link_was_lost(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    container_id = await run_cell(host, client)
    host.slow = True
    asking = asyncio.create_task(problem_of(plane.control.sleep_session("local", ID)))
    await host.one(SleepContainer)
    host.disconnect()
    assert plane.control.stop_session("local", ID)
    host.say = lambda message: None  # type: ignore[method-assign]
    host.fall_asleep(container_id)
    del host.say
    host.connect()
    assert "ConflictError: session train has ended meanwhile." == await asking
    assert () == plane.control.sessions("local")
    assert 1 == len(host.all(ForgetSession))


async def test_a_session_that_was_woken_while_the_link_was_lost_is_awake(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    await run_cell(host, client)
    await put_to_sleep(plane)
    host.slow = True
    waking = asyncio.create_task(plane.control.wake_session("local", ID))
    start = (await host.until(lambda: host.all(StartContainer)[1:]))[0]
    host.disconnect()
    host.say = lambda message: None  # type: ignore[method-assign]
    host.ready(start.container_id)
    del host.say
    host.connect()
    assert Woken(seconds=0.25) == await waking
    assert "idle" == view(plane).state
    assert {} == plane.control.registry.sleeping


async def test_a_container_that_is_up_is_not_listed_as_asleep_too(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    await run_cell(host, client)
    await put_to_sleep(plane)
    kept = dict(host.sleeping)
    await plane.control.wake_session("local", ID)
    host.disconnect()
    host.sleeping = kept
    host.connect()
    assert "idle" == view(plane).state
    assert {} == plane.control.registry.sleeping
    assert [] == host.all(ForgetSession), "its host may be about to say that it sleeps"


async def test_a_host_that_puts_to_sleep_what_an_earlier_gateway_asked_for(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    container_id = await run_cell(host, client)
    await plane.settle()
    await plane.stop()
    await plane.start()
    host.connect()
    assert "idle" == view(plane).state
    host.fall_asleep(container_id)
    assert "asleep" == view(plane).state
    host.say(SessionSlept(container_id="co-00000000", problem=Problem(error="NotFoundError", message="?")))


async def test_a_first_call_is_told_how_its_container_came_to_be_however_quick_it_is(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define(spec())
    for number, statuses in ((0, 1), (1, 0)):
        call_id = client.submit(function_id)
        await host.run(call_id)
        host.finish(call_id)
        await client.ended(call_id)
        found = [m for m in client.messages if getattr(getattr(m, "status", None), "call_id", "") == call_id]
        running = [message for message in found if message.status.state == "running"]
        assert statuses == len(running), f"call {number}"
        if running:
            assert "cold" == running[0].status.container.path
