"""Maps: batches by what inputs take, every input once, whatever becomes of containers and connections."""

from __future__ import annotations

import pytest
from control_harness import FakeClient, FakeHost, Plane, Refused, result_event, spec
from hypothesis import given
from hypothesis import strategies as st

from skylift.backend.maps import MAX_BATCH, UNKNOWN, IndexSet, MapInputs
from skylift.wire import (
    Accepted,
    Cancel,
    CancelCall,
    EndMap,
    Inputs,
    Payload,
    Persisted,
    Returned,
    RunCall,
    RunInputs,
    StartContainer,
    StopContainer,
)

pytestmark = pytest.mark.anyio


def payloads(count: int, size: int = 4) -> tuple[Payload, ...]:
    return tuple(Payload(data=b"x" * size, size=size) for _ in range(count))


async def mapping(
    plane: Plane, host: FakeHost | None = None, **what: object
) -> tuple[FakeHost, FakeClient, str]:
    """A host, a client and its map, which has no inputs yet."""
    host = host or plane.host()
    client = plane.client()
    call_id = client.submit(client.define(spec(**what)), kind="map", args=Payload())
    return host, client, call_id


def do(host: FakeHost, call_id: str, *indexes: int) -> None:
    """Let inputs have their results."""
    host.emit(call_id, *(result_event(b"%d" % index, index) for index in indexes), done=indexes)


async def do_all(host: FakeHost, client: FakeClient, call_id: str) -> None:
    """Give results for whatever is sent, until the map is over."""
    answered = 0
    while client.end(call_id) is None:
        await host.until(lambda: client.end(call_id) or len(host.all(RunInputs)) > answered)  # noqa: B023
        for command in host.all(RunInputs)[answered:]:
            answered += 1
            do(host, call_id, *command.indexes)


async def test_every_input_gets_its_result_and_the_map_ends(plane: Plane) -> None:
    host, client, call_id = await mapping(plane)
    client.inputs(call_id, 0, 100)
    client.inputs(call_id, 100, 100, total=200)
    await do_all(host, client, call_id)
    assert "done" == client.end(call_id).state  # type: ignore[union-attr]
    assert sorted(host.inputs_of(call_id)) == list(range(200))
    assert 200 == len(client.events(call_id))
    await plane.settle()
    assert [EndMap(call_id=call_id)] == host.all(EndMap)
    assert host.all(Persisted)[-1].end


async def test_an_empty_map_ends_at_once(plane: Plane) -> None:
    client = plane.client()
    call_id = client.submit(client.define(), kind="map", args=Payload())
    client.inputs(call_id, 0, 0, total=0)
    assert "done" == client.end(call_id).state  # type: ignore[union-attr]


async def test_a_map_is_accepted_once_its_row_is_in_the_log(plane: Plane) -> None:
    client = plane.client()
    call_id = client.submit(client.define(), kind="map", args=Payload())
    await client.one(Accepted, call_id=call_id)
    assert await plane.control.call("local", call_id) is not None


async def test_inputs_go_out_one_by_one_until_it_is_known_how_long_they_take(plane: Plane) -> None:
    host, client, call_id = await mapping(plane)
    client.inputs(call_id, 0, 500)
    await host.one(RunInputs)
    assert [0] == host.inputs_of(call_id)
    do(host, call_id, 0)
    assert len(host.all(RunInputs)[1].indexes) > 1


async def test_inputs_that_take_long_go_out_one_by_one() -> None:
    inputs = MapInputs()
    inputs.receive(0, payloads(100), 100)
    now = 0.0
    for _ in range(10):
        indexes, _ = inputs.take("co-1", 50 if inputs.batch > 1 else 1, now)
        now += 0.02 * len(indexes)
        inputs.finish(indexes, now)
        assert 1 == inputs.batch


async def test_quick_inputs_go_out_in_batches_of_about_ten_milliseconds() -> None:
    inputs = MapInputs()
    inputs.receive(0, payloads(100_000), 100_000)
    now = 0.0
    for _ in range(40):
        indexes, _ = inputs.take("co-1", inputs.batch, now)
        now += 0.0001 * len(indexes)
        inputs.finish(indexes, now)
    assert 90 <= inputs.batch <= 110
    for _ in range(40):
        indexes, _ = inputs.take("co-1", inputs.batch, now)
        now += 1e-7 * len(indexes)
        inputs.finish(indexes, now)
    assert MAX_BATCH == inputs.batch


async def test_large_inputs_make_small_batches() -> None:
    inputs = MapInputs()
    inputs.receive(0, payloads(100, 200_000), 100)
    indexes, items = inputs.take("co-1", 100, 0.0)
    assert 5 == len(indexes) == len(items)
    assert 95 == inputs.waiting


async def test_a_container_that_is_ahead_gets_more_before_it_is_done(plane: Plane) -> None:
    host, client, call_id = await mapping(plane, max_containers=1)
    client.inputs(call_id, 0, 2000)
    await host.one(RunInputs)
    do(host, call_id, 0)
    sent = host.all(RunInputs)[1].indexes
    do(host, call_id, *sent[: len(sent) // 2 + 1])
    assert 3 == len(host.all(RunInputs)), "with half a batch to do, the next one came"


async def test_a_call_gets_its_turn_between_two_batches(plane: Plane) -> None:
    host, client, call_id = await mapping(plane, max_containers=1)
    client.inputs(call_id, 0, 2000)
    await host.one(RunInputs)
    other = client.submit(client.define(spec(max_containers=1)))
    do(host, call_id, 0)
    batch = host.all(RunInputs)[1].indexes
    do(host, call_id, *batch[:-1])
    assert 2 == len(host.all(RunInputs)), "no more of the map while something else waits"
    do(host, call_id, batch[-1])
    assert 1 == len(host.all(RunCall, call_id=other))
    host.finish(other)
    assert 3 == len(host.all(RunInputs))


async def test_inputs_that_come_twice_run_once(plane: Plane) -> None:
    host, client, call_id = await mapping(plane)
    client.inputs(call_id, 0, 30)
    await host.one(RunInputs)
    do(host, call_id, 0)
    client.inputs(call_id, 0, 30, total=30)
    await do_all_rest(host, client, call_id)
    assert list(range(30)) == sorted(host.inputs_of(call_id))


async def do_all_rest(host: FakeHost, client: FakeClient, call_id: str) -> None:
    """As `do_all`, leaving out what was done before."""
    done = {event.meta["index"] for event in client.events(call_id)}
    while client.end(call_id) is None:
        await host.until(lambda: client.end(call_id) or set(host.inputs_of(call_id)) - done)
        for index in [index for index in host.inputs_of(call_id) if index not in done]:
            done.add(index)
            do(host, call_id, index)


async def test_inputs_that_a_dying_container_gives_back_run_elsewhere(plane: Plane) -> None:
    host, client, call_id = await mapping(plane)
    client.inputs(call_id, 0, 10, total=10)
    first = await host.one(RunInputs)
    do(host, call_id, 0)
    given = host.all(RunInputs)[1].indexes
    host.say(Returned(call_id=call_id, inputs=given))
    host.exited(first.container_id, "it died")
    await host.until(lambda: len(host.all(StartContainer)) == 2)
    seen = {0}
    while client.end(call_id) is None:
        await host.until(
            lambda: client.end(call_id) or host.all(RunInputs)[-1].container_id != first.container_id
        )
        for command in host.all(RunInputs):
            fresh = [index for index in command.indexes if index not in seen]
            if command.container_id != first.container_id and fresh:
                seen.update(fresh)
                do(host, call_id, *fresh)
    assert 10 == len(client.events(call_id))


async def test_a_cancelled_map_ends_when_what_runs_has_reacted(plane: Plane) -> None:
    host, client, call_id = await mapping(plane)
    client.inputs(call_id, 0, 10)
    await host.one(RunInputs)
    client.say(Cancel(call_id=call_id))
    assert client.end(call_id) is None
    assert 1 == len(host.all(CancelCall, call_id=call_id))
    do(host, call_id, 0)
    assert "cancelled" == client.end(call_id).state  # type: ignore[union-attr]
    assert [0] == host.inputs_of(call_id)
    assert [] == host.all(StopContainer)


async def test_a_cancelled_map_whose_inputs_come_back_ends(plane: Plane) -> None:
    host, client, call_id = await mapping(plane)
    client.inputs(call_id, 0, 10)
    await host.one(RunInputs)
    client.say(Cancel(call_id=call_id))
    host.say(Returned(call_id=call_id, inputs=(0,)))
    assert "cancelled" == client.end(call_id).state  # type: ignore[union-attr]


async def test_after_its_end_a_map_leaves_its_container_to_others(plane: Plane) -> None:
    host, client, call_id = await mapping(plane, max_containers=1)
    client.inputs(call_id, 0, 3, total=3)
    await do_all(host, client, call_id)
    other = client.submit(client.define(spec(max_containers=1)))
    assert 1 == len(host.all(RunCall, call_id=other))


async def test_a_call_that_is_no_map_takes_no_inputs(plane: Plane) -> None:
    client = plane.client()
    call_id = client.submit(client.define())
    client.inputs(call_id, 0, 1)
    (refused,) = client.all(Refused)
    assert f"{call_id} is no map: it takes no inputs." == refused.problem.message


async def test_an_input_that_is_not_in_the_store_is_refused_by_its_number(plane: Plane) -> None:
    client = plane.client()
    call_id = client.submit(client.define(), kind="map", args=Payload())
    blob = "cd" * 32
    client.say(Inputs(call_id=call_id, start=7, items=(Payload(blob=blob, size=300_000),)))
    (refused,) = client.all(Refused)
    assert refused.problem.message.startswith("The arguments of input 7 of f are not in the store")


async def test_a_client_that_sends_too_far_ahead_is_stopped(plane: Plane) -> None:
    client = plane.client()
    call_id = client.submit(client.define(), kind="map", args=Payload())
    for start in range(0, 4400, 400):
        client.inputs(call_id, start, 400)
    end = client.end(call_id)
    assert end is not None
    assert "a client may send 2,048 ahead" in end.summary


async def test_the_inputs_of_a_map_are_spread_over_its_containers(plane: Plane) -> None:
    host, client, call_id = await mapping(plane)
    # Two containers, made by two calls that run at once.
    function_id = client.define()
    pool = next(iter(plane.control.registry.pools.values()))
    pool.duration = 100.0
    calls = [client.submit(function_id) for _ in range(2)]
    for each in calls:
        await host.run(each)
    for each in calls:
        host.finish(each)
    client.inputs(call_id, 0, 10)
    assert 2 == len({command.container_id for command in host.all(RunInputs)})


# --- the parts ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 60), max_size=120))
def test_an_index_set_is_a_set(numbers: list[int]) -> None:
    found, expected = IndexSet(), set[int]()
    for number in numbers:
        assert (number not in expected) == found.add(number)
        expected.add(number)
    assert len(expected) == len(found)
    assert [number in expected for number in range(-1, 62)] == [number in found for number in range(-1, 62)]
    # Ranges never touch, so that there are as few as can be.
    assert all(end < start for end, start in zip(found._ends, found._starts[1:], strict=False))


def test_an_index_set_of_a_million_is_small() -> None:
    found = IndexSet(range(1, 1_000_000))
    assert 999_999 == len(found)
    assert 1 == len(found._starts)


@given(st.lists(st.sampled_from(["take1", "take2", "done", "early", "back", "again", "leave"]), max_size=60))
def test_no_input_is_lost_or_doubled(steps: list[str]) -> None:
    inputs = MapInputs()
    everything = 40
    inputs.receive(0, payloads(everything), everything)
    now = 0.0
    left: set[int] = set()
    for step in steps:
        now += 0.001
        if step.startswith("take") and inputs.waiting:
            inputs.take(f"co-{step[-1]}", 5, now)
        elif step == "done" and inputs.out:
            inputs.finish(tuple(sorted(inputs.out)[:3]), now)
        elif step == "back":
            inputs.give_back(sorted(inputs.out)[:2])
        elif step == "again":
            inputs.receive(0, payloads(everything), everything)
        elif step == "leave":
            left |= inputs.leave("co-1")
        waiting = set(inputs._waiting) | set(inputs._returned)
        out = set(inputs.out)
        done = {number for number in range(everything) if number in inputs.done}
        assert set(range(everything)) == waiting | out | done
        assert len(waiting) + len(out) + len(done) == everything
        shared = [index for share in inputs.shares.values() for index in share.indexes]
        assert len(shared) == len(set(shared))
        assert set(shared) <= out
        assert out - left <= set(shared)


def test_inputs_that_only_a_host_has_get_their_arguments_from_the_client() -> None:
    inputs = MapInputs()
    inputs.adopt("co-1", 3, 0.0)
    assert 0 == inputs.give_back([3]), "without its arguments it cannot run again here"
    inputs.adopt("co-1", 3, 0.0)
    assert inputs.out[3] is UNKNOWN
    inputs.receive(0, payloads(5), 5)
    assert b"xxxx" == inputs.out[3].data
    assert 1 == inputs.give_back([3])
    assert 5 == inputs.waiting
