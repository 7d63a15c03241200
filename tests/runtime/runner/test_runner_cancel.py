"""Ending a call early: the one that is named, wherever it is, and never the next."""

from __future__ import annotations

import os
import pickle
import random
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fake_host import FakeHost


def sleep() -> None:
    import time

    print("begun")
    time.sleep(600)


def wait_for_lock() -> None:
    import threading

    print("begun")
    threading.Event().wait()


def read_pipe() -> None:
    import os

    print("begun")
    os.read(os.pipe()[0], 1)


def compute() -> None:
    print("begun")
    while True:
        pass


def run_command() -> None:
    import subprocess

    print("begun")
    subprocess.run(["sleep", "600"], check=False)


async def await_forever() -> None:
    import asyncio

    print("begun")
    await asyncio.sleep(600)


async def block_in_a_coroutine() -> None:
    import time

    print("begun")
    time.sleep(600)  # noqa: ASYNC251


def flood() -> None:
    print("begun")
    while True:
        print("x" * 1000)


EVERYWHERE = [
    sleep,
    wait_for_lock,
    read_pipe,
    compute,
    run_command,
    await_forever,
    block_in_a_coroutine,
    flood,
]


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, so that it is pickled by value although it stands at a module's top."""
    function.__module__ = "__main__"
    return function


@pytest.mark.parametrize("function", EVERYWHERE)
@pytest.mark.parametrize(
    ("mode", "state", "kind", "ours"),
    [
        ("interrupt", "cancelled", "KeyboardInterrupt", ""),
        ("cancel", "cancelled", "InputCancellation", "InputCancellation"),
        ("timeout", "timeout", "FunctionTimeoutError", "FunctionTimeoutError"),
    ],
)
def test_each_mode_everywhere(
    host: FakeHost, function: Callable[..., Any], mode: str, state: str, kind: str, ours: str
) -> None:
    host.consume = function is not flood
    call = host.start(by_value(function))
    call.wait_output("begun")
    call.cancel(mode, "because of a test")
    host.consume = True

    assert call.wait().state == state
    assert (call.error["type"], call.error["skylift"]) == (kind, ours)
    assert call.error["message"] == ("" if mode == "interrupt" else "because of a test")
    assert [frame["function"] for frame in call.error["frames"]][:1] == [function.__name__]
    assert host.call(lambda: "next").result == "next"


def test_an_interrupt_that_is_caught_ends_nothing(host: FakeHost) -> None:
    def catch() -> str:
        import threading

        try:
            print("begun")
            threading.Event().wait()
        except KeyboardInterrupt:
            return "caught"
        return ""

    call = host.start(catch)
    call.wait_output("begun")
    call.cancel("interrupt")
    assert call.wait().state == "done"
    assert call.result == "caught"


@pytest.mark.parametrize(("mode", "state"), [("cancel", "cancelled"), ("timeout", "timeout")])
def test_a_cancellation_that_is_caught_ends_the_call(host: FakeHost, mode: str, state: str) -> None:
    def catch() -> str:
        import threading

        try:
            print("begun")
            threading.Event().wait()
        except BaseException as error:
            print("caught", type(error).__name__, error)
        return "late"

    call = host.start(catch)
    call.wait_output("begun")
    call.cancel(mode, "enough")
    assert call.wait().state == state
    assert call.text() == "begun\ncaught InputCancellation enough\n"
    assert call.of("result") == []
    assert call.error["message"] == "enough"


def test_except_exception_does_not_swallow_it(host: FakeHost) -> None:
    def swallow() -> str:
        import time

        try:
            print("begun")
            time.sleep(600)
        except Exception:
            print("swallowed")
        return ""

    call = host.start(swallow)
    call.wait_output("begun")
    call.cancel()
    assert call.wait().state == "cancelled"
    assert call.text() == "begun\n"


def test_the_users_own_class_is_raised_where_there_is_one(own_host: FakeHost) -> None:
    def catch() -> None:
        import sys
        import time
        import types

        class InputCancellation(BaseException):
            pass

        module = types.ModuleType("skylift.exceptions")
        module.InputCancellation = InputCancellation  # type: ignore[attr-defined]
        sys.modules["skylift.exceptions"] = module
        try:
            print("begun")
            time.sleep(600)
        except InputCancellation:
            print("known")

    call = own_host.start(catch)
    call.wait_output("begun")
    call.cancel()
    assert call.wait().text() == "begun\nknown\n"


def test_a_coroutine_sees_cancelled_error(host: FakeHost) -> None:
    async def tidy() -> None:
        import asyncio

        try:
            print("begun")
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            print("tidied up")
            raise

    call = host.start(tidy)
    call.wait_output("begun")
    call.cancel()
    assert call.wait().state == "cancelled"
    assert call.text() == "begun\ntidied up\n"


def test_a_cancel_that_comes_before_its_call(host: FakeHost) -> None:
    call = host.new_call()
    call.cancel(reason="too late for that")
    # The control channel is read in its order: with this answer the cancellation has been taken note of.
    host.control({"t": "recall", "call": call.id})
    host.wait_for(lambda: call.recalled == [])
    host.start(lambda: print("ran"), call=call)

    assert call.wait().state == "cancelled"
    assert call.text() == ""
    assert call.error["message"] == "too late for that"


def test_a_cancel_of_another_call_is_not_felt(host: FakeHost) -> None:
    over = host.call(lambda: 1)

    def work() -> int:
        import time

        print("begun")
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            pass
        return 2

    call = host.start(work)
    call.wait_output("begun")
    for mode in ("interrupt", "cancel", "timeout"):
        over.cancel(mode)
    assert call.wait().result == 2


def test_many_cancels_at_the_end_of_calls_never_leak(host: FakeHost) -> None:
    function = host.define(lambda: None)
    for number in range(200):
        call = host.start(function)
        if number % 2:
            call.wait()
        call.cancel(("interrupt", "cancel", "timeout")[number % 3])
        assert call.wait().state in ("done", "cancelled", "timeout")
        assert len(call.of("result", "error")) == 1


def test_a_second_interrupt_is_felt_too(host: FakeHost) -> None:
    def stubborn() -> None:
        import time

        def once(attempt: int) -> None:
            try:
                print("round", attempt)
                time.sleep(600)
            except KeyboardInterrupt:
                print("interrupted", attempt)

        for attempt in range(2):
            once(attempt)

    call = host.start(stubborn)
    for attempt in range(2):
        call.wait_output(f"round {attempt}")
        call.cancel("interrupt")
        call.wait_output(f"interrupted {attempt}")
    assert call.wait().state == "done"


class _SlowToUnpickle:
    def __reduce__(self) -> Any:
        return exec, ("print('loading')\nimport time\ntime.sleep(600)",)


def test_a_cancel_while_the_function_is_unpickled(host: FakeHost) -> None:
    call = host.start(host.define(pickle.dumps(_SlowToUnpickle())))
    call.wait_output("loading")
    call.cancel()
    assert call.wait().state == "cancelled"


def test_a_stop_signal_ends_the_call_and_the_runner(own_host: FakeHost) -> None:
    call = own_host.start(by_value(sleep))
    call.wait_output("begun")
    os.kill(own_host.process.pid, signal.SIGTERM)

    assert call.wait().state == "cancelled"
    assert call.error["message"] == "the container is being stopped"
    assert own_host.wait_exit() == 128 + signal.SIGTERM
    assert own_host.printed == {"stdout": b"", "stderr": b""}


# --- at any moment -------------------------------------------------------------------------------


def count(n: int) -> Iterator[int]:
    yield from range(n)


async def count_slowly(n: int) -> AsyncIterator[int]:
    import asyncio

    for i in range(n):
        if i % 50 == 0:
            await asyncio.sleep(0)
        yield i


async def wait_shortly(n: int) -> None:
    import asyncio

    for _ in range(n // 50):
        await asyncio.sleep(0)


def talk(n: int) -> None:
    for i in range(n):
        print(i)


@pytest.mark.parametrize("seed", range(3))
def test_a_cancellation_at_any_moment_ends_its_call_once(own_host: FakeHost, seed: int) -> None:
    chance = random.Random(seed)
    kinds = {"call": (wait_shortly, talk), "generator": (count, count_slowly)}
    functions = [
        (kind, own_host.define(by_value(function))) for kind, group in kinds.items() for function in group
    ]
    for _ in range(150):
        kind, function = chance.choice(functions)
        window = chance.choice([2000, 1 << 20])
        call = own_host.start(function, chance.choice([10, 1000, 5000]), kind=kind, window=window)
        threading.Event().wait(chance.choice([0, 0.0005, 0.005]) * chance.random())
        for _ in range(chance.choice([1, 1, 2, 5])):
            call.cancel(chance.choice(["interrupt", "cancel", "timeout"]))
        call.wait()
        assert len(call.of("error")) == (call.state != "done")
        assert call.items == list(range(len(call.items)))
    assert own_host.call(lambda: "next").result == "next"
    assert own_host.printed == {"stdout": b"", "stderr": b""}
