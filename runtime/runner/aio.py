"""The event loop of coroutines: one for the runner's life, run by the main thread while a call needs it."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from .cancel import Guard


class EventLoop:
    """Runs coroutines so that the guard can cancel them."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """What `awaitable` comes to. Enters the guard's active section, once the loop is ready.

        Tasks that it leaves behind stand still until the next coroutine runs.
        """
        self._guard.active = False
        import asyncio

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        loop = self._loop
        task: asyncio.Task[Any] = loop.create_task(_as_coroutine(awaitable))
        self._guard.task = task
        self._guard.active = True
        try:
            return loop.run_until_complete(task)
        except BaseException as error:
            if not task.done():
                # Another task raised what ends a loop (KeyboardInterrupt, SystemExit).
                task.cancel()
                loop.run_until_complete(asyncio.wait([task]))
            if not task.cancelled():
                task.exception()
            elif type(error.__context__) is asyncio.CancelledError:
                # Python 3.10 raises another one; this is the one that was raised in the coroutine.
                raise error.__context__ from None
            raise
        finally:
            self._guard.task = None


def _as_coroutine(awaitable: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
    if isinstance(awaitable, Coroutine):
        return awaitable

    async def waiting() -> Any:
        return await awaitable

    return waiting()
