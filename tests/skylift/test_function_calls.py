"""Calls that go on by themselves."""

from __future__ import annotations

import asyncio
import pickle
import traceback

import pytest
from sdk_gateway import FakeGateway

import skylift
from skylift import FunctionCall
from skylift.exceptions import InvalidError, NotFoundError
from skylift.wire import Cancel, Detach, Problem, Submit


def test_spawn_returns_before_the_result_and_is_durable(app: skylift.App, gateway: FakeGateway) -> None:
    gateway.control.may_run.clear()

    @app.function()
    def double(x):
        return 2 * x

    call = double.spawn(4)
    (submit,) = gateway.sent(Submit)
    assert (True, True) == (submit.durable, submit.detached)
    with pytest.raises(TimeoutError, match="has no result yet"):
        call.get(timeout=0)
    with pytest.raises(TimeoutError, match="has no result yet"):
        call.get(timeout=0.05)
    gateway.control.may_run.set()
    assert 8 == call.get()
    assert 8 == call.get(timeout=0)
    assert [] == gateway.sent(Cancel)


def test_from_id_finds_it_again(app: skylift.App) -> None:
    @app.function()
    def double(x):
        return 2 * x

    call = double.spawn(4)
    assert 8 == FunctionCall.from_id(call.object_id).get()
    assert call.object_id == pickle.loads(pickle.dumps(call)).object_id
    with pytest.raises(InvalidError, match="'nonsense' is no call's id"):
        FunctionCall.from_id("nonsense")
    with pytest.raises(NotFoundError, match="There is no call fc-00000000"):
        FunctionCall.from_id("fc-00000000").get()


def test_it_raises_what_the_function_raised_each_time(app: skylift.App) -> None:
    @app.function()
    def fail():
        raise KeyError("x")

    call = fail.spawn()
    names = []
    for _ in range(2):
        with pytest.raises(KeyError, match="x") as caught:
            call.get()
        names.append([frame.name for frame in traceback.extract_tb(caught.value.__traceback__)])
    assert names[0] == names[1]
    assert "fail" == names[1][-1]


def test_gather(app: skylift.App) -> None:
    @app.function()
    def invert(x):
        return 1 / x

    assert [1.0, 0.5, 0.25] == FunctionCall.gather(*(invert.spawn(x) for x in (1, 2, 4)))
    assert [] == FunctionCall.gather()
    with pytest.raises(ZeroDivisionError):
        FunctionCall.gather(invert.spawn(1), invert.spawn(0))


def test_gather_raises_what_fails_first(app: skylift.App, gateway: FakeGateway) -> None:
    gateway.control.may_run.clear()

    @app.function()
    def slow():
        return 1

    waiting = slow.spawn()

    @app.function()
    def fail():
        raise ValueError("at once")

    gateway.control.may_run.set()
    failing = fail.spawn()
    gateway.control.may_run.clear()
    never = slow.spawn()
    with pytest.raises(ValueError, match="at once"):
        FunctionCall.gather(waiting, never, failing)


def test_iter_gives_items_or_the_one_result(app: skylift.App) -> None:
    @app.function()
    def count(n):
        yield from range(n)

    @app.function()
    def double(x):
        return 2 * x

    call = count.spawn(500)
    assert list(range(500)) == list(call.iter())
    assert [3, 4, 5] == list(call.iter(start=3, end=6))
    assert [4] == list(double.spawn(2).iter())


def test_cancel(app: skylift.App, gateway: FakeGateway) -> None:
    gateway.control.may_run.clear()

    @app.function()
    def wait():
        return 1

    call = wait.spawn()
    call.cancel()
    with pytest.raises(skylift.exceptions.RemoteError, match=r"cancelled by FunctionCall\.cancel"):
        call.get()
    wait.spawn().cancel(terminate_containers=True)
    gateway.wait_for(lambda: len(gateway.sent(Cancel)) == 2)
    assert ["cancel", "terminate"] == [message.mode for message in gateway.sent(Cancel)]


def test_figures(app: skylift.App) -> None:
    @app.function()
    def one():
        return 1

    call = one.spawn()
    assert 1 == call.get()
    assert 0.25 == call.cost()
    assert ["queued", "started"] == [entry.what for entry in call.timeline()]
    assert 1 == call.num_inputs()


def test_two_followers_of_one_call(app: skylift.App, gateway: FakeGateway) -> None:
    gateway.control.may_run.clear()

    @app.function()
    def one():
        return 1

    call = one.spawn()

    async def both() -> list[int]:
        first = asyncio.ensure_future(call.get.aio())
        second = asyncio.ensure_future(FunctionCall.from_id(call.object_id).get.aio())
        while len(gateway.control.messages) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        gateway.control.may_run.set()
        return await asyncio.gather(first, second)

    assert [1, 1] == asyncio.run(both())


def test_a_get_that_times_out_prints_nothing_twice(
    app: skylift.App, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    @app.function()
    def speak(path):
        import os
        import time

        print("before")
        while not os.path.exists(path):
            time.sleep(0.002)
        print("after")
        return 1

    path = gateway.home / "go-on"
    with skylift.enable_output():
        call = speak.spawn(str(path))
        with pytest.raises(TimeoutError):
            call.get(timeout=0.3)
        path.touch()
        assert 1 == call.get()
    assert ["before", "after"] == capsys.readouterr().out.splitlines()
    assert all(message.keep for message in gateway.sent(Detach))


def test_what_the_gateway_refuses_is_raised_by_spawn(app: skylift.App, gateway: FakeGateway) -> None:
    problem = Problem(error="ResourceExhaustedError", message="the disk is full")
    gateway.control.refuse = lambda message: problem if isinstance(message, Submit) else None

    @app.function()
    def one():
        return 1

    with pytest.raises(skylift.exceptions.ResourceExhaustedError, match="the disk is full"):
        one.spawn()


def test_the_end_of_app_run_cancels_what_was_spawned(gateway: FakeGateway) -> None:
    gateway.control.may_run.clear()
    app = skylift.App("short")

    @app.function()
    def wait():
        return 1

    with app.run():
        ended = wait.spawn()
    with app.run(detach=True):
        wait.spawn()
    with pytest.raises(skylift.exceptions.RemoteError, match=r"its app\.run\(\) has ended"):
        ended.get()
    assert [ended.object_id] == [message.call_id for message in gateway.sent(Cancel)]
