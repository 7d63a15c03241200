"""``map``, ``starmap``, ``for_each``."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from sdk_gateway import FakeGateway

import skylift
from skylift.exceptions import InvalidError
from skylift.map_inputs import MapInputs
from skylift.wire import MAX_OUTSTANDING_INPUTS, Inputs, Payload


def test_outputs_come_in_the_order_of_the_inputs(app: skylift.App) -> None:
    @app.function()
    def double(x):
        return 2 * x

    assert [2 * x for x in range(5000)] == list(double.map(range(5000)))


def test_none_survives_and_several_iterables_are_zipped(app: skylift.App) -> None:
    @app.function()
    def pair(x, y, z=0):
        return (x, y, z) if x else None

    assert [None, (1, "b", 5)] == list(pair.map([0, 1, 2], "ab", kwargs={"z": 5}))
    assert [(1, 2, 0), None] == list(pair.starmap([(1, 2), [0, 3]]))


def test_an_empty_input_returns_at_once_and_says_nothing(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function()
    def double(x):
        return 2 * x

    assert [] == list(double.map([]))
    assert [] == list(double.map(iter(())))
    assert [] == list(double.starmap([]))
    assert None is double.for_each([])
    assert [] == gateway.control.messages


def test_an_error_of_an_input_ends_the_map(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function()
    def invert(x):
        return 1 / x

    outputs = invert.map(itertools.chain([1, 2, 0], itertools.count(1)))
    assert 1.0 == next(outputs)
    assert 0.5 == next(outputs)
    with pytest.raises(ZeroDivisionError):
        next(outputs)
    call = gateway.only_call()
    with call.changed:
        assert call.changed.wait_for(lambda: call.cancel is not None, 10)


def test_return_exceptions_gives_the_original_types(app: skylift.App) -> None:
    @app.function()
    def invert(x):
        return 1 / x

    outputs = list(invert.map([1, 0, "a"], return_exceptions=True))
    assert 1.0 == outputs[0]
    assert [ZeroDivisionError, TypeError] == [type(output) for output in outputs[1:]]


def test_an_error_of_the_input_iterator_propagates(app: skylift.App) -> None:
    @app.function()
    def double(x):
        return 2 * x

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the file ended")

    with pytest.raises(OSError, match="the file ended"):
        list(double.map(broken()))

    def broken_at_once() -> Iterator[int]:
        raise OSError("no file")
        yield

    with pytest.raises(OSError, match="no file"):
        list(double.map(broken_at_once()))


def test_inputs_that_wait_for_outputs_do_not_stall(app: skylift.App) -> None:
    @app.function()
    def increment(x):
        return x + 1

    fed: queue.Queue[int | None] = queue.Queue()
    fed.put(0)
    outputs = []
    for output in increment.map(iter(fed.get, None)):
        outputs.append(output)
        fed.put(output if output < 20 else None)
    assert list(range(1, 21)) == outputs


def test_inputs_are_drawn_lazily(app: skylift.App) -> None:
    drawn = []

    def inputs() -> Iterator[int]:
        for number in itertools.count():
            drawn.append(number)
            yield number

    @app.function()
    def double(x):
        return 2 * x

    outputs = double.map(inputs())
    assert [] == drawn
    assert [0, 2, 4] == [next(outputs) for _ in range(3)]
    threading.Event().wait(0.2)
    assert len(drawn) <= MAX_OUTSTANDING_INPUTS + 4
    outputs.close()


def test_outputs_as_they_are_ready(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function()
    def double(x):
        return 2 * x

    assert sorted(2 * x for x in range(1000)) == sorted(double.map(range(1000), order_outputs=False))


def test_out_of_order_results_are_put_in_order(app: skylift.App, gateway: FakeGateway) -> None:
    emit = gateway.control.emit_value

    def reversed_pairs(call, kind, meta, value):
        held = call.__dict__.setdefault("held", [])
        held.append((call, kind, meta, value))
        if len(held) == 2:
            for arguments in reversed(held):
                emit(*arguments)
            held.clear()

    gateway.control.emit_value = reversed_pairs  # type: ignore[method-assign]

    @app.function()
    def double(x):
        return 2 * x

    assert [2 * x for x in range(100)] == list(double.map(range(100)))
    assert [2, 0, 6, 4] == list(double.map(range(4), order_outputs=False))


def test_for_each_runs_all_and_may_ignore_exceptions(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function()
    def invert(x):
        return 1 / x

    assert None is invert.for_each([0, 1, 0], ignore_exceptions=True)
    assert {0, 1, 2} == set(gateway.only_call().inputs)
    with pytest.raises(ZeroDivisionError):
        invert.for_each([1, 0])


def test_async_map_over_an_async_iterator(app: skylift.App) -> None:
    @app.function()
    def add(x, y):
        return x + y

    async def numbers() -> AsyncIterator[int]:
        for number in range(500):
            yield number

    async def collect() -> list[int]:
        return [output async for output in add.map.aio(numbers(), itertools.repeat(1))]

    async def plain() -> list[int]:
        return [output async for output in add.map.aio(range(10), range(10))]

    assert list(range(1, 501)) == asyncio.run(collect())
    assert [2 * x for x in range(10)] == asyncio.run(plain())
    with pytest.raises(InvalidError, match=r"async for … in add\.map\.aio"):
        add.map(numbers(), [1])


def test_wrong_inputs_are_named(app: skylift.App) -> None:
    @app.function()
    def double(x):
        return 2 * x

    with pytest.raises(InvalidError, match="are a int, which cannot be iterated over"):
        double.map(5)
    with pytest.raises(InvalidError, match="needs an iterable of inputs"):
        double.map()
    with pytest.raises(InvalidError, match=r"got the input 5: each is a tuple of arguments, such as \(5,\)"):
        list(double.starmap([5]))


def test_prints_of_inputs_are_shown(app: skylift.App, capsys: pytest.CaptureFixture[str]) -> None:
    @app.function()
    def speak(x):
        print("input", x)
        return x

    with skylift.enable_output():
        assert [0, 1, 2] == list(speak.map(range(3)))
    assert ["input 0", "input 1", "input 2"] == capsys.readouterr().out.splitlines()


def test_large_inputs_and_outputs(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function()
    def echo(data):
        return data

    inputs = [bytes([number]) * 400_000 for number in range(8)]
    assert inputs == list(echo.map(inputs))
    assert all(payload.blob for payload in gateway.only_call().inputs.values())


def test_stopping_early_stops_the_drawing(app: skylift.App, gateway: FakeGateway) -> None:
    stopped = threading.Event()

    def inputs() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            stopped.set()

    @app.function()
    def double(x):
        return 2 * x

    drawn = inputs()
    outputs = double.map(drawn)
    assert 0 == next(outputs)
    outputs.close()
    call = gateway.only_call()
    with call.changed:
        assert call.changed.wait_for(lambda: call.cancel is not None, 10)
    del outputs, drawn
    assert stopped.wait(10)


def test_many_small_inputs_go_together() -> None:
    sent: list[Inputs] = []
    inputs = MapInputs("fc-00000000", sent.append, lambda: None)
    for number in range(1000):
        inputs.add(Payload(data=b"%d" % number))
    inputs.finish()
    assert list(range(1000)) == [int(item.data) for message in sent for item in message.items]
    starts = list(itertools.accumulate((len(message.items) for message in sent), initial=0))
    assert starts[:-1] == [message.start for message in sent]
    assert len(sent) < 200
    assert [1000] == [message.total for message in sent if message.total >= 0]


def test_what_has_no_result_is_sent_again() -> None:
    inputs = MapInputs("fc-00000000", lambda message: None, lambda: None)
    for number in range(10):
        inputs.add(Payload(data=b"%d" % number))
    inputs.finish()
    inputs.done([0, 1, 2, 5])
    again = list(inputs.resend("fc-00000000"))
    assert [(3, 2, -1), (6, 4, 10)] == [
        (message.start, len(message.items), message.total) for message in again
    ]
