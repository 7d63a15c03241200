"""Which hosts of this machine are alive, so that what a dead one left in the kernel can be removed by
another.

A host's bridge, firewall rules and cgroups outlive it and have its key in their names. While it lives, it
holds a lock of that name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

FOLDER = Path("/run/skylift")


class HostLock:
    """Held from `take` until `release`, or the end of this process."""

    def __init__(self, key: str, folder: Path = FOLDER) -> None:
        self._path = folder / f"{key}.lock"
        self._descriptor = -1

    def take(self) -> bool:
        """Whether it could be had: False where another process has it. Raises OSError."""
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_ours(descriptor):
                    self._descriptor = descriptor
                    return True
            except BlockingIOError:
                os.close(descriptor)
                return False
            os.close(descriptor)  # released, and the file removed, since it was opened

    def _is_ours(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1
