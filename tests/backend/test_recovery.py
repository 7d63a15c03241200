"""What happens to calls when the gateway, the host or the link between them goes and comes back."""

from __future__ import annotations

import pytest
from control_harness import (
    Accepted,
    FakeClient,
    FakeHost,
    Plane,
    Refused,
    result_event,
    spec,
    text_event,
)

from skylift.wire import (
    Attach,
    CallLost,
    CallReport,
    CancelCall,
    EndMap,
    HostWelcome,
    Payload,
    Problem,
    RunCall,
    RunInputs,
    StartContainer,
    Submit,
    Window,
    event_cost,
)

pytestmark = pytest.mark.anyio


def report(
    call_id: str, container_id: str, next_seq: int = 0, held_from: int = 0, **what: object
) -> CallReport:
    return CallReport(
        call_id=call_id,
        container_id=container_id,
        next_seq=next_seq,
        held_from=held_from,
        **what,  # type: ignore[arg-type]
    )


async def restarted(plane: Plane, host: FakeHost, client: FakeClient) -> FakeClient:
    """The gateway is killed and started again, and the client is back; the host is not yet."""
    await plane.crash()
    await plane.start()
    host.messages.clear()
    return plane.client(client_id=client.client_id)


# --- the gateway is restarted --------------------------------------------------------------------------


async def test_a_stream_goes_on_after_the_gateway_was_killed(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    run = await host.run(call_id)
    frames = [host.emit(call_id, text_event(f"{number:05d}")) for number in range(5000)]
    await plane.settle()
    # These reach the client, but not the disk.
    frames += [host.emit(call_id, text_event(f"{number:05d}")) for number in range(5000, 6000)]
    seen = [event.data.decode() for event in client.events(call_id)]
    assert 6000 == len(seen)
    client = await restarted(plane, host, client)
    client.say(Attach(call_id=call_id, seq=6000, total=6000 * event_cost(5)))
    host.connect(calls=(report(call_id, run.container_id, next_seq=6500, held_from=4000),))
    welcome = await host.one(HostWelcome)
    start = welcome.calls[call_id]
    assert 5000 == start
    for frame in frames[start:]:
        host.say(frame)
    for number in range(6000, 10_000):
        host.emit(call_id, text_event(f"{number:05d}"))
    host.emit(call_id, end="done")
    await client.ended(call_id)
    seen += [event.data.decode() for event in client.events(call_id)]
    assert [f"{number:05d}" for number in range(10_000)] == seen
    # The log has them all, too.
    other = plane.client()
    other.say(Attach(call_id=call_id, window=1 << 26))
    await other.ended(call_id)
    assert 10_000 == len(other.events(call_id))


async def test_a_call_that_only_the_host_knows_is_kept_for_its_client(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define()
    call_id = client.submit(function_id)
    run = await host.run(call_id)
    frame = host.emit(call_id, text_event("a"))
    # Nothing was committed: the row is lost.
    client = await restarted(plane, host, client)
    host.connect(calls=(report(call_id, run.container_id, next_seq=1),))
    assert {call_id: 0} == (await host.one(HostWelcome)).calls
    host.say(frame)
    client.say(Submit(call_id=call_id, function_id=client.define(), kind="call", resubmitted=True))
    host.finish(call_id)
    assert "done" == (await client.ended(call_id)).state
    assert ["a", "42"] == [event.data.decode() for event in client.events(call_id)]
    assert [] == host.all(RunCall)
    await plane.settle()
    detail = await plane.control.call("local", call_id)
    assert detail is not None
    assert ("done", "f", function_id) == (detail.call.state, detail.call.function, function_id)


@pytest.mark.parametrize("plane", [{"client_grace": 0.05}], indirect=True)
async def test_a_call_that_nobody_claims_is_cancelled(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    run = await host.run(call_id)
    await plane.crash()
    await plane.start()
    host.messages.clear()
    host.connect(calls=(report(call_id, run.container_id),))
    cancel = await host.one(CancelCall, call_id=call_id)
    assert "no client asked for it after the gateway was restarted" == cancel.reason


async def test_a_call_that_is_over_is_dropped_by_the_host(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    run = await host.run(call_id)
    host.finish(call_id)
    await plane.settle()
    await restarted(plane, host, client)
    host.connect(calls=(report(call_id, run.container_id, next_seq=1, ended=True),))
    assert {} == (await host.one(HostWelcome)).calls


async def test_a_waiting_call_runs_after_a_restart(plane: Plane) -> None:
    client = plane.client()
    call_id = client.submit(client.define(code=b"the code"), args=Payload(data=b"the args", size=8))
    await plane.settle()
    host = FakeHost(plane)
    client = await restarted(plane, host, client)
    client.say(Attach(call_id=call_id))
    host.connect()
    run = await host.run(call_id)
    assert b"the args" == run.args.data
    host.finish(call_id)
    assert "done" == (await client.ended(call_id)).state


async def test_a_spawned_call_that_had_not_begun_runs_after_a_restart(plane: Plane) -> None:
    client = plane.client()
    call_id = client.submit(client.define(), durable=True, detached=True)
    await client.one(Accepted, call_id=call_id)
    host = FakeHost(plane)
    await restarted(plane, host, client)
    host.connect()
    await host.run(call_id)


async def test_a_running_call_that_no_host_has_any_more_fails_and_says_so(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    await host.run(call_id)
    await plane.settle()
    client = await restarted(plane, host, client)
    client.say(Attach(call_id=call_id))
    host.connect(keep=False)
    end = await client.ended(call_id)
    assert (
        "InternalFailure: The gateway was restarted, and f cannot go on: the host that ran it does not have "
        "it any more: it was restarted, too. Run it again." == end.summary
    )


async def test_a_spawned_call_that_was_lost_on_its_way_to_a_living_container_runs(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(), durable=True, detached=True)
    await host.run(call_id)
    await plane.settle()
    await restarted(plane, host, client)
    host.connect()
    await host.run(call_id)
    assert [] == host.all(StartContainer), "the container is there"


async def test_a_resubmitted_call_waits_for_the_hosts_to_report(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    await plane.crash()
    await plane.start()
    host.messages.clear()
    client = plane.client(client_id=client.client_id)
    client.say(
        Submit(call_id=call_id, function_id=client.define(), kind="call", resubmitted=True, args=Payload())
    )
    await client.one(Accepted, call_id=call_id)
    assert [] == host.messages
    host.connect(keep=False)
    await host.run(call_id)


async def test_a_resubmitted_call_that_is_over_gets_its_result_from_the_log(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    await host.run(call_id)
    host.finish(call_id, b"once")
    await plane.settle()
    client = await restarted(plane, host, client)
    host.connect()
    client.say(Submit(call_id=call_id, function_id=client.define(), kind="call", resubmitted=True))
    await client.ended(call_id)
    assert [result_event(b"once")] == client.events(call_id)
    assert [] == host.all(RunCall)


async def test_messages_about_a_call_that_is_looked_up_keep_their_order(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(), kind="map", args=Payload())
    await plane.crash()
    await plane.start()
    host.messages.clear()
    host.connect()
    client = plane.client(client_id=client.client_id)
    client.say(
        Submit(call_id=call_id, function_id=client.define(), kind="map", resubmitted=True, args=Payload())
    )
    client.inputs(call_id, 0, 3, total=3)
    seen = 0
    while client.end(call_id) is None:
        await host.until(lambda: client.end(call_id) or len(host.inputs_of(call_id)) > seen)  # noqa: B023
        for index in host.inputs_of(call_id)[seen:]:
            seen += 1
            host.emit(call_id, result_event(index=index), done=(index,))
    assert [] == client.all(Refused)


async def test_a_map_goes_on_after_a_restart_with_every_input_once(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(), kind="map", args=Payload())
    await client.one(Accepted, call_id=call_id)
    client.inputs(call_id, 0, 60, total=60)
    first = await host.one(RunInputs)
    host.emit(call_id, result_event(index=0), done=(0,))
    await plane.settle()
    at_host = [index for index in host.inputs_of(call_id) if index != 0]
    # Half of what it has is done while the gateway is away.
    client = await restarted(plane, host, client)
    client.say(Attach(call_id=call_id, seq=1, total=66))
    client.inputs(call_id, 1, 59, total=60)
    half = at_host[: len(at_host) // 2]
    rest = tuple(at_host[len(at_host) // 2 :])
    host.connect(calls=(report(call_id, first.container_id, next_seq=1 + len(half), inputs=rest),))
    welcome = await host.one(HostWelcome)
    assert {call_id: 1} == welcome.calls
    for index in half:
        host.emit(call_id, result_event(index=index), done=(index,))
    done = {0, *half}
    for index in rest:
        done.add(index)
        host.emit(call_id, result_event(index=index), done=(index,))
    while client.end(call_id) is None:
        await host.until(lambda: client.end(call_id) or set(host.inputs_of(call_id)) - done)
        for index in sorted(set(host.inputs_of(call_id)) - done):
            done.add(index)
            host.emit(call_id, result_event(index=index), done=(index,))
    later = host.inputs_of(call_id)
    assert sorted([0, *at_host, *later]) == list(range(60)), "each was given out once"
    assert sorted(event.meta["index"] for event in client.events(call_id)) == list(range(1, 60))


async def test_a_session_lives_on_through_a_restart_of_the_gateway(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    what = spec("cell", session="se-00000001", session_name="train")
    first = client.submit(client.define(what), kind="cell")
    run = await host.run(first)
    host.emit(first, end="done")
    await plane.settle()
    client = await restarted(plane, host, client)
    host.connect()
    second = client.submit(client.define(what), kind="cell")
    assert run.container_id == (await host.run(second)).container_id
    (session,) = plane.control.sessions("local")
    assert ("train", "nb.ipynb", "running") == (session.name, session.notebook, session.state)


@pytest.mark.parametrize("plane", [{"client_grace": 0.05}], indirect=True)
async def test_calls_of_a_client_that_does_not_come_back_after_a_restart_are_cancelled(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    run = await host.run(call_id)
    await plane.settle()
    await plane.crash()
    await plane.start()
    host.messages.clear()
    host.connect(calls=(report(call_id, run.container_id),))
    await host.one(CancelCall, call_id=call_id)


# --- the link to the host ------------------------------------------------------------------------------


async def test_while_the_link_is_gone_calls_wait_and_say_so(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define()
    running = client.submit(function_id)
    await host.run(running)
    await client.until(lambda: client.last_status(running))
    host.disconnect()
    assert "waiting for host lab to come back: the link to it is lost" == client.last_status(running).detail
    waiting = client.submit(function_id)
    status = await client.until(lambda: client.last_status(waiting))
    assert "waiting for host lab to come back: the link to it is lost" == status.detail


async def test_a_call_lost_on_the_way_to_a_living_container_is_sent_again(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    await host.run(call_id)
    host.disconnect()
    host.messages.clear()
    host.connect()
    await host.run(call_id)


async def test_a_restarted_host_fails_what_it_ran_and_runs_what_waited(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define(spec(max_containers=1))
    running, waiting = client.submit(function_id), client.submit(function_id)
    await host.run(running)
    host.disconnect()
    host.connect(keep=False)
    end = await client.ended(running)
    assert (
        "InternalFailure: The host process on lab was restarted while it ran f, and its container is gone. "
        "Run it again." == end.summary
    )
    await host.run(waiting)


@pytest.mark.parametrize("plane", [{"host_grace": 0.05}], indirect=True)
async def test_a_host_that_does_not_come_back_fails_its_calls(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    await host.run(call_id)
    host.disconnect()
    end = await client.ended(call_id)
    assert (
        "InternalFailure: Host lab is gone while it ran this call: its link was lost and did not come back. "
        "Run it again." == end.summary
    )
    assert () == plane.control.hosts()


async def test_the_window_and_a_cancellation_are_repeated_to_a_host_that_comes_back(plane: Plane) -> None:
    from skylift.wire import Cancel, Consumed

    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    run = await host.run(call_id)
    frame = host.emit(call_id, text_event("a"))
    await plane.settle()
    host.disconnect()
    client.say(Consumed(call_id=call_id, seq=1, total=frame.cost))
    client.say(Cancel(call_id=call_id))
    host.messages.clear()
    host.connect(calls=(report(call_id, run.container_id, next_seq=1, held_from=1),))
    assert [Window(call_id=call_id, total=frame.cost)] == host.all(Window)
    assert 1 == len(host.all(CancelCall))


async def test_events_that_nobody_has_any_more_end_the_call(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    run = await host.run(call_id)
    host.emit(call_id, text_event("a"))
    host.disconnect()
    host.connect(calls=(report(call_id, run.container_id, next_seq=9, held_from=5),))
    end = await client.ended(call_id)
    assert end.summary.startswith("InternalFailure: Events 1 to 4 of this call are lost")


async def test_a_wrong_token_is_refused(plane: Plane) -> None:
    host = FakeHost(plane)
    (plane.home / "host-token").write_text("another\n")
    with pytest.raises(PermissionError, match="token is wrong"):
        host.connect()


# --- containers that end -------------------------------------------------------------------------------


async def test_a_call_that_had_not_begun_goes_to_another_container_a_few_times(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    for attempt in range(4):
        run = await host.until(lambda: host.all(RunCall)[attempt:])  # noqa: B023
        assert attempt + 1 == len(host.all(RunCall))
        host.say(CallLost(call_id=call_id, reason="it was killed"))
        host.exited(run[0].container_id, "it was killed")
    end = await client.ended(call_id)
    assert (
        "InternalFailure: f was given to 4 containers, and each ended before it began. The last one: "
        "it was killed" == end.summary
    )


async def test_containers_that_do_not_start_fail_the_calls_after_three_attempts(plane: Plane) -> None:
    host, client = FakeHost(plane, slow=True), plane.client()
    host.connect()
    call_id = client.submit(client.define())
    for attempt in range(3):
        start = (await host.until(lambda: host.all(StartContainer)[attempt:]))[0]  # noqa: B023
        problem = Problem(error="RemoteError", message=f"attempt {attempt} failed")
        host.exited(start.container_id, problem=problem)
    end = await client.ended(call_id)
    assert "RemoteError: attempt 2 failed" == end.summary
    assert 3 == len(host.all(StartContainer))


async def test_a_hopeless_start_is_not_repeated(plane: Plane) -> None:
    host, client = FakeHost(plane, slow=True), plane.client()
    host.connect()
    call_id = client.submit(client.define())
    start = await host.one(StartContainer)
    host.exited(start.container_id, problem=Problem(error="InvalidError", message="/ cannot be mounted"))
    assert "InvalidError: /" in (await client.ended(call_id)).summary
    assert 1 == len(host.all(StartContainer))


async def test_a_call_whose_host_never_says_what_became_of_it_fails(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skylift.backend.host_calls.LAST_WORDS", 0.01)
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    run = await host.run(call_id)
    host.exited(run.container_id, "signal 9")
    end = await client.ended(call_id)
    assert (
        f"InternalFailure: Container {run.container_id} on lab ended while it ran f, and what became of the "
        "call is not known (signal 9)." == end.summary
    )


async def test_without_a_host_that_can_start_calls_fail_with_the_engines_reason(plane: Plane) -> None:
    client = plane.client()
    call_id = client.submit(client.define())
    await client.until(lambda: client.last_status(call_id))
    plane.engine.problem = "The host process of this machine does not start: no runc."
    plane.engine.changed()
    end = await client.ended(call_id)
    assert "RemoteError: The host process of this machine does not start: no runc." == end.summary


async def test_a_cancelled_map_ends_even_if_its_inputs_do_not_react(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skylift.wire import Cancel, StopContainer

    monkeypatch.setattr("skylift.backend.endings.CANCEL_SECONDS", 0.01)
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(), kind="map", args=Payload())
    client.inputs(call_id, 0, 5)
    run = await host.one(RunInputs)
    client.say(Cancel(call_id=call_id))
    assert "cancelled" == (await client.ended(call_id)).state
    assert [run.container_id] == [stop.container_id for stop in host.all(StopContainer)]
    await plane.settle()
    assert [EndMap(call_id=call_id)] == host.all(EndMap)


async def test_two_gateways_in_a_row_know_the_same_history(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define()
    calls = []
    for _ in range(20):
        calls.append(client.submit(function_id))
        await host.run(calls[-1])
        host.finish(calls[-1])
    await plane.stop()
    await plane.start()
    from skylift.backend.views import CallFilter

    page = await plane.control.calls("local", CallFilter())
    assert sorted(calls, reverse=True) == [call.call_id for call in page.calls]
    assert {"done"} == {call.state for call in page.calls}


async def test_inputs_lost_on_the_way_to_a_living_container_are_sent_again(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(), kind="map", args=Payload())
    client.inputs(call_id, 0, 3, total=3)
    await host.one(RunInputs)
    host.disconnect()
    host.messages.clear()
    host.connect()
    done = 0
    while client.end(call_id) is None:
        await host.until(lambda: client.end(call_id) or len(host.inputs_of(call_id)) > done)  # noqa: B023
        for index in host.inputs_of(call_id)[done:]:
            done += 1
            host.emit(call_id, result_event(index=index), done=(index,))
    assert [0, 1, 2] == sorted(host.inputs_of(call_id))


async def test_a_map_fails_when_its_host_was_restarted_while_it_ran(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(), kind="map", args=Payload())
    client.inputs(call_id, 0, 3, total=3)
    await host.one(RunInputs)
    host.disconnect()
    host.connect(keep=False)
    end = await client.ended(call_id)
    assert "The host process on lab was restarted while it ran f" in end.summary


async def test_a_client_that_is_back_before_the_host_finds_a_call_that_only_the_host_knows(
    plane: Plane,
) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    run = await host.run(call_id)
    frame = host.emit(call_id, text_event("a"))
    client = await restarted(plane, host, client)
    client.say(Attach(call_id=call_id, seq=1, total=frame.cost))
    await plane.settle()
    assert [] == client.all(Refused)
    host.connect(calls=(report(call_id, run.container_id, next_seq=1),))
    host.say(frame)
    host.finish(call_id)
    await client.ended(call_id)
    assert [result_event()] == client.events(call_id)


async def test_a_call_whose_arguments_are_gone_is_not_run_without_them(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    run = await host.run(call_id)
    await plane.settle()
    client = await restarted(plane, host, client)
    client.say(Attach(call_id=call_id))
    host.connect(calls=(report(call_id, run.container_id),))
    host.say(CallLost(call_id=call_id, reason="it was killed"))
    end = await client.ended(call_id)
    assert (
        "InternalFailure: The gateway was restarted, and f cannot go on: its arguments were in the gateway's "
        "memory. Run it again." == end.summary
    )
    assert [] == host.all(RunCall)


async def test_a_host_keeps_a_call_until_its_end_is_in_the_log(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    run = await host.run(call_id)
    host.finish(call_id)
    host.disconnect()
    host.messages.clear()
    calls = (report(call_id, run.container_id, next_seq=1, ended=True),)
    host.connect(calls=calls)
    assert {call_id: 0} == host.all(HostWelcome)[-1].calls
    await plane.settle()
    host.disconnect()
    host.connect(calls=calls)
    assert {} == host.all(HostWelcome)[-1].calls


async def test_a_call_that_ended_with_its_container_is_kept_for_its_client(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    run = await host.run(call_id)
    await plane.crash()
    await plane.start()
    host.messages.clear()
    host.connect(calls=(report(call_id, run.container_id, next_seq=1, ended=True),), keep=False)
    assert {call_id: 0} == (await host.one(HostWelcome)).calls
    host.finish(call_id, b"once")
    await plane.settle()
    plane.control.registry.recent.clear()
    client = plane.client(client_id=client.client_id)
    client.say(Submit(call_id=call_id, function_id=client.define(), kind="call", resubmitted=True))
    await client.ended(call_id)
    assert [result_event(b"once")] == client.events(call_id)
    assert [] == host.all(RunCall)
    await plane.settle()
    detail = await plane.control.call("local", call_id)
    assert detail is not None
    assert ("f", "done") == (detail.call.function, detail.call.state)
