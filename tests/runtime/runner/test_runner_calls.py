"""Calls of functions: results, errors of arguments and results, retries."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import cloudpickle
import pytest
from fake_host import FakeHost

RETRY = {"initial_delay": 0.001, "backoff_coefficient": 1.0, "max_delay": 0.001}


def test_a_short_call_is_one_frame(own_host: FakeHost) -> None:
    call = own_host.call(lambda value: value + 1, 41)

    assert call.result == 42
    assert call.state == "done"
    assert len(call.frames) == 1
    assert call.end is not None
    assert call.end["started"] <= call.end["ended"]
    assert call.end["first_output"] == 0
    assert {header["t"] for header, _ in own_host.frames} <= {"ready", "started", "events"}


def test_keyword_arguments(host: FakeHost) -> None:
    def join(first: str, *, second: str) -> str:
        return first + second

    assert host.call(join, payload=pickle.dumps((("a",), {"second": "b"}))).result == "ab"


def test_a_coroutine_is_awaited_and_the_loop_lives_on(host: FakeHost) -> None:
    async def keep_loop() -> int:
        import asyncio
        import sys

        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        known = getattr(sys, "test_loop", loop)
        sys.test_loop = loop  # type: ignore[attr-defined]
        return int(known is loop)

    function = host.define(keep_loop)
    assert [host.call(function).result for _ in range(2)] == [1, 1]


def test_a_large_argument_and_result(host: FakeHost) -> None:
    data = bytes(range(256)) * 40_000
    assert host.call(lambda value: value[::-1], data).result == data[::-1]


def test_an_instance_of_a_class_by_value_comes_back_as_the_class(host: FakeHost) -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    point = host.call(lambda: Point(3)).result
    assert isinstance(point, Point)
    assert point.x == 3


def test_a_function_pickled_from_main(host: FakeHost) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("limit = 7\ndef check(x):\n    return x < limit", namespace)
    assert host.call(namespace["check"], 3).result is True


def test_user_code_has_a_main_and_an_argv_of_its_own(host: FakeHost) -> None:
    def look() -> Any:
        import sys

        main = sys.modules["__main__"]
        return sys.argv, hasattr(main, "__file__"), main.__name__, main.__spec__

    assert host.call(look).result == ([""], False, "__main__", None)


def test_the_modules_of_the_runner_do_not_hide_the_users(host: FakeHost) -> None:
    def find() -> list[Any]:
        from importlib.util import find_spec

        return [find_spec(name) for name in ("functions", "errors", "stream", "cells")]

    assert host.call(find).result == [None] * 4


# --- what cannot travel --------------------------------------------------------------------------


def test_a_result_that_cannot_be_pickled_names_function_and_value(host: FakeHost) -> None:
    def make() -> Any:
        import threading

        return {"name": "x", "locks": [threading.Lock()]}

    call = host.call(make)

    assert call.state == "failed"
    assert call.error["skylift"] == "SerializationError"
    assert call.error["message"] == (
        "make returned a value of type dict with value['locks'][0] of type _thread.lock, which cannot be "
        "sent: TypeError: cannot pickle '_thread.lock' object. "
        "Return plain data, arrays or a path in a volume instead."
    )
    assert call.error["cause"]["type"] == "TypeError"


def test_a_returned_generator_names_remote_gen(host: FakeHost) -> None:
    def squares() -> Any:
        return (n * n for n in range(3))

    message = host.call(squares).error["message"]
    assert message.startswith("squares returned a value of type generator, which cannot be sent:")
    assert message.endswith("make the function a generator and call it with remote_gen().")


def test_arguments_that_need_a_missing_module_fail_only_their_call(host: FakeHost) -> None:
    function = host.define(lambda value: value)
    call = host.call(function, payload=b"cnot_installed_here\nThing\n.")

    assert call.state == "failed"
    assert call.error["skylift"] == "DeserializationError"
    assert call.error["message"] == (
        "the arguments of <lambda> cannot be unpickled in the container: there is no module "
        "'not_installed_here' in the container. Install its package in the image, or keep your own module "
        "beside the notebook, so that it travels with it."
    )
    assert call.end is not None
    assert call.end["summary"].startswith("DeserializationError: the arguments of <lambda>")
    assert host.call(function, 1).result == 1


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"cjson\nNoSuch\n.", "module 'json' (2.0.9) has no 'NoSuch' in the container"),
        (b"c__main__\nmodel\n.", "'model' is looked up in __main__ and is not there"),
        (b"\x80\x05broken", "UnpicklingError"),
    ],
)
def test_why_arguments_do_not_unpickle(host: FakeHost, payload: bytes, expected: str) -> None:
    assert expected in host.call(lambda: None, payload=payload).error["message"]


def test_code_from_another_python_says_so(host: FakeHost) -> None:
    code = b"cbuiltins\neval\n(S'type((lambda: 0).__code__)(0, 0)'\ntR."
    message = host.call(host.define(code)).error["message"]
    assert "the function cannot be unpickled in the container" in message
    version = ".".join(map(str, sys.version_info[:3]))
    assert (
        f"another Python version than the container's {version}: use the same minor version in both"
        in message
    )


def test_a_function_that_does_not_unpickle_fails_each_call(host: FakeHost) -> None:
    function = host.define(b"cnot_installed_here\nThing\n.")
    for _ in range(2):
        assert "the function cannot be unpickled" in host.call(function).error["message"]


# --- the code of functions -----------------------------------------------------------------------


def test_code_that_was_let_go_is_asked_for(own_host: FakeHost) -> None:
    first = own_host.define(lambda: "first")
    assert own_host.call(first).result == "first"
    for number in range(64):
        own_host.define(lambda number=number: number)

    waiting = own_host.start(first)
    other = own_host.call(lambda: "other")
    assert other.result == "other"
    own_host.wait_for(lambda: own_host.frames[-2][0] == {"t": "need", "code": first}, what="need")
    assert waiting.end is None

    own_host.send({"t": "code", "id": first}, cloudpickle.dumps(lambda: "again"))
    assert waiting.wait().result == "again"


# --- retries -------------------------------------------------------------------------------------


def _failing(times: int) -> Any:
    def fail() -> int:
        import sys

        count = getattr(sys, "test_attempts", 0) + 1
        sys.test_attempts = count  # type: ignore[attr-defined]
        print("attempt", count)
        if count <= times:
            raise OSError(f"attempt {count} fails")
        del sys.test_attempts  # type: ignore[attr-defined]
        return count

    return fail


def test_retries_until_it_works(host: FakeHost) -> None:
    call = host.call(_failing(2), retries={"max_retries": 3, **RETRY})

    assert call.result == 3
    assert call.text() == "attempt 1\nattempt 2\nattempt 3\n"
    assert [(frame["attempt"], frame["error"]) for frame in call.attempts] == [
        (2, "OSError: attempt 1 fails"),
        (3, "OSError: attempt 2 fails"),
    ]


def test_three_retries_are_four_calls(own_host: FakeHost) -> None:
    call = own_host.call(_failing(9), retries={"max_retries": 3, **RETRY})

    assert call.state == "failed"
    assert call.text().count("attempt") == 4
    assert call.error["message"] == "attempt 4 fails"
    assert len(call.of("error")) == 1


def test_the_pause_before_a_retry_can_be_cancelled(own_host: FakeHost) -> None:
    slow = {"max_retries": 3, "initial_delay": 600.0, "backoff_coefficient": 1.0, "max_delay": 600.0}
    call = own_host.start(_failing(9), retries=slow)
    call.wait_output("attempt 1")
    call.cancel(reason="not needed")

    assert call.wait().state == "cancelled"
    assert call.error["message"] == "not needed"


def test_what_is_ours_is_not_retried(host: FakeHost) -> None:
    def make() -> Any:
        import threading

        return threading.Lock()

    call = host.call(make, retries={"max_retries": 3, **RETRY})
    assert call.error["skylift"] == "SerializationError"
    assert call.attempts == []
