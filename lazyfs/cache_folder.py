"""A folder of blobs that may go at any time, within a budget: the local half of a `CachedStore`.

Files are in a folder that is named after the boot in which they were written. What a killed process has
written is whole all the same; what was written before the machine itself went down may not be, and is checked
against its name before its first use.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from skylift.lazyfs.store import LocalStore, StoreError, StoreFullError

_HANDED_OUT_SECONDS = 30.0
"""So long a file whose path was handed out stays, since it is to be opened."""
_HANDED_OUT_MOST = 16
"""No more files than these stay for that reason."""
_READ_SIZE = 1 << 20
_NOTE_SECONDS = 600.0
"""How old the time of the last use that is on the disk may be."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOENT})
_BLOB = re.compile(r"[0-9a-f]{64}")


class CacheFolder:
    """Blobs by their last use. Thread-safe; one process at a time has a folder."""

    def __init__(
        self,
        folder: Path,
        budget: int,
        *,
        boot: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`budget` in bytes. `boot` names the present boot of the machine, which the kernel knows.

        Raises `StoreError` where another process has the folder.
        """
        self.folder = folder
        self.budget = budget
        self._clock = clock
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        """The one that was used last is last."""
        self._noted: dict[str, float] = {}
        self._handed_out: OrderedDict[str, float] = OrderedDict()
        self._suspects: dict[str, Path] = {}
        self._total = 0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._owner = os.open(folder / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._owner)
            raise StoreError(
                f"The cache in {folder} is in use by another process. Give each its own folder."
            ) from None
        boot = boot or _this_boot()
        self.store = LocalStore(folder / f"boot-{boot}")
        for left in (self.store.folder / "tmp").iterdir():
            left.unlink(missing_ok=True)  # its writer had the folder before this process
        self._find()
        self.make_room()

    def close(self) -> None:
        """Let another process have the folder."""
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    @property
    def total(self) -> int:
        """Bytes in it."""
        return self._total

    def ready(self, blob: str, *, handed_out: bool = False) -> bool:
        """Whether the blob is here for use, now. With `handed_out` it stays for a moment."""
        with self._lock:
            if blob not in self._sizes:
                return False
            self._sizes.move_to_end(blob)
            suspect = self._suspects.get(blob)
            if handed_out:
                self._handed_out[blob] = self._clock()
                self._handed_out.move_to_end(blob)
                if len(self._handed_out) > _HANDED_OUT_MOST:
                    self._handed_out.popitem(last=False)
        if suspect is not None and not self._clear(blob, suspect):
            return False
        self._note(blob)
        return True

    def adopt(self, blob: str, size: int, file: Path | None = None) -> None:
        """Count a blob that is in `store` now, or move a file with its bytes there."""
        if file is not None:
            target = self._path(blob)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            file.replace(target)
        with self._lock:
            self._total += size - self._sizes.get(blob, 0)
            self._sizes[blob] = size
            self._sizes.move_to_end(blob)
            suspect = self._suspects.pop(blob, None)
        if suspect is not None:
            suspect.unlink(missing_ok=True)
        self._note(blob)
        self.make_room()

    def forget(self, blob: str) -> None:
        """Remove a blob, if it is here."""
        with self._lock:
            self._remove(blob)

    def make_room(self, needed: int = 0) -> None:
        """Remove what was not used for longest until `needed` bytes more are within the budget."""
        with self._lock:
            if self._total + needed <= self.budget:
                return
            now = self._clock()
            for blob in list(self._sizes):
                if now - self._handed_out.get(blob, -_HANDED_OUT_SECONDS) < _HANDED_OUT_SECONDS:
                    continue
                self._remove(blob)
                if self._total + needed <= self.budget:
                    return

    def temporary(self) -> Path:
        """Where a new file may be written, to be adopted."""
        return self.store.folder / "tmp" / f"{os.getpid()}-{secrets.token_hex(8)}"

    def _remove(self, blob: str) -> None:
        size = self._sizes.pop(blob, None)
        if size is None:
            return
        self._total -= size
        self._noted.pop(blob, None)
        self._handed_out.pop(blob, None)
        suspect = self._suspects.pop(blob, None)
        with contextlib.suppress(OSError):  # read-only now, or broken: it is not used any more
            (suspect or self._path(blob)).unlink()

    def _clear(self, blob: str, suspect: Path) -> bool:
        """Check a file that an earlier boot left."""
        try:
            with suspect.open("rb") as file:
                hasher = blake3()
                while data := file.read(_READ_SIZE):
                    hasher.update(data)
            whole = hasher.hexdigest() == blob
            if whole:
                target = self._path(blob)
                target.parent.mkdir(mode=0o700, exist_ok=True)
                suspect.replace(target)
        except OSError:
            whole = False
        if not whole:
            with self._lock:
                # Another thread may have been faster, and have moved it.
                if self._suspects.get(blob) == suspect:
                    self._remove(blob)
                    return False
                return blob in self._sizes
        with self._lock:
            self._suspects.pop(blob, None)
        return True

    def _note(self, blob: str) -> None:
        """Keep the time of use where the next process finds it, once in a while."""
        now = self._clock()
        with self._lock:
            if now - self._noted.get(blob, 0.0) < _NOTE_SECONDS:
                return
            self._noted[blob] = now
        with contextlib.suppress(OSError):
            path = self._path(blob)
            os.utime(path, ns=(int(now * 1e9), path.stat().st_mtime_ns))

    def _find(self) -> None:
        """What is here already."""
        found: list[tuple[float, str, int, Path]] = []
        for boot in self.folder.glob("boot-*"):
            if boot != self.store.folder:
                shutil.rmtree(boot / "tmp", ignore_errors=True)
            for file in boot.glob("[0-9a-f][0-9a-f]/*"):
                if _BLOB.fullmatch(blob := file.parent.name + file.name):
                    status = file.stat()
                    found.append((status.st_atime, blob, status.st_size, file))
        for used, blob, size, file in sorted(found):
            if blob in self._sizes:  # from two boots
                file.unlink()
                continue
            self._sizes[blob] = size
            self._total += size
            self._noted[blob] = used
            if not file.is_relative_to(self.store.folder):
                self._suspects[blob] = file

    def _path(self, blob: str) -> Path:
        return self.store.folder / blob[:2] / blob[2:]


def no_room(error: Exception) -> bool:
    """Whether an error of the folder's means that it cannot take a blob, which the remote store still can."""
    return isinstance(error, StoreFullError) or (
        isinstance(error, OSError) and not isinstance(error, StoreError) and error.errno in _NO_ROOM
    )


def _this_boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
