"""Interrupting the kernel while a cell runs elsewhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType


class Interrupts:
    """While entered, passes the kernel's interrupts on instead of raising KeyboardInterrupt here.

    So none of what the cell puts out is lost halfway. The first one calls `first`, the second `second`,
    both in a thread of their own; from the third on KeyboardInterrupt is raised here after all. Outside the
    main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self, first: Callable[[], None], second: Callable[[], None]) -> None:
        self._actions = [first, second]
        self._previous: object = None
        self._entered = False
        self.happened = False
        """Whether there was one."""

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._interrupted)
            self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered:
            signal.signal(signal.SIGINT, self._previous)  # type: ignore[arg-type]

    def _interrupted(self, signum: int, frame: FrameType | None) -> None:
        self.happened = True
        if not self._actions:
            raise KeyboardInterrupt
        # Not here: the main thread may hold a lock that the action wants.
        threading.Thread(target=self._actions.pop(0), daemon=True).start()
