"""Code in containers that calls functions: what it may do, who waits for whom, and how that ends."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from control_harness import IMAGE, FakeClient, FakeHost, Plane, Refused, result_event, spec
from sqlalchemy import select

from skylift.backend import nesting
from skylift.backend.schema import nested_calls, tokens
from skylift.wire import (
    Attach,
    CallReport,
    Cancel,
    CancelCall,
    FunctionSpec,
    MountSpec,
    Payload,
    RunInputs,
    StartContainer,
    StopSession,
    Welcome,
)

pytestmark = pytest.mark.anyio

OUTER = spec("outer", cpu=1.0)
INNER = spec("inner", cpu=1.0)
MAY = " It may call functions, read and cancel calls, and use the volumes of its user."


async def running(
    plane: Plane, host: FakeHost, what: FunctionSpec = OUTER, notebook: str = "nb.ipynb"
) -> tuple[str, FakeClient]:
    """A call that runs, and a client that is its code."""
    notebook_client = plane.client(notebook=notebook)
    call_id = notebook_client.submit(notebook_client.define(what))
    run = await host.run(call_id)
    return call_id, plane.client(container_id=run.container_id, notebook="/root")


# --- tokens ------------------------------------------------------------------------------------------


async def test_each_container_gets_a_token_of_its_pools_user(plane: Plane) -> None:
    host = plane.host(cpus=4.0)
    for user in ("local", "ada"):
        client = plane.client(user=user)
        await host.run(client.submit(client.define(OUTER)))
    first, second = host.all(StartContainer)
    assert ("local", "ada") == tuple(plane.control.authenticate(each.token) for each in (first, second))
    assert (first.container_id, second.container_id) == tuple(
        plane.control.container_of(each.token) for each in (first, second)
    )
    assert first.token != second.token
    assert "" == plane.control.container_of((plane.home / "token").read_text().strip())


async def test_the_database_has_the_hash_of_a_token_only_and_only_while_the_container_is_there(
    plane: Plane,
) -> None:
    host = plane.host()
    await running(plane, host)
    (start,) = host.all(StartContainer)
    await plane.settle()
    assert ["container " + start.container_id] == await labels(plane)
    content = b"".join(path.read_bytes() for path in plane.home.glob("skylift.db*"))
    assert start.token.encode() not in content
    host.exited(start.container_id)
    await plane.settle()
    assert [] == await labels(plane)
    assert plane.control.authenticate(start.token) is None
    assert "" == plane.control.container_of(start.token)


async def labels(plane: Plane) -> list[str]:
    rows = await plane.database.read(lambda connection: connection.execute(select(tokens)).all())
    return [row.label for row in rows if row.label.startswith("container ")]


async def test_a_token_outlives_a_restart_of_the_gateway(plane: Plane) -> None:
    host = plane.host()
    await running(plane, host)
    (start,) = host.all(StartContainer)
    await plane.settle()
    await plane.crash()
    await plane.start()
    assert "local" == plane.control.authenticate(start.token)
    assert start.container_id == plane.control.container_of(start.token)
    assert ["local"] == plane.control.tokens.users()


async def test_a_token_whose_container_ended_meanwhile_is_forgotten(tmp_path: Path) -> None:
    plane = Plane(tmp_path, host_grace=0.1)
    await plane.start()
    try:
        host = plane.host()
        call_id, _ = await running(plane, host)
        (start,) = host.all(StartContainer)
        await plane.settle()
        await plane.crash()
        await plane.start()
        host.connect(keep=False)
        client = plane.client()
        await client.until(lambda: plane.control.authenticate(start.token) is None, "the end of the token")
        assert call_id
    finally:
        await plane.stop()


async def test_a_token_whose_container_is_still_there_is_kept(tmp_path: Path) -> None:
    plane = Plane(tmp_path, host_grace=0.1)
    await plane.start()
    try:
        host = plane.host()
        await running(plane, host)
        (start,) = host.all(StartContainer)
        await plane.settle()
        await plane.crash()
        plane.control.tokens.mint("co-nobodys", "local")
        await plane.settle()
        await plane.start()
        host.connect()
        client = plane.client()
        await client.until(lambda: {start.container_id} == plane.control.tokens.containers(), "the purge")
    finally:
        await plane.stop()


# --- what it may do ------------------------------------------------------------------------------------


async def test_it_calls_functions_for_the_notebook_that_called_it(plane: Plane) -> None:
    host = plane.host()
    outer, inside = await running(plane, host, notebook="train.ipynb")
    inner = inside.submit(inside.define(INNER))
    await host.run(inner)
    host.finish(inner)
    assert "done" == (await inside.ended(inner)).state
    assert [result_event()] == inside.events(inner)
    detail = await plane.control.call("local", inner)
    assert detail is not None
    assert "train.ipynb" == detail.call.notebook
    assert outer != inner


async def test_the_log_has_which_call_made_which(plane: Plane) -> None:
    host = plane.host()
    outer, inside = await running(plane, host)
    first, second = (inside.submit(inside.define(spec(name))) for name in ("first", "second"))
    run = await host.run(first)
    deeper = plane.client(container_id=run.container_id)
    spawned = deeper.submit(deeper.define(spec("spawned")), durable=True, detached=True)
    await host.run(spawned)
    notebook = plane.client()
    notebook.submit(notebook.define(INNER))

    graph = await plane.control.graph("local", outer)
    assert graph is not None
    assert (outer, "") == (graph.calls[0].call.call_id, graph.calls[0].parent)
    assert {(outer, ""), (first, outer), (second, outer), (spawned, first)} == {
        (node.call.call_id, node.parent) for node in graph.calls
    }
    assert not graph.more
    part = await plane.control.graph("local", first)
    assert part is not None
    assert [(first, ""), (spawned, first)] == [(node.call.call_id, node.parent) for node in part.calls]
    assert await plane.control.graph("ada", outer) is None
    assert await plane.control.graph("local", "fc-00000000") is None

    for call_id in (spawned, first, second, outer):
        host.finish(call_id)
    await plane.settle()
    await plane.control._reader.forget(before=time.time() + 60)
    rows = await plane.database.read(lambda connection: connection.execute(select(nested_calls)).all())
    assert [] == rows


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            StopSession(session="se-00000001"),
            "Code in a container cannot stop sessions.",
        ),
        (
            Cancel(call_id="fc-00000001", mode="terminate"),
            "Code in a container cannot end containers (terminate_containers=True).",
        ),
    ],
)
async def test_what_it_may_not_do(plane: Plane, message: object, text: str) -> None:
    _, inside = await running(plane, plane.host())
    inside.say(message)
    (refused,) = inside.all(Refused)
    assert ("PermissionDeniedError", text + MAY) == (refused.problem.error, refused.problem.message)
    assert getattr(message, "call_id", "") == refused.call_id


async def test_it_may_cancel_a_call(plane: Plane) -> None:
    host = plane.host()
    outer, inside = await running(plane, host)
    inside.say(Cancel(call_id=outer))
    await host.one(CancelCall, call_id=outer, mode="cancel")


async def test_it_runs_no_cells(plane: Plane) -> None:
    _, inside = await running(plane, plane.host())
    function_id = inside.define(spec("s", session="se-00000001"))
    inside.submit(function_id, kind="cell")
    first, second = inside.all(Refused)
    assert first.problem.message.startswith("Code in a container cannot run cells in sessions.")
    assert (function_id, "NotFoundError") == (first.function_id, second.problem.error)


async def test_what_it_calls_sees_no_more_of_the_machine(plane: Plane) -> None:
    image = msgspec.structs.replace(IMAGE, mounts=(MountSpec(path="/opt/env"), MountSpec(path="/work")))
    _, inside = await running(plane, plane.host(), spec("outer", image=image))
    inside.define(spec("same", image=image))
    inside.define(spec("less", image=msgspec.structs.replace(image, mounts=image.mounts[:1])))
    assert [] == inside.all(Refused)
    for path in ("/srv", "/work/..", "/work/part", "/"):
        more = msgspec.structs.replace(image, mounts=(*image.mounts, MountSpec(path=path)))
        inside.define(spec("more", image=more))
        problem = inside.all(Refused)[-1].problem
        text = (
            f"Code in a container cannot call app.more, which sees {path}: app.outer does not see that. "
            "Define both in the same environment, or call more from the notebook."
        )
        assert ("PermissionDeniedError", text) == (problem.error, problem.message)


async def test_what_it_calls_has_no_network_where_it_has_none(plane: Plane) -> None:
    _, inside = await running(plane, plane.host(), spec("outer", block_network=True))
    inside.define(spec("blocked", block_network=True))
    assert [] == inside.all(Refused)
    inside.define(INNER)
    (refused,) = inside.all(Refused)
    assert (
        "Code in a container cannot call app.inner, which has a network, from app.outer, which has none "
        "(block_network=True). Define inner with block_network=True too."
    ) == refused.problem.message


# --- how its calls end -----------------------------------------------------------------------------------


async def test_when_its_container_ends_so_does_what_it_waited_for(plane: Plane) -> None:
    host = plane.host()
    _, inside = await running(plane, host)
    waited = inside.submit(inside.define(INNER))
    spawned = inside.submit(inside.define(spec("spawned")), durable=True, detached=True)
    await host.run(waited)
    await host.run(spawned)
    host.exited(inside.container_id)
    cancel = await host.one(CancelCall, call_id=waited)
    assert "the container that waited for it has ended" == cancel.reason
    assert [] == host.all(CancelCall, call_id=spawned)
    assert "1008 the container that waited for it has ended" == inside.port.closed
    said = len(inside.messages)
    inside.submit("fu-00000001")
    assert said == len(inside.messages)


async def test_the_same_when_its_connection_was_gone_before(plane: Plane) -> None:
    host = plane.host()
    _, inside = await running(plane, host)
    waited = inside.submit(inside.define(INNER))
    await host.run(waited)
    inside.disconnect()
    assert [] == host.all(CancelCall)
    host.exited(inside.container_id)
    await host.one(CancelCall, call_id=waited)


# --- a restart of the gateway ------------------------------------------------------------------------------


async def test_after_a_restart_it_is_let_in_when_its_host_has_told_of_its_container(plane: Plane) -> None:
    host = plane.host(cpus=1.0)
    outer, inside = await running(plane, host)
    inner = inside.submit(inside.define(INNER))
    run = await host.run(inner)
    await plane.settle()
    await plane.crash()
    await plane.start()
    host.messages.clear()
    again = plane.client(client_id=inside.client_id, container_id=inside.container_id)
    again.define(spec("more", image=msgspec.structs.replace(IMAGE, mounts=(MountSpec(path="/"),))))
    assert [] == again.messages
    host.connect(
        calls=(
            CallReport(call_id=outer, container_id=inside.container_id, next_seq=0, held_from=0),
            CallReport(call_id=inner, container_id=run.container_id, next_seq=0, held_from=0),
        )
    )
    await again.one(Welcome)
    again.say(Attach(call_id=inner))
    other = again.submit(again.define(INNER))
    host.finish(inner)
    assert "done" == (await again.ended(inner)).state
    await host.run(other)
    host.finish(other)
    assert "done" == (await again.ended(other)).state


async def test_one_that_gave_up_waiting_for_that_is_not_let_in(plane: Plane) -> None:
    host = plane.host()
    _, inside = await running(plane, host)
    await plane.settle()
    await plane.crash()
    await plane.start()
    again = plane.client(client_id=inside.client_id, container_id=inside.container_id)
    again.disconnect()
    host.connect()
    await plane.settle()
    assert [] == again.messages


# --- waiting for each other --------------------------------------------------------------------------------


async def test_what_a_call_waits_for_gets_its_cores(plane: Plane) -> None:
    host = plane.host(cpus=1.0)
    _, inside = await running(plane, host)
    inner = inside.submit(inside.define(INNER))
    run = await host.run(inner)
    deeper = plane.client(container_id=run.container_id)
    innermost = deeper.submit(deeper.define(spec("innermost", cpu=1.0)))
    await host.run(innermost)
    host.finish(innermost)
    await deeper.ended(innermost)


async def test_so_does_what_was_spawned_once_it_is_waited_for(plane: Plane) -> None:
    host = plane.host(cpus=1.0)
    _, inside = await running(plane, host)
    inner = inside.submit(inside.define(INNER), durable=True, detached=True)
    notebook = plane.client()
    notebook.say(Attach(call_id=inner))
    await notebook.until(
        lambda: (
            (status := notebook.last_status(inner))
            and "waiting for 1 core: 1 of 1 reserved by app.outer" == status.detail
        ),
        "why it waits",
    )
    inside.say(Attach(call_id=inner))
    await host.run(inner)


async def test_other_work_does_not_get_them(plane: Plane) -> None:
    host = plane.host(cpus=1.0)
    _, inside = await running(plane, host)
    notebook = plane.client()
    other = notebook.submit(notebook.define(spec("other", cpu=1.0)))
    inner = inside.submit(inside.define(INNER))
    await host.run(inner)
    await notebook.until(
        lambda: (
            (status := notebook.last_status(other))
            and "waiting for 1 core: 1 of 1 reserved by app.outer (waiting for calls of its own), app.inner"
            == status.detail
        ),
        "why it waits",
    )


async def test_recursion_goes_before_what_else_the_function_has_to_do(plane: Plane) -> None:
    host = plane.host(cpus=2.0)
    notebook = plane.client()
    function_id = notebook.define(spec("f", cpu=1.0, max_containers=2))
    many = notebook.submit(function_id, kind="map", args=Payload())
    notebook.inputs(many, 0, 10, total=10)
    await host.one(RunInputs, call_id=many)
    (first,) = host.all(StartContainer)
    inside = plane.client(container_id=first.container_id)
    nested = inside.submit(inside.define(spec("f", cpu=1.0, max_containers=2)))
    run = await host.run(nested)
    assert first.container_id != run.container_id
    assert [0] == host.inputs_of(many)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nesting, "DEADLOCK_SECONDS", 0.1)
    monkeypatch.setattr(nesting, "BREAK_SECONDS", 0.1)


@pytest.mark.usefixtures("impatient")
async def test_what_can_never_begin_fails_and_says_why(plane: Plane) -> None:
    host = plane.host(memory=1000)
    _, inside = await running(plane, host, spec("outer", memory=600))
    inner = inside.submit(inside.define(spec("inner", memory=600)))
    end = await inside.ended(inner)
    assert "failed" == end.state
    (error,) = inside.events(inner)
    assert "ResourceExhaustedError" == error.meta["skylift"]
    assert (
        "app.inner would never begin: it is waiting for 600 MiB of memory: 600 of 1,000 MiB reserved by "
        "app.outer (waiting for calls of its own). What it needs is held by calls that wait for it. Ask for "
        "less (cpu=, memory=, gpu=) for the functions that call each other, or make fewer of these calls at "
        "once."
    ) == error.meta["message"]


@pytest.mark.usefixtures("impatient")
async def test_what_was_spawned_stays_and_only_the_waiting_for_it_fails(plane: Plane) -> None:
    host = plane.host()
    outer, inside = await running(plane, host, spec("f", max_containers=1))
    inner = inside.submit(inside.define(spec("f", max_containers=1)), durable=True, detached=True)
    inside.say(Attach(call_id=inner))
    refused = await inside.one(Refused, call_id=inner)
    assert (
        "app.f would never begin: it is waiting for the busy container (max_containers=1). What it needs is "
        "held by calls that wait for it. Raise max_containers for the functions that call each other, or "
        "make fewer of these calls at once."
    ) == refused.problem.message
    host.finish(outer)
    await host.run(inner)


@pytest.mark.usefixtures("impatient")
async def test_calls_that_wait_for_each_other_are_told(plane: Plane) -> None:
    host = plane.host()
    outer, inside = await running(plane, host)
    inner = inside.submit(inside.define(INNER))
    run = await host.run(inner)
    deeper = plane.client(container_id=run.container_id)
    deeper.say(Attach(call_id=outer))
    told = await deeper.until(lambda: [*inside.all(Refused), *deeper.all(Refused)], "a refusal")
    assert "InvalidError" == told[0].problem.error
    assert told[0].problem.message.endswith(
        "would never end: it waits, directly or by way of other calls, for a call that waits for it. "
        "Let a call wait only for calls that it makes itself."
    )


@pytest.mark.usefixtures("impatient")
async def test_a_host_that_is_away_is_no_deadlock(plane: Plane) -> None:
    host = plane.host(memory=1000)
    outer, inside = await running(plane, host, spec("outer", memory=600))
    inner = inside.submit(inside.define(spec("inner", memory=600)))
    host.disconnect()
    away = "waiting for host lab to come back: the link to it is lost"
    await inside.until(
        lambda: (status := inside.last_status(inner)) and away == status.detail, "why it waits"
    )
    plane.control._dispatcher.nesting.break_deadlocks(0.0)
    plane.control._dispatcher.nesting.break_deadlocks(1e9)
    assert inside.end(inner) is None
    host.connect(
        calls=(CallReport(call_id=outer, container_id=inside.container_id, next_seq=0, held_from=0),)
    )
    await inside.ended(inner)
