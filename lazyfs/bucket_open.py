"""An open file of a bucket: read from where it is, or changed in a copy on this disk and sent whole."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
from pathlib import Path

from skylift.lazyfs.bucket_objects import BLOCK, BucketObjects, Found
from skylift.lazyfs.positioned_io import write_at


class OpenFile:
    """One file, however often it is open. Thread-safe; raises OSError and `BucketError`."""

    def __init__(self, objects: BucketObjects, path: str, found: Found | None, scratch: Path) -> None:
        """`found` is None for a new one; `scratch` is a folder for the copy."""
        self.path = path
        self.users = 0
        self.removed = False
        """It has no name any more: nothing of it is sent."""
        self._objects = objects
        self._found = found or Found(False, mtime=time.time())
        self._scratch = scratch
        self._lock = threading.RLock()
        self._copy = -1
        self._dirty = False
        self._next = -1
        if found is None:
            self.begin_anew()

    @property
    def found(self) -> Found:
        """What it is now, also where that was not sent yet."""
        with self._lock:
            if self._copy < 0:
                return self._found
            status = os.fstat(self._copy)
            return Found(False, status.st_size, status.st_mtime if self._dirty else self._found.mtime)

    @property
    def dirty(self) -> bool:
        """Whether something of it was not sent yet."""
        return self._dirty and not self.removed

    def read(self, offset: int, length: int) -> tuple[bytes, int]:
        """Bytes of it, and from where on more will soon be read; -1 where that is not likely."""
        with self._lock:
            if self._copy >= 0:
                return os.pread(self._copy, length, offset), -1
            found = self._found
            data = self._objects.read(self.path, found, offset, length)
            end = offset + len(data)
            ahead = -1
            if offset == self._next and end // BLOCK != offset // BLOCK:
                ahead = (end // BLOCK + 1) * BLOCK
            self._next = end
            return data, ahead

    def read_ahead(self, offset: int) -> None:
        """Have ready what is likely to be read."""
        self._objects.read_ahead(self.path, self._found, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Change bytes of it."""
        with self._lock:
            self._need_copy()
            self._dirty = True
            write_at(self._copy, data, offset)

    def truncate(self, size: int) -> None:
        """Give it another size."""
        with self._lock:
            if size == 0:
                self.begin_anew()
                return
            self._need_copy()
            self._dirty = True
            os.ftruncate(self._copy, size)

    def begin_anew(self) -> None:
        """It is empty from now on."""
        with self._lock:
            if self._copy < 0:
                self._copy = self._new_copy()
            os.ftruncate(self._copy, 0)
            self._dirty = True

    def send(self) -> None:
        """What was changed becomes the object."""
        with self._lock:
            if self.dirty:
                self._found = self._objects.upload(self.path, self._copy)
                self._dirty = False

    def refresh(self) -> None:
        """It is opened once more: what others have made of it meanwhile counts from now on, where nothing of
        it was changed here. Raises FileNotFoundError."""
        with self._lock:
            if self._copy < 0:
                found = self._objects.find(self.path)
                if found is None or found.folder:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)
                self._found = found

    def renamed(self, path: str) -> None:
        """It has another name now, and nothing that was not sent."""
        with self._lock:
            self.path = path
            if self._copy < 0:
                self._found = self._objects.find(path) or self._found

    def close(self) -> None:
        """Nobody has it open any more."""
        with self._lock:
            if self._copy >= 0:
                os.close(self._copy)
                self._copy = -1

    def _need_copy(self) -> None:
        if self._copy >= 0:
            return
        copy = self._new_copy()
        try:
            for offset in range(0, self._found.size, BLOCK):
                data = self._objects.read(self.path, self._found, offset, BLOCK)
                if os.pwrite(copy, data, offset) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        except BaseException:
            os.close(copy)
            raise
        self._copy = copy

    def _new_copy(self) -> int:
        descriptor, name = tempfile.mkstemp(dir=self._scratch)
        os.unlink(name)
        return descriptor
