"""The events of one call on their way to the host: in order, within the window, in batches.

The first item is sent at once and so is every one that comes after a pause; what comes in quick succession is
sent together, by size or age. A call that ends before anything was sent is one frame.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any

from .volumes import commit_all

if TYPE_CHECKING:
    from .link import Link
    from .pulse import Pulse

EVENT_OVERHEAD = 64
BATCH_BYTES = 64 * 1024
BATCH_AGE = 0.002
DEFAULT_WINDOW = 1024 * 1024


class Window:
    """How far a call may be ahead of its consumer, in bytes."""

    __slots__ = ("consumed", "produced", "size", "waiting")

    def __init__(self, size: int = DEFAULT_WINDOW, consumed: int = 0) -> None:
        self.size = size
        self.produced = 0
        self.consumed = consumed
        self.waiting = 0
        """Threads that wait for the consumer."""


class Stream:
    """The events of one call, or of the inputs of a map that came in one frame.

    `began` is the monotonic time at which the call (or the current input) began; `announced` whether
    `started` has been sent for it. All methods may be called from any thread, except those that end it.
    """

    def __init__(self, link: Link, pulse: Pulse, call: str, window: Window, *, prompt: bool = True) -> None:
        """`prompt`: send the first item at once. A map's results rather go together."""
        self.call = call
        self.index: int | None = None
        self.announced = False
        self.closed = False
        self.began = time.monotonic()
        self.started = time.time()
        self.first_output = 0.0
        self._link = link
        self._lock = link.lock
        self._pulse = pulse
        self._guard = pulse.guard
        self._window = window
        self._room: threading.Condition | None = None
        self._heads: list[str] = []
        self._parts: list[bytes] = []
        self._done: list[int] = []
        self._size = 0
        self._flushed = 0.0 if prompt else self.began
        self._oldest = 0.0
        self._text: list[str] = []
        self._text_size = 0
        self._text_name = ""

    # --- what the user's code produces -----------------------------------------------------------

    def output(self, name: str, text: str) -> bool:
        """Printed text. Returns False, and takes nothing, when the call is over."""
        position = 0
        while True:
            piece = text if len(text) <= BATCH_BYTES else text[position : position + BATCH_BYTES]
            with self._lock:
                if name != self._text_name and self._text:
                    self._seal()
                if self._full(self._text_size):
                    self._wait()
                if self.closed:
                    return position > 0
                if not self._text and not self._heads:
                    self._oldest = time.monotonic()
                self._text_name = name
                self._text.append(piece)
                self._text_size += len(piece)
                if self._text_size >= BATCH_BYTES:
                    self._seal()
                    self._send(time.monotonic())
                elif not self._pulse.armed:
                    self._pulse.arm()
            if self._guard.deferred:
                self._guard.deliver_deferred()
            position += len(piece)
            if position >= len(text):
                return True

    def item(self, data: bytes) -> None:
        """What a generator yielded, pickled."""
        self.add("yield", "{}", data)

    def add(self, kind: str, meta: str, data: bytes, *, done: int = -1, wait: bool = True) -> None:
        """An event; `meta` is JSON. `done`: the input of a map that this event answers. `wait`: for the
        window."""
        cost = len(data) + EVENT_OVERHEAD
        with self._lock:
            if self._text:
                self._seal()
            if wait and self._full(0):
                self._wait()
            if self.closed:
                return
            now = time.monotonic()
            if not self._heads:
                self._oldest = now
            self._window.produced += cost
            self._heads.append(f'["{kind}",{meta},{len(data)}]')
            self._parts.append(data)
            self._size += cost
            if done >= 0:
                self._done.append(done)
            if self._size >= BATCH_BYTES or now - self._flushed >= BATCH_AGE:
                self._send(now)
            elif not self._pulse.armed:
                self._pulse.arm()
        if self._guard.deferred:
            self._guard.deliver_deferred()

    def wait_for_room(self) -> None:
        """Waits until the window has room for another event."""
        if self._full(self._text_size):
            with self._lock:
                self._wait()

    def _full(self, pending: int) -> bool:
        window = self._window
        return window.produced + pending - window.consumed >= window.size

    def _wait(self) -> None:
        """Waits, with the lock let go, until the consumer has caught up or the call is over."""
        if self._text:
            self._seal()
        self._send(time.monotonic())
        if self._room is None:
            self._room = threading.Condition(self._lock)
        self._window.waiting += 1
        try:
            while self._full(0) and not self.closed:
                self._room.wait()
        finally:
            self._window.waiting -= 1

    def consumed(self, total: int) -> None:
        """The consumer has consumed so many bytes in all."""
        window = self._window
        if total > window.consumed:
            window.consumed = total
        if window.waiting:
            with self._lock:
                if self._room is not None:
                    self._room.notify_all()

    # --- maps ------------------------------------------------------------------------------------

    def begin_input(self, index: int) -> None:
        """The next input of a map begins: what comes from now on is of it."""
        with self._lock:
            if self._text:
                self._seal()
            self.index = index
            self.announced = False
            self.began = time.monotonic()

    # --- sending ---------------------------------------------------------------------------------

    def _seal(self) -> None:
        """Makes the printed text that is waiting an event."""
        data = "".join(self._text).encode("utf-8", "backslashreplace")
        self._text.clear()
        self._text_size = 0
        index = "" if self.index is None else f',"index":{self.index}'
        self._heads.append(f'["output",{{"stream":"{self._text_name}"{index}}},{len(data)}]')
        self._parts.append(data)
        cost = len(data) + EVENT_OVERHEAD
        self._size += cost
        self._window.produced += cost

    def _send(self, now: float) -> None:
        self._flushed = now
        if self._heads:
            if not self.first_output:
                self.first_output = time.time()
            self._link.send(self._header(""), self._payload())
            self._clear()

    def _header(self, end: str) -> bytes:
        events = ",".join(self._heads)
        done = f',"done":{self._done}' if self._done else ""
        return f'{{"t":"events","call":{quoted(self.call)},"events":[{events}]{done}{end}}}'.encode()

    def _payload(self) -> bytes:
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def _clear(self) -> None:
        self._heads.clear()
        self._parts.clear()
        self._done.clear()
        self._size = 0

    def flush(self) -> None:
        """Sends what is waiting."""
        with self._lock:
            if self._text:
                self._seal()
            if self._heads:
                self._send(time.monotonic())

    def flush_older_than(self, age: float, now: float) -> bool:
        """Sends what is waiting if the first of it has waited for `age` seconds; returns whether something
        waits still. Called with the lock held."""
        if not self._heads and not self._text:
            return False
        if now - self._oldest < age:
            return True
        if self._text:
            self._seal()
        self._send(now)
        return False

    def announce(self, **extra: Any) -> None:
        """Says that the call (the input) has begun."""
        with self._lock:
            self.announced = True
            if self.closed:
                return
            began = time.time() - (time.monotonic() - self.began)
            header: dict[str, Any] = {"t": "started", "call": self.call, "time": began, **extra}
            if self.index is not None:
                header["index"] = self.index
            self._link.send(json.dumps(header).encode())

    def settle(self) -> None:
        """What was written to volumes is committed before anybody hears that the call (the input) is done."""
        said = "" if self.closed else commit_all()
        if said:
            index = "" if self.index is None else f',"index":{self.index}'
            self.add("output", f'{{"stream":"stderr"{index}}}', said.encode(), wait=False)

    # --- the end ---------------------------------------------------------------------------------

    def finish(self, state: str, summary: str = "", last: Iterable[tuple[str, str, bytes]] = ()) -> None:
        """The call is over: sends what is waiting, the `last` events (kind, JSON meta, data) and the end."""
        self.settle()
        with self._lock:
            if self.closed:
                return
            if self._text:
                self._seal()
            if self._heads and not self.first_output:
                self.first_output = time.time()
            for kind, meta, data in last:
                self._heads.append(f'["{kind}",{meta},{len(data)}]')
                self._parts.append(data)
                self._window.produced += len(data) + EVENT_OVERHEAD
            end = (
                f',"end":{{"state":"{state}","summary":{quoted(summary)},"started":{self.started!r},'
                f'"first_output":{self.first_output!r},"ended":{time.time()!r}}}'
            )
            self._link.send(self._header(end), self._payload())
            self._close()

    def close(self) -> None:
        """Sends what is waiting. A map's frame of inputs is through; there is no end."""
        with self._lock:
            if not self.closed:
                self.flush()
                self._close()

    def forked(self) -> None:
        """In a forked child: this is the parent's call to answer."""
        self._lock = threading.RLock()
        self.closed = True

    def _close(self) -> None:
        self.closed = True
        self._clear()
        if self._room is not None:
            self._room.notify_all()
