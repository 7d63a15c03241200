"""Calls from submission to end, as a client sees them."""

from __future__ import annotations

import pytest
from control_harness import H100, Accepted, Code, Persisted, Plane, Refused, result_event, spec, text_event

from skylift.wire import (
    INLINE_LIMIT,
    Cancel,
    CancelCall,
    Consumed,
    Detach,
    Events,
    Payload,
    RunCall,
    StartContainer,
    Status,
    StopContainer,
    Submit,
    Window,
    new_id,
)

pytestmark = pytest.mark.anyio


async def test_a_call_starts_a_container_and_its_result_comes_back(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define(spec(timeout=7.0))
    call_id = client.submit(function_id)
    run = await host.run(call_id)
    assert [StartContainer, Code, RunCall] == [
        type(message) for message in host.messages if not isinstance(message, Persisted)
    ][1:]
    assert (b"args", 7.0, 0) == (run.args.data, run.timeout, run.first_seq)
    host.finish(call_id, b"result")
    end = await client.ended(call_id)
    assert "done" == end.state
    assert [result_event(b"result")] == client.events(call_id)
    assert [Accepted(call_id=call_id)] == client.all(Accepted)


async def test_a_call_that_takes_its_time_is_accepted(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    await client.one(Accepted, call_id=call_id)
    run = await host.run(call_id)
    assert call_id == run.call_id


async def test_a_warm_call_goes_out_and_comes_back_in_the_same_turn(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define()
    first = client.submit(function_id)
    await host.run(first)
    host.finish(first)
    second = client.submit(function_id)
    assert 1 == len(host.all(RunCall, call_id=second))
    host.finish(second)
    assert "done" == client.end(second).state  # type: ignore[union-attr]
    assert 1 == len(host.all(Code)), "the code goes over once"


async def test_nothing_is_said_of_a_call_that_is_over_in_a_blink(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define()
    first = client.submit(function_id)
    await host.run(first)
    host.finish(first)
    second = client.submit(function_id)
    host.finish(second)
    third = client.submit(function_id)
    await client.until(lambda: client.last_status(third))
    assert [] == [status for status in client.all(Status) if status.status.call_id == second]


async def test_a_waiting_call_says_why_and_for_whom(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    session = client.define(spec("cell", session="se-00000001", session_name="train", gpus=(H100,)))
    await host.run(client.submit(session, kind="cell"))
    waiting = client.submit(client.define(spec("g", gpus=(H100,))))
    status = await client.until(lambda: client.last_status(waiting))
    assert ("queued", "waiting for an H100: 1 of 1 in use by session train") == (status.state, status.detail)


async def test_a_gpu_that_no_host_has_fails_with_what_there_is(plane: Plane) -> None:
    plane.host(gpus={"L4": 2})
    client = plane.client()
    call_id = client.submit(client.define(spec(gpus=(H100,))))
    end = await client.ended(call_id)
    (event,) = client.events(call_id)
    assert "failed" == end.state
    assert ("error", "ResourceExhaustedError") == (event.kind, event.meta["skylift"])
    assert (
        "app.f asks for H100, and no host has that: lab has 2× L4. Ask for L4 in that number, or leave the "
        "GPU out." == event.meta["message"]
    )


async def test_an_unknown_function_is_refused(plane: Plane) -> None:
    client = plane.client()
    call_id = client.submit("fu-0123456789abcdef")
    (refused,) = client.all(Refused)
    assert call_id == refused.call_id
    assert "The function fu-0123456789abcdef was not defined on this connection." == refused.problem.message


async def test_arguments_that_are_not_in_the_store_are_refused_by_name(plane: Plane) -> None:
    client = plane.client()
    blob = "ab" * 32
    client.submit(client.define(), args=Payload(blob=blob, size=300_000))
    (refused,) = client.all(Refused)
    assert "NotFoundError" == refused.problem.error
    assert (
        f"The arguments of app.f are not in the store: it has no blob {blob} (300,000 bytes). Send it again."
        == refused.problem.message
    )


async def test_arguments_in_the_store_are_passed_on_by_name(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    blob = plane.store.put(b"x" * 300_000)
    call_id = client.submit(client.define(), args=Payload(blob=blob, size=300_000))
    assert blob == (await host.run(call_id)).args.blob


async def test_arguments_too_large_for_a_frame_are_refused(plane: Plane) -> None:
    client = plane.client()
    client.submit(client.define(), args=Payload(data=b"x" * (INLINE_LIMIT + 1), size=INLINE_LIMIT + 1))
    (refused,) = client.all(Refused)
    assert (
        "The arguments of app.f are 262,145 bytes; what is over 262,144 bytes must go to the store first."
        == refused.problem.message
    )


async def test_a_malformed_id_is_refused(plane: Plane) -> None:
    client = plane.client()
    client.submit(client.define(), call_id="../../etc/passwd")
    (refused,) = client.all(Refused)
    assert "'../../etc/passwd' is not the id of a call (fc-…)." == refused.problem.message


async def test_only_the_gateway_starts_kernels(plane: Plane) -> None:
    client = plane.client()
    client.submit(client.define(), kind="kernel")
    (refused,) = client.all(Refused)
    assert (
        "Only the gateway starts kernels: ask its Jupyter API, at /jupyter, for one."
        == refused.problem.message
    )


async def test_a_cell_cannot_run_in_a_function_nor_a_call_in_a_session(plane: Plane) -> None:
    client = plane.client()
    client.submit(client.define(), kind="cell")
    client.submit(client.define(spec("cell", session="se-00000001")), kind="call")
    assert [
        "A call of kind 'cell' cannot run in app.f.",
        "A call of kind 'call' cannot run in session se-00000001.",
    ] == [refused.problem.message for refused in client.all(Refused)]


async def test_an_id_cannot_stand_for_two_functions(plane: Plane) -> None:
    client = plane.client()
    function_id = client.define()
    from skylift.wire import Define

    client.say(Define(function_id=function_id, spec=spec("other"), code=Payload(data=b"x", size=1)))
    (refused,) = client.all(Refused)
    assert (function_id, "ConflictError") == (refused.function_id, refused.problem.error)


@pytest.mark.parametrize("plane", [{"max_queued_calls": 2}], indirect=True)
async def test_more_calls_than_the_limit_are_refused_with_the_limits_name(plane: Plane) -> None:
    client = plane.client()
    function_id = client.define()
    for _ in range(3):
        client.submit(function_id)
    (refused,) = client.all(Refused)
    assert "ResourceExhaustedError" == refused.problem.error
    assert (
        "The gateway holds 2 unfinished calls, its limit. Wait for some of them, use map for many inputs, or "
        "raise max_queued_calls in [gateway] of config.toml." == refused.problem.message
    )


@pytest.mark.parametrize("plane", [{"max_queued_bytes": 10}], indirect=True)
async def test_more_bytes_of_arguments_than_the_limit_are_refused(plane: Plane) -> None:
    client = plane.client()
    function_id = client.define()
    for _ in range(3):
        client.submit(function_id)
    (refused,) = client.all(Refused)
    assert "max_queued_bytes" in refused.problem.message


async def test_the_same_id_runs_once(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define()
    call_id = client.submit(function_id)
    client.submit(function_id, call_id=call_id)
    await host.run(call_id)
    host.finish(call_id)
    client.submit(function_id, call_id=call_id, resubmitted=True)
    await client.until(lambda: len(client.all(Accepted)) == 3)
    assert 1 == len(host.all(RunCall))


async def test_calls_of_a_pool_run_in_their_order(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define(spec(max_containers=1))
    calls = [client.submit(function_id) for _ in range(5)]
    for call_id in calls:
        await host.run(call_id)
        host.finish(call_id)
    assert calls == [run.call_id for run in host.all(RunCall)]
    assert 1 == len(host.all(StartContainer))


async def test_a_single_use_container_is_ended_after_its_call(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define(spec(single_use=True))
    first = client.submit(function_id)
    run = await host.run(first)
    host.finish(first)
    await host.one(StopContainer, container_id=run.container_id)
    second = await host.run(client.submit(function_id))
    assert run.container_id != second.container_id


# --- spawn -----------------------------------------------------------------------------------------


async def test_a_durable_call_is_accepted_when_it_is_on_disk(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(), durable=True, detached=True)
    assert [] == client.all(Accepted)
    await client.one(Accepted, call_id=call_id)
    detail = await plane.control.call("local", call_id)
    assert detail is not None
    await host.run(call_id)
    host.finish(call_id)
    await plane.settle()
    assert [] == client.all(Events), "it was not attached"


async def test_a_durable_call_that_is_cancelled_before_it_is_on_disk_never_runs(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(), durable=True, detached=True)
    client.say(Cancel(call_id=call_id))
    await client.one(Accepted, call_id=call_id)
    await plane.settle()
    detail = await plane.control.call("local", call_id)
    assert detail is not None
    assert "cancelled" == detail.call.state
    assert [] == host.all(RunCall)


# --- cancelling ------------------------------------------------------------------------------------


async def test_a_waiting_call_is_cancelled_at_once(plane: Plane) -> None:
    client = plane.client()
    call_id = client.submit(client.define())
    client.say(Cancel(call_id=call_id, reason="changed my mind"))
    end = client.end(call_id)
    assert end is not None
    assert ("cancelled", "InputCancellation: changed my mind") == (end.state, end.summary)
    (event,) = client.events(call_id)
    assert ("InputCancellation", "changed my mind") == (event.meta["skylift"], event.meta["message"])


async def test_a_waiting_cell_is_interrupted_as_a_cell_is(plane: Plane) -> None:
    client = plane.client()
    call_id = client.submit(client.define(spec("cell", session="se-00000001")), kind="cell")
    client.say(Cancel(call_id=call_id, mode="interrupt"))
    (event,) = client.events(call_id)
    assert ("KeyboardInterrupt", "") == (event.meta["type"], event.meta["skylift"])


async def test_a_running_call_is_cancelled_by_its_host(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    await host.run(call_id)
    client.say(Cancel(call_id=call_id, mode="terminate", reason="enough"))
    assert [CancelCall(call_id=call_id, mode="terminate", reason="enough")] == host.all(CancelCall)
    assert client.end(call_id) is None
    host.emit(call_id, end="cancelled")
    assert "cancelled" == client.end(call_id).state  # type: ignore[union-attr]


async def test_cancelling_makes_room_for_the_next(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define(spec(max_containers=1))
    first, second, third = (client.submit(function_id) for _ in range(3))
    await host.run(first)
    client.say(Cancel(call_id=second))
    host.finish(first)
    assert 1 == len(host.all(RunCall, call_id=third))
    assert [] == host.all(RunCall, call_id=second)


async def test_a_call_of_somebody_else_is_not_found(plane: Plane) -> None:
    mine, theirs = plane.client(), plane.client(user="eve")
    call_id = mine.submit(mine.define())
    theirs.say(Cancel(call_id=call_id))
    (refused,) = theirs.all(Refused)
    assert "NotFoundError" == refused.problem.error
    assert mine.end(call_id) is None


async def test_a_call_that_never_was_is_not_found(plane: Plane) -> None:
    client = plane.client()
    call_id = new_id("fc")
    client.say(Cancel(call_id=call_id))
    refused = await client.one(Refused, call_id=call_id)
    assert (
        f"There is no call {call_id}: it is older than what the gateway keeps, or never reached it."
        == refused.problem.message
    )


# --- clients that go -------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", [{"client_grace": 0.05}], indirect=True)
async def test_the_calls_of_a_client_that_vanished_are_cancelled_after_its_grace(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    await host.run(call_id)
    client.disconnect()
    cancel = await host.one(CancelCall, call_id=call_id)
    assert "its client was gone for 0.05 s" == cancel.reason


@pytest.mark.parametrize("plane", [{"client_grace": 0.05}], indirect=True)
async def test_a_detached_call_goes_on_without_its_client(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define()
    kept, other = client.submit(function_id), client.submit(function_id)
    await host.run(kept)
    client.say(Detach(call_id=kept))
    client.disconnect()
    await plane.client().until(lambda: other not in plane.control.registry.calls)
    assert [] == host.all(CancelCall, call_id=kept)
    host.emit(kept, text_event("on and on"))
    await host.one(Window, call_id=kept)
    host.finish(kept)


async def test_a_client_that_comes_back_keeps_its_calls(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    await host.run(call_id)
    client.disconnect()
    again = plane.client(client_id=client.client_id)
    again.say(Submit(call_id=call_id, function_id=again.define(), kind="call", resubmitted=True))
    host.finish(call_id)
    assert "done" == (await again.ended(call_id)).state
    assert 1 == len(host.all(RunCall))


async def test_letting_go_of_a_call_cancels_it(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    await host.run(call_id)
    client.say(Detach(call_id=call_id, keep=False))
    assert ["its client let go of it"] == [cancel.reason for cancel in host.all(CancelCall)]


async def test_what_a_client_has_consumed_moves_the_window(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    await host.run(call_id)
    frame = host.emit(call_id, text_event("hello"))
    client.say(Consumed(call_id=call_id, seq=1, total=frame.cost))
    client.say(Consumed(call_id=call_id, seq=1, total=frame.cost))
    assert [Window(call_id=call_id, total=frame.cost)] == host.all(Window)
