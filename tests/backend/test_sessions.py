"""Sessions: one container each, first come first served, ended when idle or told to."""

from __future__ import annotations

import pytest
from control_harness import H100, FakeHost, Plane, Refused, spec

from skylift.wire import FunctionSpec, GpuRequest, RunCall, StartContainer, StopContainer, StopSession

pytestmark = pytest.mark.anyio


def session(name: str = "train", session_id: str = "se-00000001", **what: object) -> FunctionSpec:
    return spec("cell", session=session_id, session_name=name, **what)


async def test_the_cells_of_a_session_run_one_by_one_in_one_container(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define(session())
    cells = [client.submit(function_id, kind="cell") for _ in range(4)]
    for number, call_id in enumerate(cells):
        await host.run(call_id)
        assert number + 1 == len(host.all(RunCall))
        host.emit(call_id, end="done")
    assert 1 == len({run.container_id for run in host.all(RunCall)})
    assert cells == [run.call_id for run in host.all(RunCall)]


async def test_a_cell_that_waits_for_the_one_before_it_says_so(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define(session())
    await host.run(client.submit(function_id, kind="cell"))
    second = client.submit(function_id, kind="cell")
    status = await client.until(lambda: client.last_status(second))
    assert "waiting for the cell before it in the session" == status.detail


async def test_an_idle_session_ends_after_its_window(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(session(scaledown_window=0.05, idle_policy="stop")), kind="cell")
    await host.run(call_id)
    host.emit(call_id, end="done")
    stop = await host.one(StopContainer)
    assert "idle for 0.05 s" == stop.reason
    await host.until(lambda: plane.control.sessions("local") == ())


async def test_a_stopped_session_is_gone_and_what_waits_for_it_is_cancelled(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define(session())
    running = client.submit(function_id, kind="cell")
    await host.run(running)
    waiting = client.submit(function_id, kind="cell")
    client.say(StopSession(session="se-00000001"))
    assert "InputCancellation: session train was stopped" == client.end(waiting).summary  # type: ignore[union-attr]
    assert 1 == len(host.all(StopContainer))
    again = client.submit(function_id, kind="cell")
    run = await host.run(again)
    assert run.container_id != host.all(StopContainer)[0].container_id


async def test_stopping_what_is_not_up_says_so(plane: Plane) -> None:
    client = plane.client()
    client.say(StopSession(session="se-00000009"))
    (refused,) = client.all(Refused)
    assert "There is no session se-00000009 that is up." == refused.problem.message


async def test_nobody_else_can_stop_or_use_a_session(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    await host.run(client.submit(client.define(session()), kind="cell"))
    eve = plane.client(user="eve")
    eve.say(StopSession(session="se-00000001"))
    assert 1 == len(eve.all(Refused))
    assert [] == host.all(StopContainer)
    await host.run(eve.submit(eve.define(session()), kind="cell"))
    assert 2 == len(host.all(StartContainer)), "the same id of another user is another session"


async def test_a_session_that_is_up_with_other_gpus_is_a_conflict(plane: Plane) -> None:
    host, client = plane.host(gpus={"H100": 1, "L4": 1}), plane.client()
    await host.run(client.submit(client.define(session(gpus=(H100,))), kind="cell"))
    client.submit(client.define(session(gpus=(GpuRequest(model="L4", count=2),))), kind="cell")
    (refused,) = client.all(Refused)
    assert "ConflictError" == refused.problem.error
    assert (
        "session train is up with H100, and this cell asks for L4:2. Stop it first (%gpu stop; its variables "
        "are lost then), or give the other session a name of its own (--name)." == refused.problem.message
    )


async def test_a_session_goes_on_when_a_package_was_installed(plane: Plane) -> None:
    import msgspec
    from control_harness import IMAGE

    host, client = plane.host(), plane.client()
    first = client.submit(client.define(session()), kind="cell")
    run = await host.run(first)
    host.emit(first, end="done")
    changed = session(image=msgspec.structs.replace(IMAGE, fingerprint="new"), timeout=9.0)
    second = await host.run(client.submit(client.define(changed), kind="cell"))
    assert (run.container_id, 9.0) == (second.container_id, second.timeout)


async def test_after_its_end_a_session_may_have_another_gpu(plane: Plane) -> None:
    host, client = plane.host(gpus={"H100": 1, "L4": 1}), plane.client()
    first = client.submit(client.define(session(gpus=(H100,))), kind="cell")
    run = await host.run(first)
    host.emit(first, end="done")
    host.exited(run.container_id, "idle")
    await host.run(client.submit(client.define(session(gpus=(GpuRequest(model="L4"),))), kind="cell"))
    assert "L4" == host.all(StartContainer)[1].gpu.model  # type: ignore[union-attr]


async def test_two_notebooks_with_the_same_session_name_have_a_session_each(plane: Plane) -> None:
    host = plane.host(gpus={})
    for number in (1, 2):
        client = plane.client(notebook=f"folder{number}/nb.ipynb")
        await host.run(client.submit(client.define(session("nb", f"se-0000000{number}")), kind="cell"))
    views = plane.control.sessions("local")
    assert ["folder1/nb.ipynb", "folder2/nb.ipynb"] == sorted(view.notebook for view in views)
    assert {"nb"} == {view.name for view in views}


async def test_a_session_is_not_ended_for_a_function_but_a_function_for_a_session(plane: Plane) -> None:
    host = FakeHost(plane, gpus={"H100": 1})
    host.connect()
    client = plane.client()
    call_id = client.submit(client.define(spec("f", gpus=(H100,))))
    idle = await host.run(call_id)
    host.finish(call_id)
    cell = client.submit(client.define(session(gpus=(H100,))), kind="cell")
    await host.run(cell)
    assert [(idle.container_id, "idle, and session train needs the room")] == [
        (stop.container_id, stop.reason) for stop in host.all(StopContainer)
    ]
    host.emit(cell, end="done")
    waiting = client.submit(client.define(spec("f", gpus=(H100,))))
    status = await client.until(lambda: client.last_status(waiting))
    assert "waiting for an H100: 1 of 1 in use by session train (idle)" == status.detail
