"""One coroutine for threads and event loops."""

from __future__ import annotations

import asyncio
import threading
from queue import Empty

import pytest

from skylift.dual import Blocking, Iterating
from skylift.waiting import ASYNCIO, BLOCKING, Mailbox, Waiter, run


async def add_up(waiter: Waiter, mailbox: Mailbox[int], count: int) -> int:
    return sum([await waiter.take(mailbox) for _ in range(count)])


def fill(mailbox: Mailbox[int], count: int) -> threading.Thread:
    thread = threading.Thread(target=lambda: [mailbox.put(number) for number in range(count)])
    thread.start()
    return thread


def test_both_ways_give_the_same() -> None:
    add = Blocking(add_up)
    mailbox: Mailbox[int] = Mailbox()
    filler = fill(mailbox, 10_000)
    assert sum(range(10_000)) == add(mailbox, 10_000)
    filler.join()
    filler = fill(mailbox, 10_000)
    assert sum(range(10_000)) == asyncio.run(add.aio(mailbox, 10_000))
    filler.join()


def test_timeouts() -> None:
    mailbox: Mailbox[int] = Mailbox()
    for timeout in (0, -1, 0.01):
        with pytest.raises(Empty):
            run(BLOCKING.take(mailbox, timeout))
        with pytest.raises(Empty):
            asyncio.run(ASYNCIO.take(mailbox, timeout))
    mailbox.put(1)
    assert 1 == asyncio.run(ASYNCIO.take(mailbox, 0))


def test_generators_both_ways_and_closed_early() -> None:
    closed: list[str] = []

    async def numbers(waiter: Waiter, count: int):
        try:
            for number in range(count):
                yield number
        finally:
            closed.append("closed")

    iterating = Iterating(numbers)
    assert [0, 1, 2] == list(iterating(3))

    async def collect() -> list[int]:
        return [item async for item in iterating.aio(3)]

    assert [0, 1, 2] == asyncio.run(collect())
    items = iterating(3)
    assert 0 == next(items)
    items.close()
    assert ["closed"] * 3 == closed


def test_suspending_outside_of_a_loop_is_an_error() -> None:
    async def suspend(waiter: Waiter) -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="outside of an event loop"):
        Blocking(suspend)()


def test_they_say_how_to_use_them() -> None:
    assert "<add_up: call it, or await its .aio>" == repr(Blocking(add_up))
