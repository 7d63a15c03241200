"""Methods that can be called from a thread, and awaited through ``.aio``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import FunctionType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from skylift.tracebacks import hide_our_frames
from skylift.waiting import ASYNCIO, BLOCKING, Waiter, iterate, iterate_aio, run

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")


class Blocking(Generic[P, T]):
    """Calls a coroutine function of ours and waits for it; ``.aio(…)`` awaits it instead.

    The function's first parameter is the `Waiter`. `like` is the function whose signature tools should show.
    """

    def __init__(
        self,
        function: Callable[Concatenate[Waiter, P], Coroutine[Any, Any, T]],
        like: Callable[..., Any] | None = None,
    ) -> None:
        self._function = function
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", "").lstrip("_")
        if like is not None:
            self.__wrapped__ = like

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return run(self._function(BLOCKING, *args, **kwargs))
        except BaseException as error:
            hide_our_frames(error)
            raise

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for ``await``."""
        try:
            return await self._function(ASYNCIO, *args, **kwargs)
        except BaseException as error:
            hide_our_frames(error)
            raise

    def __repr__(self) -> str:
        return f"<{self.__name__}: call it, or await its .aio>"


class Iterating(Generic[P, T]):
    """Calls an async generator function of ours as an ordinary generator; ``.aio(…)`` is for ``async for``.

    The function's first parameter is the `Waiter`. What it checks before it makes the generator is checked at
    the call, not at the first item.
    """

    def __init__(
        self,
        function: Callable[Concatenate[Waiter, P], AsyncGenerator[T, None]],
        like: Callable[..., Any] | None = None,
    ) -> None:
        self._function = function
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", "").lstrip("_")
        if like is not None:
            self.__wrapped__ = like

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        try:
            return iterate(self._function(BLOCKING, *args, **kwargs))
        except BaseException as error:
            hide_our_frames(error)
            raise

    def aio(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        """The same for ``async for``."""
        return iterate_aio(self._function(ASYNCIO, *args, **kwargs))

    def __repr__(self) -> str:
        return f"<{self.__name__}: iterate over it, or over its .aio>"


def share_docs(cls: type[C]) -> type[C]:
    """Class decorator: ``_get``, which does the work of the property ``get``, gets its docstring.

    So it is there where people ask for it: ``call.get?``.
    """
    for name, attribute in list(vars(cls).items()):
        worker = vars(cls).get(f"_{name}")
        if isinstance(attribute, property) and isinstance(worker, FunctionType):
            worker.__doc__ = attribute.__doc__
    return cls
