"""A cell that runs in a session, as a stream of events and statuses."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from queue import Empty
from typing import TYPE_CHECKING, Any, TypeAlias

from skylift.calls import RemoteCall, unexpected_end
from skylift.remote_errors import rebuild
from skylift.serialization import loads
from skylift.wire import CallStatus, Cancel, CancelMode, End, Event, Events, Status

if TYPE_CHECKING:
    from skylift.session import Session

CellItem: TypeAlias = "Event | CallStatus"


class CellRun:
    """A cell that runs in a session.

    ::

        for item in run: ...

    or, to look at the clock in between, ``run.next(timeout=0.5)``, which gives None when nothing came. Items
    are `wire.Event` (output, display, clear, value, error), in their order and each exactly once, and
    `wire.CallStatus` when the status changes. What the cell assigned is not among them: see `assigned`.
    """

    end: End | None
    """How it ended, once iteration has stopped."""
    status: CallStatus | None
    """The latest status."""
    assigned: dict[str, Any]
    """After the end: the names that the cell assigned, as values or `RemoteRef`."""
    gone: tuple[str, ...]
    """After the end: names that were to come back and are unbound in the session."""
    error: BaseException | None
    """After the end: what the cell raised, with the remote traceback; None if it did not."""

    def __init__(
        self,
        session: Session,
        call: RemoteCall,
        *,
        again: Callable[[], RemoteCall] | None = None,
        followed: bool = True,
    ) -> None:
        self.end = None
        self.status = None
        self.assigned = {}
        self.gone = ()
        self.error = None
        self._session = session
        self._call = call
        self._again = again
        self._followed = followed
        self._items: deque[CellItem] = deque()
        self._missing = False

    @property
    def call_id(self) -> str:
        """Id of the call, for ``%gpu attach``."""
        return self._call.call_id

    def next(self, timeout: float | None = None) -> CellItem | None:
        """The next item, or None when none came within `timeout` seconds.

        Raises StopIteration at the end, and what the gateway refuses the cell with.
        """
        if not self._followed:
            self._followed = True
            self._call.client.call(self._call)
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._items:
            if self.end is not None:
                raise StopIteration
            self._call.consume()
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                _, message = self._call.mailbox.take(left)
            except Empty:
                return None
            if isinstance(message, Status):
                self._take_status(message.status)
                continue
            for event in self._call.take_in(message):
                self._take_event(event)
            if isinstance(message, Events) and self._call.end is not None:
                self._take_end(self._call.end)
        return self._items.popleft()

    def __iter__(self) -> CellRun:
        return self

    def __next__(self) -> CellItem:
        while True:
            item = self.next()
            if item is not None:
                return item

    def interrupt(self) -> None:
        """Raises KeyboardInterrupt in the cell (takes it out of the queue if it has not started)."""
        self._end("interrupt", "interrupted in the notebook")

    def cancel(self) -> None:
        """Ends the cell for good, whatever it does about an interrupt."""
        self._end("cancel", "cancelled in the notebook")

    def detach(self) -> None:
        """Stops following; the cell runs on. Take it up again with `Session.attach`."""
        self._call.detach()

    def _end(self, mode: CancelMode, reason: str) -> None:
        if self._followed:
            self._call.cancel(mode, reason)
        else:
            self._call.client.send(Cancel(call_id=self.call_id, mode=mode, reason=reason))

    def _take_status(self, status: CallStatus) -> None:
        self.status = status
        if status.container is not None:
            self._session._container = status.container
        self._items.append(status)

    def _take_event(self, event: Event) -> None:
        if event.kind == "names":
            self._take_names(event)
            return
        if event.kind == "error":
            self.error = rebuild(event.meta, self._data(event))
        elif event.blob:
            event = Event(event.kind, event.meta, self._data(event))
        self._items.append(event)

    def _take_names(self, event: Event) -> None:
        if event.meta.get("missing"):
            self._missing = True
            return
        data, position = self._data(event), 0
        gone: list[str] = []
        for name, entry in event.meta.get("names", {}).items():
            if "ref" in entry:
                self.assigned[name] = self._session._references.of(entry["ref"])
            elif "length" in entry:
                part = data[position : position + entry["length"]]
                position += entry["length"]
                self.assigned[name] = loads(part, f"the variable {name!r}")
            else:
                gone.append(name)
        self.gone = tuple(gone)

    def _take_end(self, end: End) -> None:
        if self._missing and self._again is not None:
            # The container is a new one, which has nothing of what we sent before. Nothing has run.
            self._missing = False
            self._call = self._again()
            self._again = None
            return
        self.end = end
        if end.state != "done" and self.error is None:
            self.error = unexpected_end(self._call, "the cell")

    def _data(self, event: Event) -> bytes:
        return self._call.client.http.get_blob(event.blob) if event.blob else event.data
