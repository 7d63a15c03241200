"""What a build tells while it goes on."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

from skylift.wire import BuildOutput

_PAUSE = 0.1
"""Seconds between two messages at least."""
_MOST_TEXT = 256 * 1024
"""Bytes that wait to be sent; of more, the middle is left out."""
_LAST_LINES = 20


class BuildLog:
    """Gathers what a build prints and does, and sends it in a few messages. `text` and `moved` may be called
    from any thread, the others on the event loop."""

    def __init__(self, build_id: str, steps: int, send: Callable[[BuildOutput], None]) -> None:
        """`send` is called on the event loop that this is made on."""
        self._build_id = build_id
        self._steps = steps
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._step = 0
        self._label = ""
        self._text: list[str] = []
        self._size = 0
        self._left_out = 0
        self._moved = (0, 0)
        self._changed = False
        self._timer: asyncio.TimerHandle | None = None
        self._last: deque[str] = deque(maxlen=_LAST_LINES)

    def begin(self, step: int, label: str) -> None:
        """A step has begun."""
        self._flush()
        self._step, self._label = step, label
        self._last.clear()
        self._changed = True
        self._flush()

    def end(self, state: Literal["done", "cached"]) -> None:
        """It is over."""
        self._flush()
        self._send(self._message(state))

    def text(self, text: str) -> None:
        """Something was printed."""
        with self._lock:
            self._changed = True
            if self._size < _MOST_TEXT:
                self._text.append(text)
                self._size += len(text)
            else:
                self._left_out += len(text)
            pieces = (self._last.pop() + text if self._last else text).split("\n")
            # A progress bar writes over its own line.
            self._last.extend(piece.rstrip("\r").rpartition("\r")[2] for piece in pieces)
        self._soon()

    def moved(self, done: int, total: int) -> None:
        """So many bytes of so many are in the store."""
        with self._lock:
            self._moved = (done, total)
            self._changed = True
        self._soon()

    def last_lines(self) -> list[str]:
        """What the step printed last."""
        with self._lock:
            return [line for line in self._last if line.strip()]

    def close(self) -> None:
        """Send what waits, and nothing more."""
        self._flush()

    def _soon(self) -> None:
        if self._timer is None:
            self._loop.call_soon_threadsafe(self._start_timer)

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(_PAUSE, self._flush)

    def _flush(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if self._changed:
            self._send(self._message("running"))

    def _message(self, state: Literal["running", "done", "cached"]) -> BuildOutput:
        with self._lock:
            text = "".join(self._text)
            if self._left_out:
                text += f"\n… {self._left_out:,} characters were left out …\n"
            done, total = self._moved
            self._text, self._size, self._left_out, self._moved, self._changed = [], 0, 0, (0, 0), False
        return BuildOutput(
            build_id=self._build_id,
            step=self._step,
            steps=self._steps,
            state=state,
            label=self._label,
            text=text,
            done=done,
            total=total,
        )
