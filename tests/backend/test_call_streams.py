"""Streams: each event once and in order, whatever comes twice, late or not at all; and windows."""

from __future__ import annotations

import msgspec
import pytest
from control_harness import FakeClient, FakeHost, Persisted, Plane, Refused, result_event, spec, text_event
from hypothesis import given, settings
from hypothesis import strategies as st

from skylift.backend.call_log import decode_done, merge_output
from skylift.backend.streams import events_from
from skylift.wire import (
    Attach,
    Consumed,
    Detach,
    Events,
    HostWelcome,
    Submit,
    Window,
    decode_events,
    encode_events,
    event_cost,
)

pytestmark = pytest.mark.anyio


async def running(plane: Plane, **what: object) -> tuple[FakeHost, FakeClient, str]:
    """A host, a client and its call, which runs."""
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(spec(is_generator=True)), kind="generator", **what)
    await host.run(call_id)
    return host, client, call_id


def texts(client: FakeClient, call_id: str) -> list[str]:
    return [event.data.decode() for event in client.events(call_id)]


# --- from the host ---------------------------------------------------------------------------------


async def test_frames_that_come_twice_are_forwarded_once(plane: Plane) -> None:
    host, client, call_id = await running(plane)
    frame = host.emit(call_id, text_event("a"), text_event("b"))
    host.say(frame)
    host.say(msgspec.structs.replace(frame))
    host.emit(call_id, text_event("c"), end="done")
    host.say(frame)
    assert ["a", "b", "c"] == texts(client, call_id)
    await plane.settle()
    page = await plane.control.output("local", call_id)
    assert page is not None
    assert ["a", "b", "c"] == [item.text for item in page.items]


async def test_a_frame_that_is_partly_known_is_cut(plane: Plane) -> None:
    host, client, call_id = await running(plane)
    host.emit(call_id, text_event("a"), text_event("b"))
    host.emit(call_id, text_event("b"), text_event("c"), seq=1, end="done")
    assert ["a", "b", "c"] == texts(client, call_id)
    assert "done" == client.end(call_id).state  # type: ignore[union-attr]


async def test_a_gap_is_never_forwarded_and_makes_the_link_anew(plane: Plane) -> None:
    host, client, call_id = await running(plane)
    host.emit(call_id, text_event("a"))
    host.emit(call_id, text_event("c"), seq=2)
    assert ["a"] == texts(client, call_id)
    assert f"event 1 of {call_id} was due, not 2" == host.closed


async def test_what_is_in_the_log_is_persisted_for_the_host(plane: Plane) -> None:
    host, _, call_id = await running(plane)
    host.emit(call_id, text_event("a"))
    host.emit(call_id, text_event("b"))
    await plane.settle()
    assert Persisted(call_id=call_id, seq=2) == host.all(Persisted)[-1]
    host.emit(call_id, end="done")
    await plane.settle()
    assert Persisted(call_id=call_id, seq=2, end=True) == host.all(Persisted)[-1]


async def test_late_frames_of_a_call_that_is_over_are_acknowledged(plane: Plane) -> None:
    host, _, call_id = await running(plane)
    host.finish(call_id)
    await plane.settle()
    before = len(host.all(Persisted))
    host.emit(call_id, text_event("late"), end="done")
    assert Persisted(call_id=call_id, seq=2, end=True) == host.all(Persisted)[before]


# --- attaching -------------------------------------------------------------------------------------


async def test_attaching_replays_from_the_log_and_goes_live_without_gap_or_repeat(plane: Plane) -> None:
    host, client, call_id = await running(plane)
    for number in range(50):
        host.emit(call_id, text_event(str(number)))
    other = plane.client()
    other.say(Attach(call_id=call_id, seq=10, total=10 * event_cost(1)))
    for number in range(50, 100):
        host.emit(call_id, text_event(str(number)))
    await other.until(lambda: len(other.events(call_id)) == 90)
    host.emit(call_id, text_event("100"), end="done")
    await other.ended(call_id)
    assert [str(number) for number in range(10, 101)] == texts(other, call_id)
    assert [str(number) for number in range(101)] == texts(client, call_id)


async def test_attaching_from_now_on_leaves_out_what_was(plane: Plane) -> None:
    host, client, call_id = await running(plane)
    frame = host.emit(call_id, text_event("before"))
    client.say(Detach(call_id=call_id))
    client.say(Attach(call_id=call_id, seq=-1))
    client.messages.clear()
    host.emit(call_id, text_event("after"))
    assert ["after"] == texts(client, call_id)
    assert 1 == client.all(Events)[0].seq
    assert frame.cost > 0


async def test_from_now_on_the_window_counts_what_was_before(plane: Plane) -> None:
    host, client, call_id = await running(plane)
    before = host.emit(call_id, text_event("before"))
    client.say(Attach(call_id=call_id, seq=-1))
    after = host.emit(call_id, text_event("after"))
    client.say(Consumed(call_id=call_id, seq=2, total=after.cost))
    assert Window(call_id=call_id, total=before.cost + after.cost) == host.all(Window)[-1]


async def test_a_call_that_is_over_is_replayed_with_its_end(plane: Plane) -> None:
    host, _, call_id = await running(plane)
    host.emit(call_id, text_event("a"))
    host.emit(call_id, result_event(), end="done")
    other = plane.client()
    other.say(Attach(call_id=call_id))
    end = await other.ended(call_id)
    assert "done" == end.state
    assert end.times.queued > 0
    assert ["a", "42"] == texts(other, call_id)


async def test_a_call_that_is_only_in_the_log_is_replayed(plane: Plane) -> None:
    host, client, call_id = await running(plane)
    host.emit(call_id, text_event("a"))
    host.emit(call_id, end="failed")
    await plane.settle()
    plane.control.registry.recent.clear()
    client.say(Attach(call_id=call_id, seq=1, total=event_cost(1)))
    client.messages.clear()
    end = await client.ended(call_id)
    assert "failed" == end.state
    assert [] == client.events(call_id)


async def test_a_replay_stays_within_the_clients_window(plane: Plane) -> None:
    host, _, call_id = await running(plane)
    data = "x" * 1000
    for _ in range(40):
        host.emit(call_id, text_event(data))
    host.emit(call_id, end="done")
    await plane.settle()
    other = plane.client()
    window = 5 * event_cost(1000)
    other.say(Attach(call_id=call_id, window=window))
    consumed = 0
    while other.end(call_id) is None:
        await other.until(
            lambda: other.end(call_id) or len(other.events(call_id)) * event_cost(1000) > consumed  # noqa: B023
        )
        sent = len(other.events(call_id)) * event_cost(1000)
        assert sent - consumed <= window
        consumed = sent
        other.say(Consumed(call_id=call_id, seq=len(other.events(call_id)), total=consumed))
    assert 40 == len(other.events(call_id))


async def test_a_slow_second_client_gets_everything_from_the_log(plane: Plane) -> None:
    host, client, call_id = await running(plane)
    other = plane.client()
    other.say(Attach(call_id=call_id, window=1000))
    data = "x" * 10_000
    total = 0
    for _ in range(60):
        total += host.emit(call_id, text_event(data)).cost
        client.say(Consumed(call_id=call_id, seq=0, total=total))
    assert 60 == len(client.events(call_id))
    assert len(other.events(call_id)) < 60
    host.emit(call_id, end="done")
    while other.end(call_id) is None:
        seen = len(other.events(call_id))
        other.say(Consumed(call_id=call_id, seq=seen, total=seen * event_cost(10_000)))
        await other.until(lambda: other.end(call_id) or len(other.events(call_id)) > seen)  # noqa: B023
    assert 60 == len(other.events(call_id))


async def test_only_the_owner_moves_the_window(plane: Plane) -> None:
    host, owner, call_id = await running(plane)
    other = plane.client()
    other.say(Attach(call_id=call_id))
    frame = host.emit(call_id, text_event("a"))
    other.say(Consumed(call_id=call_id, seq=1, total=frame.cost))
    assert [] == host.all(Window)
    owner.say(Consumed(call_id=call_id, seq=1, total=frame.cost))
    assert [Window(call_id=call_id, total=frame.cost)] == host.all(Window)


async def test_without_the_owner_another_client_moves_the_window(plane: Plane) -> None:
    host, owner, call_id = await running(plane)
    other = plane.client()
    other.say(Attach(call_id=call_id))
    owner.disconnect()
    frame = host.emit(call_id, text_event("a"))
    other.say(Consumed(call_id=call_id, seq=1, total=frame.cost))
    assert [Window(call_id=call_id, total=frame.cost)] == host.all(Window)


async def test_the_log_consumes_for_a_detached_call(plane: Plane) -> None:
    host, client, call_id = await running(plane, detached=True)
    frame = host.emit(call_id, text_event("a"))
    assert [] == client.all(Events)
    assert Window(call_id=call_id, total=frame.cost) == await host.one(Window)


async def test_a_stored_call_of_somebody_else_is_not_found(plane: Plane) -> None:
    host, _, call_id = await running(plane)
    host.finish(call_id)
    await plane.settle()
    plane.control.registry.recent.clear()
    eve = plane.client(user="eve")
    eve.say(Attach(call_id=call_id))
    refused = await eve.one(Refused, call_id=call_id)
    assert "NotFoundError" == refused.problem.error


async def test_ten_reconnects_of_a_client_lose_nothing(plane: Plane) -> None:
    host, client, call_id = await running(plane)
    seen: list[str] = []
    cost = number = 0
    while number < 500:
        for _ in range(50):
            host.emit(call_id, text_event(f"{number:04d}"))
            number += 1
        client.disconnect()
        host.emit(call_id, text_event(f"{number:04d}"))
        number += 1
        seen += texts(client, call_id)
        cost = len(seen) * event_cost(4)
        client = plane.client(client_id=client.client_id)
        client.say(Attach(call_id=call_id, seq=len(seen), total=cost))
    host.emit(call_id, end="done")
    await client.ended(call_id)
    seen += texts(client, call_id)
    assert [f"{n:04d}" for n in range(number)] == seen


# --- the host's link ---------------------------------------------------------------------------------


async def test_a_host_that_comes_back_sends_what_the_log_lacks(plane: Plane) -> None:
    from skylift.wire import CallReport

    host, client, call_id = await running(plane)
    first = host.emit(call_id, text_event("a"))
    await plane.settle()
    second = host.emit(call_id, text_event("b"))
    host.disconnect()
    container_id = next(iter(host.infos))
    host.connect(calls=(CallReport(call_id=call_id, container_id=container_id, next_seq=3, held_from=1),))
    assert {call_id: 1} == host.all(HostWelcome)[-1].calls
    assert first.seq == 0
    host.say(second)
    host.emit(call_id, text_event("c"), end="done")
    assert ["a", "b", "c"] == texts(client, call_id)
    await plane.settle()
    assert client.end(call_id) is not None


async def test_a_resubmitted_call_is_attached_from_its_start(plane: Plane) -> None:
    host, client, call_id = await running(plane)
    host.emit(call_id, text_event("a"))
    client.disconnect()
    again = plane.client(client_id=client.client_id)
    function_id = again.define(spec(is_generator=True))
    again.say(Submit(call_id=call_id, function_id=function_id, kind="generator", resubmitted=True))
    host.emit(call_id, text_event("b"), end="done")
    await again.ended(call_id)
    assert ["a", "b"] == texts(again, call_id)


# --- laws of frames ----------------------------------------------------------------------------------

FRAMES = st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=20), min_size=1, max_size=40)


@given(FRAMES, st.integers(0, 100))
@settings(deadline=None)
def test_merged_rows_say_what_the_frames_said(frames: list[list[bytes]], offset: int) -> None:
    rows = []
    seq = offset
    for number, datas in enumerate(frames):
        events = [result_event(data, index=seq + place) for place, data in enumerate(datas)]
        done = tuple(range(seq, seq + len(datas))) if number % 2 else ()
        cost = sum(event_cost(len(data)) for data in datas)
        rows.append(("fc-1", seq, len(events), cost, encode_events(events), done))
        seq += len(events)
    merged = merge_output(rows)
    events = [event for row in merged for event in decode_events(row[4])]
    assert [data for datas in frames for data in datas] == [event.data for event in events]
    assert sum(row[2] for row in merged) == len(events)
    assert sum(row[3] for row in rows) == sum(row[3] for row in merged)
    assert [index for row in rows for index in row[5]] == [i for row in merged for i in decode_done(row[5])]
    assert merge_output([*merged]) == merged


def test_rows_with_a_gap_between_them_are_not_merged() -> None:
    body = encode_events([text_event("a")])
    rows = [("fc-1", 0, 1, 65, body, ()), ("fc-1", 2, 1, 65, body, ()), ("fc-2", 1, 1, 65, body, ())]
    assert [("fc-1", 0), ("fc-1", 2), ("fc-2", 1)] == [row[:2] for row in merge_output(rows)]


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=30), st.integers(0, 40), st.integers(1, 5000))
@settings(deadline=None)
def test_a_cut_frame_is_a_whole_frame(datas: list[bytes], seq: int, room: int) -> None:
    events = [text_event("") if not data else result_event(data) for data in datas]
    message = Events(
        call_id="fc-1",
        seq=10,
        count=len(events),
        body=encode_events(events),
        cost=sum(event_cost(len(event.data)) for event in events),
    )
    part = events_from(message, 10 + seq, lambda blob: 0, room)
    found = decode_events(part.body) if part.count else []
    skipped = min(seq, len(events))
    assert 10 + skipped == part.seq
    assert events[skipped : skipped + part.count] == found
    assert part.cost == sum(event_cost(len(event.data)) for event in found)
    if skipped < len(events):
        assert part.count >= 1
        assert part.count == 1 or part.cost <= room or part is message


async def test_an_end_is_not_acknowledged_before_it_is_in_the_log(plane: Plane) -> None:
    host, _, call_id = await running(plane)
    frame = host.emit(call_id, end="done")
    host.say(frame)
    assert [] == host.all(Persisted)
    await plane.settle()
    host.say(frame)
    assert [True, True] == [message.end for message in host.all(Persisted)]
