"""What is fetched now, by whom, and who waits for it, never for ever."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from skylift.lazyfs.store import Bytes

log = logging.getLogger(__name__)

_WANTED_THREADS = 16
_AHEAD_THREADS, _AHEAD_THREADS_NEAR = 6, 2
"""That fetch what nobody waits for yet; from a store on this machine it is the processor that takes time."""
_AHEAD_NICE = 5
"""They are to leave the processor to who waits, and to the programs that read."""
_PATIENCE = 60.0
"""Seconds that a read waits for the store before it fails."""
_LOOKS = 20
"""How often within that time it is looked who has waited too long."""


class Flight:
    """One chunk on its way."""

    def __init__(self, bring: Callable[[], Bytes | None], land: Callable[[Bytes | None], None]) -> None:
        """`bring` returns the chunk's bytes, or None where they are on the disk already; `land` gets the same
        (None after an error, too) once those who wait have their answer, and puts it there."""
        self._bring = bring
        self._land = land
        self._lock = threading.Lock()
        self._begun = False
        self.hurried = False
        self.future: Future[Bytes | None] = Future()
        self.landed = threading.Event()

    def run(self) -> None:
        """Called by a thread of `Fetching`; a second call does nothing."""
        with self._lock:
            if self._begun:
                return
            self._begun = True
        data = None
        if self.future.set_running_or_notify_cancel():
            try:
                data = self._bring()
                self.future.set_result(data)
            except BaseException as error:  # goes to who waits
                self.future.set_exception(error)
        try:
            self._land(data)
        finally:
            self.landed.set()


class Waiting:
    """A read that needs some flights to land. Says once what came of it."""

    def __init__(
        self,
        flights: Sequence[Flight],
        done: Callable[[Sequence[Bytes | None]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """`done` hears what each flight returned, `failed` the first error."""
        self.flights = flights
        self._done = done
        self._failed = failed
        self._left = len(flights)
        self._lock = threading.Lock()
        self._over = False
        self.since = time.monotonic()

    def watch(self, over: Callable[[Waiting], None]) -> None:
        """Begin to wait; `over` is called at the end."""
        self._when_over = over
        for flight in self.flights:
            flight.future.add_done_callback(self._landed)

    def give_up(self, error: BaseException) -> None:
        """Fail, unless it is over."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self._when_over(self)
        self._failed(error)

    def _landed(self, future: Future[Bytes | None]) -> None:
        if future.cancelled():
            self.give_up(OSError("the layer was removed"))
            return
        error = future.exception()
        if error is not None:
            self.give_up(error)
            return
        with self._lock:
            self._left -= 1
            if self._left or self._over:
                return
            self._over = True
        self._when_over(self)
        self._done([flight.future.result() for flight in self.flights])


def _be_nice() -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _AHEAD_NICE)


class Fetching:
    """The threads that fetch chunks, for all layers of a host: some for who waits, fewer for who may."""

    def __init__(self, *, patience: float = _PATIENCE, near: bool = False) -> None:
        """`patience`: seconds that a read waits for the store before it fails. `near`: the store is on this
        machine's disk."""
        self.patience = patience
        self._near = near
        self._wanted = ThreadPoolExecutor(_WANTED_THREADS, thread_name_prefix="wanted")
        self._ahead = ThreadPoolExecutor(
            _AHEAD_THREADS_NEAR if near else _AHEAD_THREADS, thread_name_prefix="ahead", initializer=_be_nice
        )
        self._waiting: set[Waiting] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="patience", daemon=True).start()

    def start(self, flight: Flight) -> None:
        """Fetch, since somebody waits for it; one that waits among those ahead overtakes them."""
        if not flight.hurried:
            flight.hurried = True
            self._wanted.submit(flight.run)

    def start_ahead(self, flight: Flight) -> None:
        """Fetch when there is time."""
        self._ahead.submit(flight.run)

    def wait(self, waiting: Waiting) -> None:
        """Start what a read waits for, and have it wait, for so long as there is patience.

        From a store that is near, the caller's own thread fetches one of them: to wake another takes as long.
        """
        with self._lock:
            self._waiting.add(waiting)
        waiting.watch(self._over)
        for flight in waiting.flights[1:] if self._near else waiting.flights:
            self.start(flight)
        if self._near:
            waiting.flights[0].run()

    def close(self) -> None:
        """Fetch no more; what runs ends by itself."""
        self._closed.set()
        self._wanted.shutdown(wait=False, cancel_futures=True)
        self._ahead.shutdown(wait=False, cancel_futures=True)

    def _over(self, waiting: Waiting) -> None:
        with self._lock:
            self._waiting.discard(waiting)

    def _watch(self) -> None:
        while not self._closed.wait(self.patience / _LOOKS):
            oldest = time.monotonic() - self.patience
            with self._lock:
                late = [waiting for waiting in self._waiting if waiting.since < oldest]
            for waiting in late:
                waiting.give_up(TimeoutError(f"the store did not answer for {self.patience:g} s"))
