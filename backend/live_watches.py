"""What somebody watches of the live feed: each watch gathers what is new, and gives it away frame by frame.

A watch never holds more than what is new since its last frame, each thing once: how slow its reader is does
not matter to anybody else. `live_feed` feeds them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import msgspec

from skylift.backend.database import DatabaseError
from skylift.backend.problems import no_call
from skylift.backend.reports import output_item
from skylift.backend.views import ContainerUsage, OutputItem, Sample, SpendBy
from skylift.wire import FINAL_STATES, Problem, decode_events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skylift.backend.calls import Call
    from skylift.backend.reports import Reports

ListName: TypeAlias = Literal["sessions", "containers", "templates", "hosts", "volumes", "spend"]

ROWS_A_FRAME = 500
MOST_ROWS = 20_000
"""Calls that have changed and wait for a slow reader; with more of them it has to begin anew."""

OUTPUT_BYTES = 256 * 1024
"""Of output in a frame, about."""

OUTPUT_GATHER = 0.1
CALL_GATHER = 0.25
"""Seconds."""

_encode = msgspec.json.Encoder().encode


class WatchRequest(msgspec.Struct, frozen=True, tag_field="type", tag="watch", forbid_unknown_fields=True):
    """Watch a topic. `id` is the watcher's own name for it; an older watch of that id ends."""

    id: str
    topic: Literal[
        "calls", "call", "output", "usage", "sessions", "containers", "templates", "hosts", "volumes", "spend"
    ]
    call_id: str = ""
    """Of ``call`` and ``output``."""
    from_seq: int = 0
    """Of ``output``."""
    by: SpendBy = "day"
    """Of ``spend``."""
    days: int = 30
    """Of ``spend``."""


class UnwatchRequest(
    msgspec.Struct, frozen=True, tag_field="type", tag="unwatch", forbid_unknown_fields=True
):
    """Watch it no more."""

    id: str


class LivePort(Protocol):
    """Somebody's connection, as the gateway offers it."""

    user: str

    def ready(self, watch: Watch) -> None:
        """`watch` has a frame: take it when there is room. Never blocks."""


class Watch:
    """Base of the watches."""

    def __init__(self, port: LivePort, watch_id: str) -> None:
        self.port = port
        self.watch_id = watch_id
        self.over = False
        """Nothing comes any more once its frame has been taken."""
        self._last = b""

    def take(self) -> bytes | None:
        """The next frame, or None. Called again after that has been written."""
        frame, self._last = self._last, b""
        return frame or None

    def more(self) -> bool:
        """There is another frame already."""
        return bool(self._last)

    def fail(self, problem: Problem) -> None:
        """It is over, and why."""
        self.over = True
        self._last = error_frame(self.watch_id, problem)
        self.port.ready(self)

    def close(self) -> None:
        """Nobody watches any more."""


def error_frame(watch_id: str, problem: Problem) -> bytes:
    """A watch is refused, or over; "": a frame was no request."""
    fields = {"error": problem.error, "message": problem.message}
    return _encode({"type": "error", "id": watch_id, "problem": fields})


class CallsWatch(Watch):
    """A user's calls."""

    def __init__(self, port: LivePort, watch_id: str) -> None:
        super().__init__(port, watch_id)
        self._rows: dict[str, msgspec.Raw] = {}
        self._begun = False

    def add(self, rows: dict[str, msgspec.Raw]) -> None:
        """Calls that are new or have changed; the first time all that are not over."""
        if self.over:
            return
        self._rows.update(rows)
        if len(self._rows) > MOST_ROWS and self._begun:
            message = (
                f"More than {MOST_ROWS:,} calls have changed since the last were read: begin anew, with a "
                "new watch and GET /v1/calls."
            )
            self._rows.clear()
            self.fail(Problem(error="ResourceExhaustedError", message=message))
        else:
            self.port.ready(self)

    def take(self) -> bytes | None:
        if self._last:
            return super().take()
        if not self._rows and self._begun:
            return None
        self._begun = True
        if len(self._rows) <= ROWS_A_FRAME:
            rows, self._rows = list(self._rows.values()), {}
        else:
            rows = [self._rows.pop(key) for key in list(self._rows)[:ROWS_A_FRAME]]
        return _encode({"type": "calls", "id": self.watch_id, "calls": rows})

    def more(self) -> bool:
        return bool(self._rows or self._last)


class ListWatch(Watch):
    """A whole list: only the newest waits."""

    def __init__(self, port: LivePort, watch_id: str, topic: str) -> None:
        super().__init__(port, watch_id)
        self.topic = topic

    def show(self, rows: msgspec.Raw) -> None:
        """The list as it is now."""
        if self.over:
            return
        self._last = _encode({"type": "list", "id": self.watch_id, "topic": self.topic, "rows": rows})
        self.port.ready(self)


class UsageWatch(Watch):
    """What a user's containers use."""

    def __init__(self, port: LivePort, watch_id: str) -> None:
        super().__init__(port, watch_id)
        self._new: dict[str, deque[Sample]] = {}
        self._begun = False

    def add(self, container_id: str, samples: Sequence[Sample], most: int) -> None:
        """Samples that came; the last `most` of a container are kept."""
        waiting = self._new.get(container_id)
        if waiting is None:
            waiting = self._new[container_id] = deque(maxlen=most)
        waiting.extend(samples)

    def take(self) -> bytes | None:
        if self._last:
            return super().take()
        if not self._new and self._begun:
            return None
        self._begun = True
        rows = [ContainerUsage(container_id=key, samples=tuple(new)) for key, new in self._new.items()]
        self._new = {}
        return _encode({"type": "usage", "id": self.watch_id, "containers": rows})

    def more(self) -> bool:
        return bool(self._new or self._last)


class FollowingWatch(Watch):
    """Of one call: a task that looks again when something has happened."""

    def __init__(self, port: LivePort, watch_id: str, call_id: str, reports: Reports) -> None:
        super().__init__(port, watch_id)
        self.call_id = call_id
        self.reports = reports
        self.registry = reports.registry
        self.reader = reports.reader
        self._news = asyncio.Event()
        self._taken = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def touch(self) -> None:
        """Something has happened to the call."""
        self._news.set()

    def take(self) -> bytes | None:
        self._taken.set()
        return super().take()

    def close(self) -> None:
        self._task.cancel()

    async def _show(self, frame: bytes) -> None:
        """Send it, and wait until the reader has room for the next one."""
        self._taken.clear()
        self._last = frame
        self.port.ready(self)
        await self._taken.wait()

    async def _run(self) -> None:
        try:
            await self._follow()
        except DatabaseError as error:
            self.fail(Problem(error="InternalFailure", message=str(error)))

    async def _follow(self) -> None:
        raise NotImplementedError


class CallWatch(FollowingWatch):
    """One call, whole."""

    async def _follow(self) -> None:
        shown = None
        while True:
            self._news.clear()
            call = self.registry.find(self.call_id)
            if call is None:
                found = await self.reports.call(self.port.user, self.call_id)
            elif call.user == self.port.user:
                found = await self.reports.call_in_memory(call)
            else:
                found = None
            if found is None:
                self.fail(no_call(self.call_id))
                return
            if found != shown:
                shown = found
                await self._show(_encode({"type": "call", "id": self.watch_id, "call": found}))
            await self._news.wait()
            await asyncio.sleep(CALL_GATHER)


class OutputWatch(FollowingWatch):
    """A call's output, from the log."""

    def __init__(self, port: LivePort, watch_id: str, call_id: str, reports: Reports, from_seq: int) -> None:
        self._next = from_seq
        self._waits_for: Call | None = None
        super().__init__(port, watch_id, call_id, reports)

    def close(self) -> None:
        super().close()
        call = self._waits_for
        if call is not None and call.waiters is not None and self._wake in call.waiters:
            call.waiters.remove(self._wake)

    async def _follow(self) -> None:
        registry, reader = self.registry, self.reader
        if registry.find(self.call_id) is None:
            await reader.database.flush()
        call = registry.find(self.call_id)
        row = await reader.call(self.call_id) if call is None else None
        if (call.user if call is not None else row["user"] if row is not None else None) != self.port.user:
            self.fail(no_call(self.call_id))
            return
        shown = None
        while True:
            self._news.clear()
            call = registry.find(self.call_id) or call
            if call is not None:
                # Before the log is looked at: what comes meanwhile wakes us.
                self._wake_when_logged(call)
                state, complete = call.state, call.over and call.end_logged
            else:
                assert row is not None
                state, complete = row["state"], row["state"] in FINAL_STATES
            logged = call.logged_seq if call is not None else 0
            items, whole = await self._read()
            if not items and logged > self._next:
                self._next = logged  # the log could not keep what is between
            over = complete and not items
            if items or (state, over) != shown:
                shown = (state, over)
                fields = {"items": items, "next_seq": self._next, "state": state, "over": over}
                await self._show(_encode({"type": "output", "id": self.watch_id, **fields}))
            if over:
                return
            if not items:
                await self._news.wait()
            elif whole:
                await asyncio.sleep(OUTPUT_GATHER)

    async def _read(self) -> tuple[list[OutputItem], bool]:
        """What follows in the log, about a frame of it; and whether that was all there was."""
        chunks = await self.reader.output(self.call_id, self._next, OUTPUT_BYTES)
        items: list[OutputItem] = []
        size = 0
        for chunk in chunks:
            for seq, event in enumerate(decode_events(chunk.body), chunk.seq):
                if seq < self._next:
                    continue
                if size >= OUTPUT_BYTES:
                    return items, False
                item = output_item(seq, event)
                items.append(item)
                size += len(item.text) + 100
                self._next = seq + 1
        return items, size < OUTPUT_BYTES // 2

    def _wake_when_logged(self, call: Call) -> None:
        if self._waits_for is not call:
            self._waits_for = call
            if call.waiters is None:
                call.waiters = []
            call.waiters.append(self._wake)

    def _wake(self) -> None:
        self._waits_for = None
        self._news.set()
