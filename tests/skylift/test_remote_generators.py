"""Generators: every item once, in order, however fast, also when the reader is slow."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from sdk_gateway import FakeGateway

import skylift
from skylift.exceptions import InvalidError
from skylift.wire import Cancel, Consumed


def test_items_come_in_order_and_once(app: skylift.App) -> None:
    @app.function()
    def count(n):
        yield from range(n)

    assert list(range(20_000)) == list(count.remote_gen(20_000))


def test_items_and_then_the_exception(app: skylift.App) -> None:
    @app.function()
    def fail_after(n):
        yield from range(n)
        raise ValueError("enough")

    items = []
    with pytest.raises(ValueError, match="enough"):
        items.extend(fail_after.remote_gen(1000))
    assert list(range(1000)) == items[-1000:]


def test_a_slow_reader_holds_the_producer_back(app: skylift.App, gateway: FakeGateway) -> None:
    item = b"x" * 10_000

    @app.function()
    def flood():
        for _ in range(1000):
            yield item

    items = flood.remote_gen()
    assert item == next(items)
    call = gateway.only_call()
    with call.changed:
        call.changed.wait_for(lambda: False, 0.2)
    assert call.cost < call.submit.window + 2 * len(item)
    assert 999 == sum(1 for _ in items)
    totals = [message.total for message in gateway.sent(Consumed)]
    assert sorted(totals) == totals
    assert all(later - earlier >= call.submit.window // 4 for earlier, later in itertools.pairwise(totals))


def test_closing_early_cancels_the_call(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function()
    def forever():
        while True:
            yield b"x" * 1000

    for _ in forever.remote_gen():
        break
    call = gateway.only_call()
    with call.changed:
        assert call.changed.wait_for(lambda: call.cancel is not None, 10)
    assert 1 == len(gateway.sent(Cancel))


def test_prints_come_between_the_items(app: skylift.App, capsys: pytest.CaptureFixture[str]) -> None:
    @app.function()
    def speak():
        for number in range(3):
            print("there", number)
            yield number

    with skylift.enable_output():
        for number in speak.remote_gen():
            print("here", number)
    assert [
        f"{where} {number}" for number in range(3) for where in ("there", "here")
    ] == capsys.readouterr().out.splitlines()


def test_async_for(app: skylift.App) -> None:
    @app.function()
    async def count(n):
        for number in range(n):
            yield number

    @app.function()
    def plain(n):
        yield from range(n)

    async def collect() -> list[int]:
        return [item async for item in plain.remote_gen.aio(500)]

    assert count._is_generator
    assert list(range(500)) == asyncio.run(collect())


def test_generators_reject_map_and_its_relatives_at_the_call(app: skylift.App, gateway: FakeGateway) -> None:
    @app.function()
    def count(n):
        yield from range(n)

    for name in ("map", "starmap", "for_each"):
        with pytest.raises(InvalidError, match=rf"count\.{name}\(\): count is a generator function"):
            getattr(count, name)([1])
    assert {} == gateway.control.calls


def test_large_items_are_reported_one_by_one(app: skylift.App, gateway: FakeGateway) -> None:
    """In the store's stead they cost the stream next to nothing, and their producer a lot."""

    @app.function()
    def flood(n):
        for number in range(n):
            yield bytes([number]) * 400_000

    items = list(flood.remote_gen(5))
    assert [bytes([number]) * 400_000 for number in range(5)] == items
    assert all(event.blob for event in gateway.only_call().events)
    assert gateway.sent(Consumed)
    assert gateway.only_call().cost < 1000
