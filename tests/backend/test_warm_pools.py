"""Containers that are kept for functions that clients have defined, whether they call them or not."""

from __future__ import annotations

import pytest
from control_harness import FakeHost, Plane, spec

from skylift.wire import Problem, StartContainer, StopContainer

pytestmark = pytest.mark.anyio


async def kept(plane: Plane, host: FakeHost, count: int = 1) -> list[str]:
    """Wait until so many containers are up."""
    await host.until(lambda: len(host.infos) == count and len(plane.control.registry.containers) == count)
    return list(host.infos)


async def test_a_container_is_there_before_the_first_call(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define(spec(min_containers=1, scaledown_window=0.01))
    (container_id,) = await kept(plane, host)
    (shown,) = await plane.control.containers("local")
    assert ("min_containers=1 of app.f", "min_containers=1") == (shown.reason, shown.kept)
    call_id = client.submit(function_id)
    assert container_id == (await host.run(call_id)).container_id
    host.finish(call_id)
    assert [] == host.all(StopContainer)


async def test_it_is_ended_when_the_last_client_has_left(plane: Plane) -> None:
    host = plane.host()
    what = spec(min_containers=1, scaledown_window=0.05)
    first, second = plane.client(), plane.client()
    for client in (first, second):
        client.define(what)
    await kept(plane, host)
    first.disconnect()
    assert [] == host.all(StopContainer)
    second.disconnect()
    assert "idle for 0.05 s" == (await host.one(StopContainer)).reason
    await host.until(lambda: not plane.control.registry.pools)


async def test_a_client_that_comes_back_keeps_it(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    what = spec(min_containers=1)
    client.define(what)
    (container_id,) = await kept(plane, host)
    client.disconnect()
    client.connect()
    client.define(what)
    assert [container_id] == await kept(plane, host)
    (pool,) = plane.control.registry.pools.values()
    assert pool.needed


async def test_a_function_that_is_defined_anew_is_the_one_that_is_kept(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    client.define(spec(min_containers=1, scaledown_window=0.01))
    (old,) = await kept(plane, host)
    client.define(spec(min_containers=1, timeout=7.0, scaledown_window=0.01))
    assert old == (await host.one(StopContainer)).container_id
    (new,) = await kept(plane, host)
    assert 7.0 == host.specs[new].spec.timeout
    client.define(spec(timeout=8.0))
    await host.one(StopContainer, container_id=new)


async def test_what_ended_is_started_again(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    client.define(spec(min_containers=1))
    (container_id,) = await kept(plane, host)
    host.exited(container_id, "out of memory")
    await host.until(lambda: len(host.all(StartContainer)) == 2)
    assert 1 == len(await kept(plane, host))


async def test_code_in_a_container_keeps_nothing_warm(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    run = await host.run(client.submit(client.define(spec("g"))))
    inside = plane.client(container_id=run.container_id)
    inside.define(spec(min_containers=1))
    assert ["g"] == [pool.spec.name for pool in plane.control.registry.pools.values()]


async def test_a_container_that_nobody_waits_for_is_not_tried_again_and_again(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skylift.backend.host_calls.WARM_RETRY", 3600.0)
    host, client = plane.host(slow=True), plane.client()
    client.define(spec(min_containers=1))
    start = await host.one(StartContainer)
    host.exited(start.container_id, problem=Problem(error="InvalidError", message="no such Python"))
    (pool,) = plane.control.registry.pools.values()
    await host.until(lambda: pool.reason)
    assert "a container failed to start: trying again" == pool.reason
    call_id = client.submit(client.define(spec(min_containers=1)))
    second = (await host.until(lambda: host.all(StartContainer)[1:]))[0]
    host.ready(second.container_id)
    await host.run(call_id)
    assert 0.0 == pool.warm_not_before


async def test_a_buffer_is_there_while_a_call_runs(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    call_id = client.submit(client.define(spec(buffer_containers=1, scaledown_window=0.01)))
    await host.run(call_id)
    await kept(plane, host, 2)
    shown = await plane.control.containers("local")
    assert ["", "buffer_containers=1"] == sorted(each.kept for each in shown)
    host.finish(call_id)
    await host.until(lambda: not plane.control.registry.pools)
