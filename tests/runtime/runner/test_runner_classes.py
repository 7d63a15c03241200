"""Classes: hooks, state, methods, and what happens when a hook raises."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from fake_host import FakeHost

from skylift.runtime.runner.service import Service

RETRY = {"initial_delay": 0.001, "backoff_coefficient": 1.0, "max_delay": 0.001}


def code(cls: type, **parts: Any) -> bytes:
    given = {
        "parameters": {},
        "enter_snap": [],
        "enter": [],
        "exit": [],
        "methods": [name for name in vars(cls) if not name.startswith("_")],
    }
    return cloudpickle.dumps({"__skylift_class__": 1, "cls": cls, **given, **parts})


def make_counter() -> type:
    class Counter:
        size: int

        def __init__(self) -> None:
            self.log = [f"made of size {self.size}"]

        def load(self) -> None:
            print("loading")
            self.log.append("load")

        async def connect(self) -> None:
            import asyncio

            await asyncio.sleep(0)
            self.log.append("connect")

        def add(self, text: str) -> list[str]:
            self.log.append(text)
            return self.log

        async def add_async(self, text: str) -> list[str]:
            return self.add(text)

        def count(self, number: int) -> Iterator[int]:
            yield from range(number * self.size)

        async def count_async(self, number: int) -> AsyncIterator[int]:
            for each in range(number):
                yield each

        def close(self) -> None:
            print(f"closing after {len(self.log)}")

        async def close_async(self) -> None:
            print("closed")

        def close_badly(self) -> None:
            raise ValueError("cannot close")

    return Counter


HOOKS: dict[str, Any] = {
    "parameters": {"size": 2},
    "enter_snap": ["load"],
    "enter": ["connect"],
    "exit": ["close_badly", "close", "close_async"],
}


def test_hooks_run_once_and_state_is_kept(host: FakeHost) -> None:
    counter = host.define(code(make_counter(), **HOOKS))
    first = host.call(counter, "add", "one")
    assert ["made of size 2", "load", "connect", "one"] == first.result
    assert "loading\n" == first.text()
    second = host.call(counter, "add_async", "two")
    assert ["one", "two"] == second.result[-2:]
    assert "" == second.text()


def test_generators_and_maps(host: FakeHost) -> None:
    counter = host.define(code(make_counter(), **HOOKS))
    assert [0, 1, 2, 3] == host.call(counter, "count", 2, kind="generator").items
    assert [0, 1, 2] == host.call(counter, "count_async", 3, kind="generator").items
    inputs = [cloudpickle.dumps((("add", str(number)), {})) for number in range(3)]
    outcomes = host.map(counter, inputs, raw=True).wait_done(range(3)).outcomes()
    assert ["result"] * 3 == [event.kind for event in outcomes.values()]
    assert ["0", "1", "2"] == host.call(counter, "add", "x").result[-4:-1]


@pytest.mark.parametrize("ask", ["exit", "sigterm"])
def test_exit_hooks_run_in_order_when_the_runner_leaves(own_host: FakeHost, ask: str) -> None:
    counter = own_host.define(code(make_counter(), **HOOKS))
    own_host.call(counter, "add", "one")
    if ask == "exit":
        own_host.send({"t": "exit", "grace": 5.0})
    else:
        own_host.process.send_signal(signal.SIGTERM)
    own_host.wait_printed("closing after 4\nclosed\n")
    own_host.wait_printed("ValueError: cannot close", "stderr")
    assert (0 if ask == "exit" else 128 + signal.SIGTERM) == own_host.wait_exit()
    told = own_host.printed["stderr"].decode()
    assert "skylift: the exit hook Counter.close_badly raised\n" in told
    assert 1 == told.count("  File ")


def test_exit_hooks_run_after_a_call_that_sigterm_ended(own_host: FakeHost, tmp_path: Path) -> None:
    class Waiting:
        def wait(self) -> None:
            import time

            print("waiting")
            time.sleep(60)

        def close(self) -> None:
            print("closed")

    call = own_host.start(own_host.define(code(Waiting, exit=["close"])), "wait")
    call.wait_output("waiting")
    own_host.process.send_signal(signal.SIGTERM)
    own_host.wait_printed("closed\n")
    assert 128 + signal.SIGTERM == own_host.wait_exit()


def test_no_exit_hooks_of_what_was_not_entered(own_host: FakeHost) -> None:
    counter = own_host.define(code(make_counter(), **{**HOOKS, "enter": ["close_badly"]}))
    assert "failed" == own_host.call(counter, "add", "one").state
    own_host.send({"t": "exit", "grace": 5.0})
    own_host.wait_exit()
    assert b"closing" not in own_host.printed["stdout"]


def make_stubborn(path: Path) -> type:
    class Stubborn:
        def load(self) -> None:
            print("load")

        def connect(self) -> None:
            tries = int(path.read_text())
            path.write_text(str(tries + 1))
            if tries < 2:
                raise ConnectionError(f"try {tries}")

        def get(self) -> str:
            return "got"

    return Stubborn


def test_a_hook_that_raises_fails_its_call_and_is_tried_again(own_host: FakeHost, tmp_path: Path) -> None:
    path = tmp_path / "tries"
    path.write_text("0")
    stubborn = own_host.define(code(make_stubborn(path), enter_snap=["load"], enter=["connect"]))
    for number in range(2):
        call = own_host.call(stubborn, "get")
        assert f"try {number}" == str(call.exception)
        assert isinstance(call.exception, ConnectionError)
        assert ["connect"] == [frame["function"] for frame in call.error["frames"]]
        assert ("load\n" if number == 0 else "") == call.text()
    assert "got" == own_host.call(stubborn, "get").result


def test_retries_try_hooks_again(host: FakeHost, tmp_path: Path) -> None:
    path = tmp_path / "tries"
    path.write_text("0")
    stubborn = host.define(code(make_stubborn(path), enter=["connect"]))
    call = host.call(stubborn, "get", retries={"max_retries": 2, **RETRY})
    assert "got" == call.result
    assert 2 == len(call.attempts)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_hook_can_be_cancelled(host: FakeHost, asynchronous: bool) -> None:
    class Slow:
        tries = 0

        def load(self) -> Any:
            type(self).tries += 1
            if self.tries > 1:
                return None
            print("loading")
            if asynchronous:
                import asyncio

                return asyncio.sleep(60)
            import time

            return time.sleep(60)

        def get(self) -> int:
            return self.tries

    slow = host.define(code(Slow, enter=["load"]))
    call = host.start(slow, "get")
    call.wait_output("loading")
    call.cancel("timeout", "it took too long")
    assert "timeout" == call.wait().state
    assert 2 == host.call(slow, "get").result


def test_a_constructor_that_raises_fails_its_call(host: FakeHost) -> None:
    class Broken:
        def __init__(self) -> None:
            raise KeyError("no")

        def get(self) -> None: ...

    broken = host.define(code(Broken))
    for _ in range(2):
        assert "KeyError" == host.call(broken, "get").error["type"]


def test_a_newer_version_of_a_class_ends_the_older(own_host: FakeHost) -> None:
    counter = own_host.define(code(make_counter(), **{**HOOKS, "exit": ["close"]}))
    own_host.call(counter, "add", "one")
    newer = own_host.define(code(make_counter(), **{**HOOKS, "exit": ["close"]}))
    assert "closing after 4\nloading\n" == own_host.call(newer, "add", "two").text()
    # One that is called after all is made again.
    assert ["made of size 2", "load", "connect", "three"] == own_host.call(counter, "add", "three").result


def test_a_class_with_an_instance_is_kept_among_many_functions(own_host: FakeHost) -> None:
    counter = own_host.define(code(make_counter(), **HOOKS))
    own_host.call(counter, "add", "one")
    function: Callable[[], int] = lambda: 1  # noqa: E731
    for _ in range(70):
        last = own_host.define(function)
    assert 1 == own_host.call(last).result
    assert ["one", "two"] == own_host.call(counter, "add", "two").result[-2:]


def test_only_methods_are_called(host: FakeHost) -> None:
    counter = host.define(code(make_counter(), **{**HOOKS, "methods": ["add"]}))
    error = host.call(counter, "close").error
    assert "InvalidError: Counter has no method 'close'" == f"{error['type']}: {error['message']}"


def test_arguments_that_cannot_be_unpickled_name_the_class(host: FakeHost) -> None:
    counter = host.define(code(make_counter(), **HOOKS))
    payload = b"\x80\x05cno_such_module\nthing\n."
    message = host.call(counter, payload=payload).error["message"]
    assert message.startswith("the arguments of Counter cannot be unpickled in the container: there is no")


def test_a_plain_dict_is_no_class(host: FakeHost) -> None:
    assert "TypeError" == host.call(cloudpickle.dumps({"cls": 1})).error["type"]


def test_a_class_that_was_prepared_before_is_taken_over() -> None:
    from skylift.runtime.runner.functions import Functions

    service = Service(cloudpickle.loads(code(make_counter(), **{**HOOKS, "enter_snap": ["load", "connect"]})))
    service.prepare()
    service.prepare()
    functions = Functions()
    functions.adopt("fu-1", service)
    functions.define("fu-1", b"its code")
    assert functions.get("fu-1") is service
    assert [service] == functions.services()
    service.start()
    method, args = service.method(("add", "one"))
    assert ["made of size 2", "load", "connect", "connect", "one"] == method(*args)


def test_what_a_template_prepared_is_for_the_same_class_of_another_kernel() -> None:
    from skylift.runtime.runner.functions import Functions

    def kernel(function_id: str, template: str) -> Service:
        data = code(make_counter(), **{**HOOKS, "template": template})
        functions.define(function_id, data)
        service = functions.get(function_id)
        assert isinstance(service, Service)
        return service

    functions = Functions()
    first = kernel("fu-1", "same")
    first.prepare()
    other = kernel("fu-2", "other")
    assert (True, False) == (first.live, other.live)
    second = kernel("fu-3", "same")
    assert (False, True) == (first.live, second.live)
    second.start()
    method, args = second.method(("add", "one"))
    assert ["made of size 2", "load", "connect", "one"] == method(*args)
    assert type(method.__self__) is second._class  # type: ignore[attr-defined]
    # What has been called is its own.
    assert not kernel("fu-4", "same").live


def test_what_was_only_prepared_has_no_exit_hooks(capsys: pytest.CaptureFixture[str]) -> None:
    service = Service(cloudpickle.loads(code(make_counter(), **{**HOOKS, "enter": []})))
    service.prepare()
    service.end()
    assert "loading\n" == capsys.readouterr().out
    assert not service.live
