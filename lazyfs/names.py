"""Names beside the store: small records that change, found by name instead of by hash.

A blob of the store never changes and says nothing of what it is for. What must be found again by others who
share the store (which snapshot belongs to this template?) is kept here, as one small value for each name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_TEMPORARY = ".new-"
_LOCK = ".lock"


def check_name(name: str) -> None:
    """Raises ValueError for what cannot be a name."""
    # Names may come from messages and become paths.
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a name here: letters, digits, . _ - in parts between slashes")


class Names(ABC):
    """Values by name; of two writers at the same time the last one wins.

    A name is made of letters, digits, ``.``, ``_`` and ``-``, in parts between slashes. Every method may
    block on a disk or a network, and raises OSError where it does not answer.
    """

    @abstractmethod
    def put(self, name: str, value: bytes) -> None:
        """Keep a value; it outlives a power failure once this returns, and readers see it whole or not at
        all."""

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """The value, or None."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Forget it; where it is not there, nothing happens."""

    @abstractmethod
    def under(self, prefix: str) -> list[str]:
        """The names that begin with ``prefix/``, sorted."""

    @abstractmethod
    def swap(self, name: str, expected: bytes | None, value: bytes) -> bool:
        """Put a value where `expected` is now (None: nothing is there); False where something else is.

        Of several who do so at the same time, one is told True: this is how a record that many change keeps
        all their changes. Of a name that is swapped, `put` would undo what others did. Over a network, an
        answer can be lost, so that False is told of what was done: read the name again.
        """


class LocalNames(Names):
    """A folder with a file for each name."""

    def __init__(self, folder: Path) -> None:
        """The folder is made with the first value."""
        self.folder = folder

    def put(self, name: str, value: bytes) -> None:
        """See `Names.put`."""
        path = self._path(name)
        try:
            self._write(path, value)
        except FileNotFoundError:  # another has just deleted the last name in this folder, and the folder
            self._write(path, value)

    def get(self, name: str) -> bytes | None:
        """See `Names.get`."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        """See `Names.delete`."""
        path = self._path(name)
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.folder:
                break
            with contextlib.suppress(OSError):  # something else is in there
                folder.rmdir()

    def under(self, prefix: str) -> list[str]:
        """See `Names.under`."""
        found = []
        for folder, _, files in os.walk(self._path(prefix)):
            within = Path(folder).relative_to(self.folder)
            found += [str(within / file) for file in files if not file.startswith(_TEMPORARY)]
        return sorted(found)

    def swap(self, name: str, expected: bytes | None, value: bytes) -> bool:
        """See `Names.swap`. The lock is released by the kernel where its holder is killed."""
        check_name(name)
        with self._locked():
            if self.get(name) != expected:
                return False
            self.put(name, value)
            return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Opened each time: a lock is that of an open file, so it keeps threads apart too.
        lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, path: Path, value: bytes) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.parent / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(value)
                file.flush()
                os.fdatasync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)

    def _path(self, name: str) -> Path:
        check_name(name)
        return self.folder / name


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
