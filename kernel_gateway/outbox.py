"""Gathers what is written in one turn of the event loop, so that many small frames take one system call."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol


class Buffered(Protocol):
    """A connection that keeps what is sent on it until `flush`."""

    def flush(self) -> None:
        """Hand everything to the transport."""


class Outbox:
    """The connections with something to flush.

    While it is entered (around the handling of what one read brought), nothing is flushed before the end;
    else at the next turn of the event loop.
    """

    __slots__ = ("_entered", "_loop", "_scheduled", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[Buffered] = []
        self._entered = False
        self._scheduled = False

    def add(self, connection: Buffered) -> None:
        """`connection` has something to flush now. It must not add itself again before `flush` is called."""
        self._waiting.append(connection)
        if not self._entered and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush_scheduled)

    def __enter__(self) -> None:
        self._entered = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered = False
        self._flush()

    def _flush_scheduled(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            connection.flush()
