"""Generators: every item once and in order, in batches, within the window."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from fake_host import FakeHost


def test_items_and_then_the_end(host: FakeHost) -> None:
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    call = host.call(count, 3, kind="generator")
    assert call.items == [0, 1, 2]
    assert call.state == "done"


def test_many_items_are_few_frames(host: FakeHost) -> None:
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    call = host.call(count, 100_000, kind="generator")
    assert call.items == list(range(100_000))
    assert len(call.frames) < 10_000


def test_the_first_item_does_not_wait_for_the_second(host: FakeHost) -> None:
    def two() -> Iterator[int]:
        import threading

        yield 1
        threading.Event().wait()
        yield 2

    call = host.start(two, kind="generator")
    call.wait_events(1)
    assert call.items == [1]
    call.cancel()
    call.wait()


def test_a_quick_item_is_sent_although_the_next_does_not_come(host: FakeHost) -> None:
    def three() -> Iterator[int]:
        import threading

        yield 1
        yield 2
        threading.Event().wait()
        yield 3

    call = host.start(three, kind="generator")
    call.wait_events(2)
    assert call.items == [1, 2]
    call.cancel()
    call.wait()


def test_items_then_the_exception(host: FakeHost) -> None:
    def fail() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("no third")

    call = host.call(fail, kind="generator")
    assert [event.kind for event in call.events] == ["yield", "yield", "error"]
    assert call.error["message"] == "no third"
    assert call.state == "failed"


def test_output_and_items_keep_their_order(host: FakeHost) -> None:
    def talk() -> Iterator[int]:
        for n in range(3):
            print("before", n)
            yield n

    call = host.call(talk, kind="generator")
    assert [event.kind for event in call.events] == ["output", "yield"] * 3
    assert call.text() == "before 0\nbefore 1\nbefore 2\n"


def test_async_generators(host: FakeHost) -> None:
    async def count(n: int) -> AsyncIterator[int]:
        import asyncio

        for i in range(n):
            await asyncio.sleep(0)
            yield i

    call = host.call(count, 5, kind="generator")
    assert call.items == [0, 1, 2, 3, 4]
    assert call.state == "done"


def test_the_producer_waits_for_its_consumer(own_host: FakeHost) -> None:
    def count() -> Iterator[int]:
        n = 0
        while True:
            yield n
            n += 1

    own_host.consume = False
    window = 10 * (64 + 3)
    call = own_host.start(count, kind="generator", window=window)
    own_host.wait_for(lambda: call.cost >= window)
    events = len(call.events)
    assert own_host.call_is_quiet(call, 0.1)
    assert call.items == list(range(events))

    call.consume(call.cost)
    own_host.wait_for(lambda: len(call.events) > events)
    call.cancel()
    assert call.wait().state == "cancelled"
    assert call.items == list(range(len(call.items)))


def test_an_item_larger_than_the_window_passes(host: FakeHost) -> None:
    def large() -> Iterator[bytes]:
        for _ in range(3):
            yield b"x" * 300_000

    call = host.call(large, kind="generator", window=1000)
    assert [len(item) for item in call.items] == [300_000] * 3


def test_a_cancelled_generator_cleans_up(host: FakeHost) -> None:
    def tidy() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            print("tidied up")

    call = host.start(tidy, kind="generator", window=2000)
    call.wait_events(10)
    call.cancel()
    assert call.wait().state == "cancelled"
    assert call.text() == "tidied up\n"


def test_an_async_generator_cleans_up(host: FakeHost) -> None:
    async def tidy() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            print("tidied up")

    call = host.start(tidy, kind="generator", window=2000)
    call.wait_events(10)
    call.cancel()
    assert call.wait().state == "cancelled"
    assert call.text() == "tidied up\n"


def test_a_function_that_is_no_generator(host: FakeHost) -> None:
    def number() -> Any:
        return 3

    call = host.call(number, kind="generator")
    assert call.error["skylift"] == "InvalidError"
    assert call.error["message"] == (
        "number returned a value of type int where remote_gen() wants a generator: let it yield, or call it "
        "with remote()"
    )


def test_an_item_that_cannot_be_pickled(host: FakeHost) -> None:
    def locks() -> Iterator[Any]:
        import threading

        yield 1
        yield threading.Lock()

    call = host.call(locks, kind="generator")
    assert call.items == [1]
    assert call.error["message"].startswith(
        "locks yielded a value of type _thread.lock, which cannot be sent:"
    )
