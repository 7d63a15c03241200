"""The thread that looks after a call that takes long.

It sends what has been waiting in the buffer, says `started`, and repeats a cancellation until it has been
delivered. It exists only while there is such a thing to do or calls follow one another; a call on the hot
path finds it running, or starts it, and otherwise pays nothing for it.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cancel import Guard
    from .stream import Stream

STARTED_AFTER = 0.02
FLUSH_AFTER = 0.003
_KEPT = 1.0


class Pulse:
    """`stream` is the call that runs, or None. `armed` says that its buffer is being looked after."""

    def __init__(self, lock: threading.RLock, guard: Guard) -> None:
        self.stream: Stream | None = None
        self.armed = False
        self._lock = lock
        self.guard = guard
        self._running = False
        self._last_begin = 0.0
        self._wake = threading.Event()

    def begin(self, stream: Stream) -> None:
        """A call begins."""
        self.stream = stream
        self._last_begin = stream.began
        if not self._running:
            self._start()

    def end(self) -> None:
        """No call runs."""
        self.stream = None

    def arm(self) -> None:
        """The buffer is no longer empty. Called with the lock held."""
        self.armed = True
        self.hurry()

    def hurry(self) -> None:
        """Look sooner than planned."""
        if self._running:
            self._wake.set()
        else:
            self._start()

    def forked(self) -> None:
        """In a forked child there is no such thread, and nothing for it to do."""
        self.stream = None
        self.armed = False
        self._running = True
        self._lock = threading.RLock()

    def _start(self) -> None:
        with self._lock:
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="skylift-pulse", daemon=True).start()

    def _run(self) -> None:
        while True:
            pause = self._next_pause()
            if pause == 0:
                with self._lock:
                    self._running = False
                    # A call that began just now has seen us running and relies on it.
                    if self._next_pause() == 0:
                        return
                    self._running = True
                continue
            if self._wake.wait(pause):
                self._wake.clear()
            else:
                self._beat()

    def _next_pause(self) -> float:
        """Seconds until there may be something to do; 0 when nothing is to be expected."""
        if self.armed or self.guard.wanted():
            return FLUSH_AFTER
        if self.stream is not None and not self.stream.announced:
            return STARTED_AFTER
        if time.monotonic() - self._last_begin < _KEPT:
            return STARTED_AFTER
        return 0

    def _beat(self) -> None:
        with self._lock:
            stream = self.stream
            if stream is None:
                self.armed = False
            else:
                now = time.monotonic()
                if not stream.announced and now - stream.began >= STARTED_AFTER:
                    stream.announce()
                self.armed = stream.flush_older_than(FLUSH_AFTER, now)
        self.guard.kick()
