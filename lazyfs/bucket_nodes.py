"""The numbers by which the kernel knows the paths of a bucket that it has looked up."""

from __future__ import annotations

import errno
import os
import threading

from skylift.lazyfs.fuse_protocol import ROOT


class BucketNodes:
    """Numbers of paths, for as long as the kernel remembers them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: dict[int, str] = {ROOT: ""}
        self._numbers: dict[str, int] = {"": ROOT}
        self._lookups: dict[int, int] = {}
        self._next = ROOT + 1

    def take(self, path: str) -> int:
        """The number of a path, which the kernel has looked up once more."""
        with self._lock:
            number = self._numbers.get(path)
            if number is None:
                number, self._next = self._next, self._next + 1
                self._numbers[path] = number
                self._paths[number] = path
            self._lookups[number] = self._lookups.get(number, 0) + 1
            return number

    def path(self, number: int) -> str:
        """What has the number. Raises OSError (ESTALE)."""
        with self._lock:
            if number not in self._paths:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return self._paths[number]

    def remove(self, path: str) -> int:
        """There is no such file any more, and another of that name would have another number. What its number
        was; 0 for none."""
        with self._lock:
            number = self._numbers.pop(path, 0)
            self._paths.pop(number, None)
            return number

    def move(self, source: str, target: str) -> None:
        """A file has another name now, in place of one that had it."""
        with self._lock:
            number = self._numbers.pop(source, None)
            if number is not None:
                self._numbers[target] = number
                self._paths[number] = target

    def forget(self, number: int, lookups: int) -> None:
        """The kernel has forgotten so many lookups."""
        with self._lock:
            left = self._lookups.get(number, 0) - lookups
            if left > 0:
                self._lookups[number] = left
                return
            self._lookups.pop(number, None)
            if number != ROOT:
                path = self._paths.pop(number, None)
                if path is not None and self._numbers.get(path) == number:
                    del self._numbers[path]
