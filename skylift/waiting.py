"""Waiting for what the connection's reader thread delivers, in a thread or in an event loop.

The logic of calls is written once, as coroutines that get a `Waiter`. With `BLOCKING` they never suspend:
each wait blocks the thread, and `run` drives them to their end in one step, without an event loop. With
`ASYNCIO` they suspend like any coroutine.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from skylift.tracebacks import hide_our_frames

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Items from the reader thread for the one consumer of a call.

    `put` may be called from any thread. `take` and `take_aio` raise `queue.Empty` after `timeout` seconds.
    An item is taken once; a `take` that is interrupted takes none.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[T] = SimpleQueue()
        self._wake: Callable[[], None] | None = None

    def put(self, item: T) -> None:
        """Adds an item and wakes the consumer."""
        self._queue.put(item)
        wake = self._wake
        if wake is not None:
            self._wake = None
            wake()

    def take(self, timeout: float | None = None) -> T:
        """The next item; blocks this thread. A signal's handler (``KeyboardInterrupt``) ends the wait."""
        if timeout is not None and timeout <= 0:
            return self._queue.get_nowait()
        return self._queue.get(timeout=timeout)

    async def take_aio(self, timeout: float | None = None) -> T:
        """The next item, in an event loop."""
        with contextlib.suppress(Empty):
            return self._queue.get_nowait()
        if timeout is not None and timeout <= 0:
            raise Empty
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while True:
            woken: asyncio.Future[None] = loop.create_future()
            self._wake = _threadsafe_wake(loop, woken)
            try:
                # An item that came before `_wake` was set would not wake us.
                return self._queue.get_nowait()
            except Empty:
                pass
            try:
                if deadline is None:
                    await woken
                else:
                    await asyncio.wait_for(woken, deadline - loop.time())
            except asyncio.TimeoutError:
                raise Empty from None
            finally:
                self._wake = None
            with contextlib.suppress(Empty):
                return self._queue.get_nowait()


class Waiter(Protocol):
    """How a coroutine of ours waits."""

    async def take(self, mailbox: Mailbox[T], timeout: float | None = None) -> T:
        """See `Mailbox.take`."""

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """The result of a function that may block for long (a connection, an upload)."""


class _Blocking:
    async def take(self, mailbox: Mailbox[T], timeout: float | None = None) -> T:
        return mailbox.take(timeout)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)


class _Asyncio:
    async def take(self, mailbox: Mailbox[T], timeout: float | None = None) -> T:
        return await mailbox.take_aio(timeout)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(function, *args)


BLOCKING: Waiter = _Blocking()
ASYNCIO: Waiter = _Asyncio()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that was given `BLOCKING` to its end."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        result: T = finished.value
        return result
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} suspended outside of an event loop")


def iterate(items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """The items of an async generator that was given `BLOCKING`, as an ordinary generator."""
    try:
        while True:
            try:
                item = run(items.__anext__())
            except StopAsyncIteration:
                return
            yield item
    except BaseException as error:
        hide_our_frames(error)
        raise
    finally:
        run(items.aclose())


async def iterate_aio(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The items of an async generator that was given `ASYNCIO`."""
    try:
        async for item in items:
            yield item
    except BaseException as error:
        hide_our_frames(error)
        raise
    finally:
        await items.aclose()


def _threadsafe_wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Future[None]) -> Callable[[], None]:
    def wake_in_loop() -> None:
        if not woken.done():
            woken.set_result(None)

    def wake() -> None:
        # The loop may have been closed since; then nobody waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(wake_in_loop)

    return wake
