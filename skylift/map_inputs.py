"""The inputs of a map on their way out: drawn lazily, in batches, never far ahead of the outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator

from skylift.wire import INLINE_LIMIT, MAX_OUTSTANDING_INPUTS, Inputs, Payload

BATCH = 256
FLUSH_AFTER = 0.002
"""Seconds. An input waits no longer than about this for others to go with it."""


class Stopped(Exception):  # noqa: N818
    """Nobody wants the outputs any more."""


class MapInputs:
    """Inputs that are drawn, sent, done and yielded.

    One thread (or task) feeds; the consumer of the outputs flushes and counts what it has yielded; the reader
    thread marks what is done. `send` puts one frame on the connection, `woken` is called when an input waits
    that nobody is about to send.
    """

    def __init__(self, call_id: str, send: Callable[[Inputs], None], woken: Callable[[], None]) -> None:
        self._call_id = call_id
        self._send = send
        self._woken = woken
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        # Guarded by `_lock`:
        self._pending: dict[int, Payload] = {}
        self._batch: list[Payload] = []
        self._batch_bytes = 0
        self._batch_since = 0.0
        self._drawn = 0
        self._yielded = 0
        self._total = -1
        self._stopped = False
        self.on_room: Callable[[], None] = _nothing
        """Called, by whoever consumes the outputs, when there may be room again."""
        # Frames leave in the order of their inputs.
        self._send_lock = threading.Lock()

    @property
    def total(self) -> int:
        """How many inputs there are; -1 while more may come."""
        return self._total

    @property
    def unsent(self) -> bool:
        """Whether an input waits for others to go with it."""
        return bool(self._batch)

    # --- feeding ---------------------------------------------------------------------------------

    def add(self, payload: Payload) -> None:
        """Takes one drawn input, and sends it with those that wait when it is time. Raises `Stopped`."""
        with self._lock:
            if self._stopped:
                raise Stopped
            now = time.monotonic()
            first = not self._batch
            if first:
                self._batch_since = now
            self._batch.append(payload)
            self._batch_bytes += len(payload.data)
            self._pending[self._drawn] = payload
            self._drawn += 1
            full = len(self._batch) >= BATCH or self._batch_bytes >= INLINE_LIMIT
            due = full or now - self._batch_since >= FLUSH_AFTER or self._drawn == 1
        if due:
            self.flush()
        elif first:
            self._woken()

    def wait_for_room(self) -> None:
        """Blocks until the outputs have caught up enough. Raises `Stopped`."""
        if not self.has_room():
            self.flush()
            with self._room:
                self._room.wait_for(self.has_room)

    def has_room(self) -> bool:
        """Whether another input may be drawn now. Raises `Stopped`."""
        if self._stopped:
            raise Stopped
        return self._drawn - self._yielded < MAX_OUTSTANDING_INPUTS

    def finish(self) -> None:
        """There are no more inputs."""
        with self._lock:
            self._total = self._drawn
        self.flush()

    def flush(self) -> None:
        """Sends the inputs that wait, and the total once it is known."""
        with self._send_lock:
            with self._lock:
                batch, self._batch, self._batch_bytes = self._batch, [], 0
                start, total = self._drawn - len(batch), self._total
            if batch or total >= 0:
                self._send(Inputs(call_id=self._call_id, start=start, items=tuple(batch), total=total))

    # --- the other side --------------------------------------------------------------------------

    def done(self, indexes: Iterable[int]) -> None:
        """These inputs have their output; they will not be sent again."""
        with self._lock:
            for index in indexes:
                self._pending.pop(index, None)

    def yielded(self, count: int) -> None:
        """So many more outputs have been handed to the user."""
        with self._room:
            self._yielded += count
            self._room.notify_all()
        self.on_room()

    def stop(self) -> None:
        """Feeding ends with `Stopped`."""
        with self._room:
            self._stopped = True
            self._room.notify_all()
        self.on_room()

    def resend(self, call_id: str) -> Iterator[Inputs]:
        """All inputs that were sent and have no output, and the total, for a new connection."""
        with self._lock:
            unsent_from = self._drawn - len(self._batch)
            waiting = [(index, item) for index, item in sorted(self._pending.items()) if index < unsent_from]
            total = self._total if not self._batch else -1
        items: list[Payload] = []
        start, size = -1, 0
        for index, payload in waiting:
            if items and (index != start + len(items) or len(items) >= BATCH or size >= INLINE_LIMIT):
                yield Inputs(call_id=call_id, start=start, items=tuple(items), total=-1)
                items, size = [], 0
            if not items:
                start = index
            items.append(payload)
            size += len(payload.data)
        if items or total >= 0:
            yield Inputs(
                call_id=call_id, start=start if items else unsent_from, items=tuple(items), total=total
            )


def _nothing() -> None:
    pass
