"""Status lines: telling clients where their calls are, without a word about those that are over in a blink.

A frame by itself is a wakeup of two processes, which a quick call would feel. So `Accepted` too waits for the
call's first events, to go with them, but no longer than `BLINK`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from skylift.backend.calls import Call
from skylift.backend.streams import answer
from skylift.wire import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from skylift.backend.pools import Container, Pool
    from skylift.backend.registry import Registry

BLINK = 0.05
"""Seconds. A call that is over by then has no status."""


class StatusUpdates:
    """Sends `Status` to the clients attached to a call when it has changed."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.on_changed: Callable[[Call], None] | None = None
        """Told of calls that are somewhere else or wait for something else, while somebody watches."""
        self._young: deque[tuple[float, Call]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def submitted(self, call: Call, now: float) -> None:
        """A call has come. `now`: the event loop's time."""
        self._young.append((now + BLINK, call))
        if self._timer is None:
            self._timer = self.registry.loop.call_later(BLINK, self._look)

    def changed(self, call: Call) -> None:
        """A call is somewhere else, or waits for something else."""
        if self.on_changed is not None:
            self.on_changed(call)
        if call.visible and not call.over:
            self._send(call)

    def pool_changed(self, pool: Pool) -> None:
        """What the pool's waiting calls wait for has changed."""
        for call in pool.waiting_calls():
            if self.on_changed is not None:
                self.on_changed(call)
            if call.visible:
                self._send(call)

    def sampled(self, container: Container) -> None:
        """There is a new sample of what the container uses."""
        call = container.call
        if call is not None and call.visible and not call.over:
            self._send(call)

    def stop(self) -> None:
        """Send nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        now = self.registry.loop.time()
        young = self._young
        while young and young[0][0] <= now:
            call = young.popleft()[1]
            if not call.over:
                call.visible = True
                if not call.answered:
                    answer(call)
                self._send(call)
        # Calls that are over need no look of their own, and should not be held in memory for it.
        while young and young[0][1].over:
            young.popleft()
        if young:
            self._timer = self.registry.loop.call_later(max(0.001, young[0][0] - now), self._look)

    def _send(self, call: Call) -> None:
        message: Status | None = None
        for attachment in call.attachments:
            port = attachment.client.port
            if port is not None:
                if message is None:
                    message = Status(status=call.status())
                port.send(message)
