"""The time limit of the task in hand, and what follows when it does not end after it was asked to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from skylift.runtime.deaths import Death

_NEVER = float("inf")


class Watch:
    """One container's timers. Cheap to start anew for each call: a timer is made only where none would go off
    in time, and looks at the deadline of then."""

    def __init__(self, timed_out: Callable[[], None], kill: Callable[[Death], None]) -> None:
        """`timed_out` is called once for each `start`, unless `stop` or another `start` comes first."""
        self._timed_out = timed_out
        self._kill = kill
        self._loop = asyncio.get_running_loop()
        self._deadline = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._escalation: asyncio.TimerHandle | None = None
        self._escalation_index = -1

    def start(self, seconds: float) -> None:
        """Set the deadline anew."""
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._look)

    def stop(self) -> None:
        """The task has ended."""
        self._deadline = _NEVER
        if self._escalation is not None:
            self._escalation.cancel()
            self._escalation = None

    def close(self) -> None:
        """The container has ended."""
        self.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def escalate(self, seconds: float, death: Death, index: int = -1) -> None:
        """Kill the container then, unless the task (or its input `index`) ends before; the first counts."""
        if self._escalation is None:
            self._escalation = self._loop.call_later(seconds, self._kill, death)
            self._escalation_index = index

    def input_ended(self) -> None:
        """A map has come to its next input."""
        if self._escalation is not None and self._escalation_index >= 0:
            self._escalation.cancel()
            self._escalation = None

    def _look(self) -> None:
        self._timer = None
        if self._deadline == _NEVER:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look)
            return
        self._deadline = _NEVER
        self._timed_out()
