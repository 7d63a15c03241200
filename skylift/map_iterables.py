"""The iterables that a map is given, as one iterator over tuples of arguments."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, TypeAlias

from skylift.exceptions import InvalidError
from skylift.waiting import BLOCKING, Waiter

Drawn: TypeAlias = "Iterator[tuple[Any, ...]] | AsyncIterator[tuple[Any, ...]]"


def zipped(waiter: Waiter, iterables: tuple[Any, ...], name: str) -> Drawn:
    """One input of each iterable at a time, until the shortest ends. Raises `InvalidError`."""
    if not iterables:
        raise InvalidError(f"{name}.map() needs an iterable of inputs")
    for iterable in iterables:
        _check(waiter, iterable, name)
    if any(_is_async(iterable) for iterable in iterables):
        return _zip_aio(iterables)
    return zip(*iterables, strict=False)


def tuples(waiter: Waiter, iterable: Any, name: str) -> Drawn:
    """The items of an iterable, each a sequence of arguments. Raises `InvalidError` for what is none."""
    _check(waiter, iterable, name)
    if _is_async(iterable):
        return _tuples_aio(iterable, name)
    return (_as_tuple(item, name) for item in iterable)


def _is_async(iterable: Any) -> bool:
    return isinstance(iterable, AsyncIterable) and not isinstance(iterable, Iterable)


def _check(waiter: Waiter, iterable: Any, name: str) -> None:
    if _is_async(iterable):
        if waiter is BLOCKING:
            raise InvalidError(
                f"the inputs of {name} are an async iterator: use `async for … in {name}.map.aio(…)`"
            )
    elif not isinstance(iterable, Iterable) and not hasattr(iterable, "__getitem__"):
        raise InvalidError(
            f"the inputs of {name} are a {type(iterable).__name__}, which cannot be iterated over"
        )


def _as_tuple(item: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(item, Iterable) or isinstance(item, (str, bytes)):
        raise InvalidError(
            f"{name}.starmap() got the input {item!r}: each is a tuple of arguments, such as ({item!r},)"
        )
    return tuple(item)


async def _zip_aio(iterables: tuple[Any, ...]) -> AsyncIterator[tuple[Any, ...]]:
    iterators = [item.__aiter__() if _is_async(item) else iter(item) for item in iterables]
    while True:
        drawn: list[Any] = []
        for iterator in iterators:
            if isinstance(iterator, AsyncIterator):
                try:
                    drawn.append(await iterator.__anext__())
                except StopAsyncIteration:
                    return
            else:
                try:
                    drawn.append(next(iterator))
                except StopIteration:
                    return
        yield tuple(drawn)


async def _tuples_aio(iterable: Any, name: str) -> AsyncIterator[tuple[Any, ...]]:
    async for item in iterable:
        yield _as_tuple(item, name)
