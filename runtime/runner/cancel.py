"""Ends the call that is named, wherever the main thread is, and no other.

A request comes from the control thread. It is delivered by a signal to the main thread, so that a blocking
system call wakes, and raised by the signal's handler in the user's code. The handler looks again at what is
running; where it cannot raise (our own code runs, or a frame is half sent) it does nothing, and `Guard.kick`
is called again soon, until the request is delivered or its call is over.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import asyncio
    from types import FrameType

# Real-time signals are the ones that programs leave alone; the first few belong to C libraries.
SIGNAL = signal.SIGRTMIN + 9

_REMEMBERED = 256


class InputCancellation(BaseException):
    """The call was cancelled. Not an Exception, so that ``except Exception`` does not swallow it.

    Stands in for `skylift.exceptions.InputCancellation` where the user's code has not imported that.
    """


def cancellation_type() -> type[BaseException]:
    """The class that the user's code can know."""
    theirs = getattr(sys.modules.get("skylift.exceptions"), "InputCancellation", None)
    return theirs if isinstance(theirs, type) else InputCancellation


class Request(NamedTuple):
    """A `cancel` message."""

    mode: str
    """``interrupt``, ``cancel`` or ``timeout``."""
    reason: str
    input: int | None
    """One input of a map; None is the whole call."""


class Guard:
    """What runs in the main thread, and the requests to end it.

    `active` is True only while an exception may be raised in the main thread: while the user's code runs, or
    ours that is safe to leave at any point.
    """

    def __init__(self, held: Callable[[], bool]) -> None:
        self.active = False
        self.delivered: Request | None = None
        """What has been raised in the call that runs."""
        self.deferred = False
        """A request found a frame half sent, or an event loop about to stop; `deliver_deferred` is due
        then."""
        self.stopping: Request | None = None
        """Ends whatever runs from now on."""
        self.task: asyncio.Task[Any] | None = None
        self._held = held
        self._call = ""
        self._index: int | None = None
        self._requests: OrderedDict[str, list[Request]] = OrderedDict()
        self._lock = threading.Lock()
        self._main = threading.main_thread().ident or 0
        self._next_kick = 0.0
        self._pause = 0.0

    def install(self) -> None:
        """Takes over the signal, and SIGINT, which is for the user's code alone. Only in the main thread."""
        signal.signal(SIGNAL, self._deliver)
        signal.signal(signal.SIGINT, self._on_sigint)

    # --- the main thread -------------------------------------------------------------------------

    def begin(self, call: str, index: int | None = None) -> Request | None:
        """From now on this call (this input) is what runs. Returns the request that came before it, if
        any."""
        self.delivered = None
        self.deferred = False
        self._call = call
        self._index = index
        if self.stopping is not None or self._requests:
            self.delivered = self._take()
        return self.delivered

    @property
    def running(self) -> tuple[str, int | None]:
        """The call that runs ("" for none), and which of its inputs."""
        return self._call, self._index

    def end(self, *, forget: bool = True) -> None:
        """Nothing runs. Requests for the call that ran are dropped, unless more of it may come."""
        call, self._call = self._call, ""
        if forget and self._requests:
            with self._lock:
                self._requests.pop(call, None)

    def _take(self) -> Request | None:
        """The request for what runs. One for a whole map stays, for the inputs that follow."""
        if self.stopping is not None and self.delivered is not self.stopping:
            return self.stopping
        with self._lock:
            requests = self._requests.get(self._call)
            if not requests:
                return None
            for request in requests:
                if request.input is None or request.input == self._index:
                    if self._index is None or request.input is not None:
                        requests.remove(request)
                        if not requests:
                            del self._requests[self._call]
                    elif self.delivered is request:
                        continue
                    return request
            return None

    def _deliver(self, _number: int, _frame: FrameType | None) -> None:
        if not self.active:
            return
        if self._held() or (self.task is not None and self.task.done()):
            self.deferred = True
            return
        # A signal that comes meanwhile finds nothing active. It is repeated as long as it is wanted.
        self.active = False
        try:
            self._raise()
        finally:
            self.active = True

    def _raise(self) -> None:
        """Raises what is requested, or has the task that runs see it."""
        request = self._take()
        if request is None:
            return
        if self.delivered is None or self.delivered.mode == "interrupt":
            self.delivered = request
        task = self.task
        if task is not None:
            import asyncio

            loop = task.get_loop()
            if asyncio.current_task(loop) is not task:
                # The loop itself must not be interrupted; the task will see CancelledError where it waits.
                loop.call_soon_threadsafe(task.cancel)
                return
        if request.mode == "interrupt":
            raise KeyboardInterrupt
        raise cancellation_type()(request.reason)

    def _on_sigint(self, _number: int, _frame: FrameType | None) -> None:
        if self.active and self.task is None and not self._held():
            raise KeyboardInterrupt

    def deliver_deferred(self) -> None:
        """Raises in the main thread what could not be raised a moment ago. Does nothing in other threads."""
        if threading.get_ident() == self._main:
            self.deferred = False
            self._deliver(SIGNAL, None)

    # --- other threads ---------------------------------------------------------------------------

    def request(self, call: str, request: Request) -> None:
        """Notes a request, which may be for a call that has not come yet."""
        with self._lock:
            self._requests.setdefault(call, []).append(request)
            self._requests.move_to_end(call)
            while len(self._requests) > _REMEMBERED:
                self._requests.popitem(last=False)
        self._pause = 0.0
        self._next_kick = 0.0
        self.kick()

    def wanted(self) -> bool:
        """Whether a request for what runs waits to be delivered."""
        if self.stopping is not None and self.delivered is not self.stopping:
            return True
        return any(
            (request.input is None or request.input == self._index) and request is not self.delivered
            for request in tuple(self._requests.get(self._call, ()))
        )

    def kick(self) -> None:
        """Signals the main thread if there is something to deliver; more and more rarely, because system
        calls in C code may not like to be interrupted for ever."""
        now = time.monotonic()
        if now < self._next_kick or not self.wanted():
            return
        self._pause = min(0.2, self._pause * 2 or 0.002)
        self._next_kick = now + self._pause
        signal.pthread_kill(self._main, SIGNAL)
