"""How far an upload or a download is: one line, in the cell or the terminal, where it takes long."""

from __future__ import annotations

import threading
import time

from skylift.outputs import Line, new_line

FIRST_AFTER = 1.0
"""Seconds before anything is shown."""
_TICK = 0.2
_BAR = 20


class TransferProgress:
    """Counts, from any thread, and shows. `close` it."""

    def __init__(self, what: str, line: Line | None = None, first_after: float | None = None) -> None:
        self._what = what
        self._line = line or new_line()
        self._began = time.monotonic()
        self._first_after = FIRST_AFTER if first_after is None else first_after
        self._updated = 0.0
        self._lock = threading.Lock()
        self._files = self._all_files = 0
        self._bytes = self._all_bytes = 0
        self._sent = 0

    def expect(self, files: int, size: int) -> None:
        """There are so many, of so many bytes together. Begins anew."""
        with self._lock:
            self._all_files, self._all_bytes = files, size
            self._files = self._bytes = 0

    def advance(self, count: int = 0, files: int = 0, sent: int = 0) -> None:
        """So many bytes more are done, of which `sent` travelled."""
        with self._lock:
            self._bytes += count
            self._files += files
            self._sent += sent
            self._all_bytes = max(self._all_bytes, self._bytes)

    def tick(self, *, now: bool = False) -> None:
        """Time has passed: for the thread that may show something."""
        clock = time.monotonic()
        if clock - self._began >= self._first_after and (now or clock - self._updated >= _TICK):
            self._updated = clock
            self._line.show(self._text())

    def close(self) -> None:
        """It is over, well or badly."""
        took = time.monotonic() - self._began
        self._line.finish_if_shown(f"{self._what}: {self._count()} in {took:.1f} s")

    def resumable(self) -> str:
        """What has been done by now is not lost."""
        with self._lock:
            return (
                f"{self._files:,} of {self._all_files:,} files ({self._bytes:,} of {self._all_bytes:,} "
                "bytes) "
                "are in the store: upload the same again within a day, and these are not sent twice."
            )

    def _text(self) -> str:
        part = self._bytes / self._all_bytes if self._all_bytes else 0.0
        filled = int(part * _BAR)
        took = max(time.monotonic() - self._began, 0.001)
        return (
            f"{self._what} {'█' * filled}{'░' * (_BAR - filled)} {part:4.0%} · {self._count()} · "
            f"{_size(self._bytes / took)}/s"
        )

    def _count(self) -> str:
        done, all_bytes = _size(self._bytes), _size(self._all_bytes)
        size = done if self._bytes == self._all_bytes else f"{done} of {all_bytes}"
        if self._all_files == 1:
            return size
        files = (
            f"{self._files:,}"
            if self._files == self._all_files
            else f"{self._files:,} of {self._all_files:,}"
        )
        return f"{files} files, {size}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
