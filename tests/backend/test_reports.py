"""What REST is told about calls, containers, hosts and spend."""

from __future__ import annotations

import time

import msgspec
import pytest
from control_harness import H100, FakeClient, FakeHost, Plane, result_event, spec, text_event

from skylift.backend.views import CallFilter, CallRow
from skylift.wire import CallStarted, Usage, UsageReport

pytestmark = pytest.mark.anyio

PRICED = {"prices": {"H100": 3600.0, "cpu": 0.0}}


async def done(plane: Plane, host: FakeHost, client: FakeClient, name: str = "f", **what: object) -> str:
    """A call that has run."""
    call_id = client.submit(client.define(spec(name)), **what)
    await host.run(call_id)
    host.finish(call_id)
    return call_id


async def listed(plane: Plane, user: str = "local", **what: object) -> list[CallRow]:
    page = await plane.control.calls(user, CallFilter(**what))  # type: ignore[arg-type]
    return list(page.calls)


async def test_calls_are_listed_newest_first_in_pages(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    calls = [await done(plane, host, client) for _ in range(7)]
    found: list[str] = []
    before = ""
    while True:
        page = await plane.control.calls("local", CallFilter(), before, 3)
        found += [call.call_id for call in page.calls]
        before = page.next
        if not before:
            break
    assert sorted(calls, reverse=True) == found


async def test_calls_are_found_by_what_is_known_of_them(plane: Plane) -> None:
    host, client = plane.host(), plane.client(notebook="a.ipynb")
    other = plane.client(notebook="b.ipynb")
    first = await done(plane, host, client, "train", summary="train(lr=0.1)")
    second = await done(plane, host, other, "evaluate", summary="100%_sure")
    third = other.submit(other.define(spec("train")))
    await host.run(third)

    async def ids(**what: object) -> list[str]:
        return [call.call_id for call in await listed(plane, **what)]

    assert [first] == await ids(notebook="a.ipynb")
    assert [second] == await ids(function="evaluate")
    assert [third] == await ids(state=("running", "queued"))
    assert [first] == await ids(search="LR=0.1")
    assert [second] == await ids(search="%_s")
    assert [] == await ids(search="0%s")
    assert [] == await ids(until=time.time() - 3600)
    assert 3 == len(await ids(since=time.time() - 3600))
    assert [] == [call.call_id for call in await listed(plane, user="eve")]


async def test_a_call_has_its_timeline(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(spec(gpus=(H100,))), cell="cell-7", summary="f(1)")
    await host.run(call_id)
    host.say(CallStarted(call_id=call_id, time=time.time()))
    host.emit(call_id, text_event("hello"))
    host.finish(call_id)
    detail = await plane.control.call("local", call_id)
    assert detail is not None
    assert ["queued", "starting container", "container ready", "started", "first output", "done"] == [
        entry.what for entry in detail.timeline
    ]
    assert "the first container of app.f on H100" == detail.timeline[1].detail
    assert "cold in 0.50 s" == detail.timeline[2].detail
    assert ("cell-7", "f(1)", "H100", 2, 1) == (
        detail.call.cell,
        detail.call.summary,
        detail.call.gpu,
        detail.events,
        detail.attempts,
    )
    assert detail.container is not None
    assert 1 == detail.container.calls
    assert await plane.control.call("eve", call_id) is None
    assert await plane.control.call("local", "fc-00000000") is None


async def test_the_output_of_a_call_is_read_in_pages(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    await host.run(call_id)
    for number in range(10):
        host.emit(call_id, text_event(f"line {number}"))
    host.emit(call_id, result_event(b"pickled bytes"), end="done")
    first = await plane.control.output("local", call_id, 0, 4)
    assert first is not None
    assert ([0, 1, 2, 3], 4, True) == ([item.seq for item in first.items], first.next_seq, first.more)
    rest = await plane.control.output("local", call_id, first.next_seq)
    assert rest is not None
    assert ([*range(4, 11)], 11, False) == ([item.seq for item in rest.items], rest.next_seq, rest.more)
    assert ("line 9", "output") == (rest.items[5].text, rest.items[5].kind)
    assert ("", 13, "result") == (rest.items[6].text, rest.items[6].size, rest.items[6].kind)
    assert await plane.control.output("eve", call_id) is None


async def test_everything_can_be_sent_as_json(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(spec(gpus=(H100,))))
    await host.run(call_id)
    control = plane.control
    views = [
        await control.calls("local", CallFilter()),
        await control.call("local", call_id),
        await control.output("local", call_id),
        await control.containers("local"),
        control.sessions("local"),
        control.hosts(),
        await control.spend("local"),
    ]
    for view in views:
        assert msgspec.json.decode(msgspec.json.encode(view)) is not None


async def test_hosts_say_who_uses_their_gpus(plane: Plane) -> None:
    host, client = plane.host(gpus={"H100": 2}), plane.client()
    what = spec("cell", session="se-00000001", session_name="train", gpus=(H100,), cpu=1.0, memory=1024)
    await host.run(client.submit(client.define(what), kind="cell"))
    (view,) = plane.control.hosts()
    assert ("lab", True, 1.0, 1024, 1) == (
        view.hostname,
        view.connected,
        view.cpus_reserved,
        view.memory_reserved,
        view.containers,
    )
    (gpu,) = view.gpus
    assert ("H100", 2, 1, ("session train (1)",)) == (gpu.model, gpu.count, gpu.in_use, gpu.holders)


async def test_without_a_host_the_engines_problem_is_shown(plane: Plane) -> None:
    assert () == plane.control.hosts()
    plane.engine.problem = "no runc"
    (view,) = plane.control.hosts()
    assert ("no runc", False) == (view.problem, view.connected)


async def test_containers_that_are_gone_are_listed_on_request(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    first = client.submit(client.define(spec("f")))
    run = await host.run(first)
    host.finish(first)
    host.exited(run.container_id, "it was told to")
    second = await host.run(client.submit(client.define(spec("g"))))
    up = await plane.control.containers("local")
    assert [second.container_id] == [view.container_id for view in up]
    every = await plane.control.containers("local", running=False)
    assert [(second.container_id, "ready"), (run.container_id, "exited")] == [
        (view.container_id, view.state) for view in every
    ]
    assert ("it was told to", 1) == (every[1].exit_reason, every[1].calls)
    assert () == await plane.control.containers("eve", running=False)


@pytest.mark.parametrize("plane", [PRICED], indirect=True)
async def test_status_lines_have_usage_and_what_it_costs(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(spec(gpus=(H100,))))
    run = await host.run(call_id)
    await client.until(lambda: client.last_status(call_id))
    sample = Usage(container_id=run.container_id, time=time.time(), cpu=1.5, memory=1 << 30, gpu=0.7)
    host.say(UsageReport(samples=(sample,)))
    status = client.last_status(call_id)
    assert ("running", sample, 3600.0, "H100") == (
        status.state,
        status.usage,
        status.price,
        status.container.gpu,
    )
    assert 0 < status.cost < 20


@pytest.mark.parametrize("plane", [PRICED], indirect=True)
async def test_spend_says_what_containers_cost_and_how_much_of_it_idle(plane: Plane) -> None:
    host, client = plane.host(), plane.client(notebook="train.ipynb")
    call_id = client.submit(client.define(spec(gpus=(H100,))))
    run = await host.run(call_id)
    container = plane.control.registry.containers[run.container_id]
    # As if it had been started 100 s ago, and run the call for the last 40 of them.
    container.meter.accrued -= 100
    container.busy_since = time.time() - 40
    host.finish(call_id)
    spend = await plane.control.spend("local", "notebook")
    (row,) = spend.rows
    assert ("train.ipynb", 1) == (row.key, row.calls)
    assert pytest.approx((100, 100.0, 60, 60.0), abs=5) == (
        row.seconds,
        row.cost,
        row.idle_seconds,
        row.idle_cost,
    )
    for by, key in (("gpu", "H100"), ("function", "app.f"), ("day", spend.until)):
        again = await plane.control.spend("local", by)  # type: ignore[arg-type]
        assert [key] == [row.key for row in again.rows]
        assert pytest.approx(100.0, abs=10) == again.total.cost
    assert () == (await plane.control.spend("eve")).rows
    detail = await plane.control.call("local", call_id)
    assert detail is not None
    assert pytest.approx(40.0, abs=5) == detail.call.cost


async def test_a_call_can_be_cancelled_and_a_container_stopped_by_their_owner(plane: Plane) -> None:
    from skylift.wire import CancelCall, StopContainer

    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define())
    run = await host.run(call_id)
    control = plane.control
    assert not control.cancel_call("eve", call_id)
    assert not control.stop_container("eve", run.container_id)
    assert control.cancel_call("local", call_id, reason="from the sidebar")
    assert ["from the sidebar"] == [cancel.reason for cancel in host.all(CancelCall)]
    assert control.stop_container("local", run.container_id)
    assert ["it was stopped"] == [stop.reason for stop in host.all(StopContainer)]
    assert not control.cancel_call("local", "fc-00000000")


@pytest.mark.parametrize("plane", [{"retention_days": 1.0}], indirect=True)
async def test_old_calls_are_forgotten_with_their_output(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    old, new = await done(plane, host, client), await done(plane, host, client)
    await plane.settle()
    await plane.database.maintain(
        lambda connection: connection.exec_driver_sql(
            "UPDATE calls SET ended = ended - 172800 WHERE call_id = ?", (old,)
        )
    )
    assert 1 == await plane.control._reader.forget(time.time() - 86400)
    assert [new] == [call.call_id for call in await listed(plane)]
    assert [] == await plane.control._reader.output(old, 0)


async def test_finished_calls_take_no_memory(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define()
    first = client.submit(function_id)
    await host.run(first)
    host.finish(first)
    for _ in range(2000):
        call_id = client.submit(function_id)
        host.finish(call_id)
        client.messages.clear()
        host.messages.clear()
    await plane.settle()
    registry = plane.control.registry
    assert {} == registry.calls
    assert 0 == registry.queued_bytes
    assert len(registry.recent) <= 256
    assert {} == registry.clients[client.client_id].attachments
    assert 0 == plane.database.backlog
