"""Calls of functions, one at a time."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import traceback

import pytest
from sdk_gateway import FakeGateway

import skylift
from skylift.exceptions import DeserializationError, ExecutionError, InvalidError, NotFoundError, RemoteError
from skylift.wire import Cancel, ClientMessage, Define, Detach, Problem, Submit


def test_remote_returns_what_the_function_returns(app: skylift.App) -> None:
    @app.function()
    def add(x, y=1):
        return x + y

    assert 3 == add.remote(1, y=2)
    assert 2 == add.remote(1)


def test_a_warm_call_defines_nothing_again(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function()
    def double(x):
        return 2 * x

    assert [0, 2, 4] == [double.remote(x) for x in range(3)]
    assert 1 == len(gateway.sent(Define))
    assert 3 == len(gateway.sent(Submit))
    assert 1 == gateway.connections


def test_captured_values_are_those_at_the_time_of_the_call(app: skylift.App) -> None:
    factor = 2
    numbers = [1]

    @app.function()
    def scaled(x):
        return factor * x, numbers

    assert (10, [1]) == scaled.remote(5)
    factor = 3
    assert (15, [1]) == scaled.remote(5)
    numbers.append(2)
    assert (15, [1, 2]) == scaled.remote(5)


def test_none_and_large_values_come_back(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function()
    def echo(x):
        return x

    large = bytes(range(256)) * 4096
    assert None is echo.remote(None)
    assert large == echo.remote(large)
    assert gateway.sent(Submit)[-1].args.blob
    assert large == echo.remote(large)


def test_the_original_exception_with_the_remote_frames_and_none_of_ours(app: skylift.App) -> None:
    @app.function()
    def fail():
        def inner():
            raise KeyError("no such column")

        inner()

    with pytest.raises(KeyError, match="no such column") as caught:
        fail.remote()
    functions = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert ["fail", "inner"] == functions[-2:]
    ours = [name for name in files if "/skylift/" in name and "/tests/" not in name]
    # Python 3.10 keeps the one that raises again.
    assert len(ours) == (1 if sys.version_info < (3, 11) else 0)
    assert __file__ == files[-1]


def test_causes_keep_their_tracebacks(app: skylift.App) -> None:
    @app.function()
    def fail():
        try:
            raise ValueError("first")
        except ValueError as error:
            raise RuntimeError("second") from error

    with pytest.raises(RuntimeError, match="second") as caught:
        fail.remote()
    cause = caught.value.__cause__
    assert isinstance(cause, ValueError)
    assert "fail" == traceback.extract_tb(cause.__traceback__)[-1].name


def test_an_exception_whose_type_is_not_here_is_an_execution_error_with_the_text(
    app: skylift.App, gateway: FakeGateway
) -> None:
    @app.function()
    def fail():
        class StrangeError(Exception):
            def __reduce__(self):
                return __import__, ("only_there",)

        StrangeError.__module__, StrangeError.__qualname__ = "only_there", "StrangeError"
        raise StrangeError("oh")

    with pytest.raises(ExecutionError, match=r"only_there.StrangeError: oh") as caught:
        fail.remote()
    assert "Traceback (most recent call last)" in str(caught.value)


def test_a_result_that_cannot_be_loaded_here_says_what_is_missing(app: skylift.App) -> None:
    @app.function()
    def make():
        class Absent:
            def __reduce__(self):
                return __import__, ("package_that_is_not_here",)

        return Absent()

    with pytest.raises(DeserializationError, match="no module 'package_that_is_not_here'"):
        make.remote()


def test_a_bare_call_says_remote_and_local(app: skylift.App) -> None:
    @app.function()
    def train(x):
        return x

    with pytest.raises(TypeError, match=r"train\.remote.*train\.local"):
        train(1)
    assert 1 == train.local(1)


def test_a_script_needs_app_run(gateway: FakeGateway) -> None:
    app = skylift.App("script")

    @app.function()
    def train():
        return 1

    with pytest.raises(ExecutionError, match=r"with app\.run\(\):"):
        train.remote()
    with app.run():
        assert 1 == train.remote()
    with pytest.raises(ExecutionError, match="does not run"):
        train.remote()


def test_async_calls_and_coroutine_functions(app: skylift.App) -> None:
    @app.function()
    async def double(x):
        return 2 * x

    async def many() -> list[int]:
        return await asyncio.gather(*(double.remote.aio(x) for x in range(20)))

    assert [2 * x for x in range(20)] == asyncio.run(many())
    assert 8 == double.remote(4)


def test_calls_from_many_threads_share_one_connection(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function()
    def square(x):
        return x * x

    results: dict[int, int] = {}
    threads = [threading.Thread(target=lambda x=x: results.update({x: square.remote(x)})) for x in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {x: x * x for x in range(30)} == results
    assert 1 == gateway.connections


def test_what_the_gateway_refuses_is_raised_as_its_class(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function(gpu="H100")
    def train():
        return 1

    problem = Problem(error="NotFoundError", message="no H100 on this host; it has 2 L4")
    gateway.control.refuse = lambda message: problem if isinstance(message, Submit) else None
    with pytest.raises(NotFoundError, match="it has 2 L4"):
        train.remote()


def test_a_cancelled_call_raises_what_can_be_caught(app: skylift.App, gateway: FakeGateway) -> None:
    gateway.control.may_run.clear()

    @app.function()
    def wait():
        return 1

    def cancel() -> None:
        gateway.wait_for(lambda: gateway.control.calls)
        call = gateway.only_call()
        call.cancel = Cancel(call_id=call.submit.call_id, reason="cancelled in the sidebar")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(RemoteError, match="cancelled in the sidebar"):
        wait.remote()
    canceller.join(10)


def test_an_interrupt_cancels_the_call(
    app: skylift.App, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:

    gateway.control.may_run.clear()

    @app.function()
    def wait():
        return 1

    def interrupt() -> None:
        gateway.wait_for(lambda: gateway.control.calls)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        wait.remote()
    interrupter.join(10)
    call = gateway.only_call()
    with call.changed:
        assert call.changed.wait_for(lambda: call.cancel is not None, 10)
    gateway.control.may_run.set()
    assert 1 == wait.remote()
    assert [False] == [message.keep for message in gateway.sent(Detach)]


def test_a_cancelled_task_cancels_the_call(app: skylift.App, gateway: FakeGateway) -> None:
    gateway.control.may_run.clear()

    @app.function()
    def wait():
        return 1

    async def main() -> None:
        task = asyncio.ensure_future(wait.remote.aio())
        while not gateway.control.calls:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    call = gateway.only_call()
    with call.changed:
        assert call.changed.wait_for(lambda: call.cancel is not None, 10)


def test_prints_are_shown_when_output_is_enabled(
    app: skylift.App, capsys: pytest.CaptureFixture[str]
) -> None:
    @app.function()
    def speak(x):
        print("hello", x)
        return x

    assert 1 == speak.remote(1)
    assert "" == capsys.readouterr().out
    with skylift.enable_output():
        assert 2 == speak.remote(2)
    assert "hello 2\n" == capsys.readouterr().out


def test_generators_and_functions_are_not_mixed_up(app: skylift.App) -> None:
    @app.function()
    def count(n):
        yield from range(n)

    @app.function()
    def one():
        return 1

    with pytest.raises(InvalidError, match=r"count.remote_gen"):
        count.remote(3)
    with pytest.raises(InvalidError, match=r"one.remote"):
        next(one.remote_gen())


def test_the_status_says_what_the_call_waits_for(
    app: skylift.App, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skylift import outputs

    shown: list[str] = []

    class Line(outputs.Line):
        def show(self, text: str) -> None:
            self.shown = True
            shown.append(text)
            gateway.control.may_run.set()

    monkeypatch.setattr(outputs, "new_line", Line)
    monkeypatch.setattr(outputs, "FIRST_STATUS_AFTER", 0.05)
    gateway.control.may_run.clear()
    detail = "waiting for an H100: 1 of 1 in use by session train"

    def tell(port: object, message: ClientMessage) -> None:
        if isinstance(message, Submit):
            loop = gateway.control.loop
            assert loop is not None
            loop.call_soon(lambda: gateway.control.say_status(message.call_id, state="queued", detail=detail))

    gateway.control.on_message = tell

    @app.function()
    def train():
        return 1

    with skylift.enable_output():
        assert 1 == train.remote()
    assert f"train: {detail}" == shown[0].partition(" ·")[0]
