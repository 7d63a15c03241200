"""The store: bytes by their hash.

`Store` is what the other parts speak to; `LocalStore` keeps each blob as one file of a folder. A blob's name
is the BLAKE3 of its bytes as 64 hex digits, so the same bytes are kept once, and a blob never changes.

::

    StoreError
    ├── StoreFullError      no room on the disk (or over a quota)
    ├── BlobMissingError    no such blob
    └── BlobDamagedError    the bytes are not those that the name says
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from blake3 import blake3

Bytes: TypeAlias = bytes | bytearray | memoryview

_HEX = frozenset("0123456789abcdef")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_libc = ctypes.CDLL(None, use_errno=True)
_YOUNG_SECONDS = 60.0
_STALE_SECONDS = 24 * 3600
"""A temporary file that nobody has written to for so long belongs to a process that is gone."""


class StoreError(Exception):
    """The store could not do it."""


class StoreFullError(StoreError):
    """There is no room for a blob. Nothing of it is left behind."""

    def __init__(self, folder: Path, needed: int, free: int) -> None:
        super().__init__(
            f"The store in {folder} is full: {needed:,} bytes were to be written and {free:,} are free. "
            "Free some space on that disk, or set SKYLIFT_HOME to a folder on a larger one."
        )
        self.folder = folder
        self.needed = needed
        """Bytes."""
        self.free = free
        """Bytes."""


class BlobMissingError(StoreError):
    """The store has no such blob."""

    def __init__(self, blob: str, where: str) -> None:
        super().__init__(f"The store in {where} has no blob {blob}: it was deleted, or never arrived there.")
        self.blob = blob


class BlobDamagedError(StoreError):
    """A blob's bytes do not have the hash that is its name."""

    def __init__(self, blob: str, where: str) -> None:
        super().__init__(
            f"Blob {blob} in {where} is damaged: its bytes have another hash. It was removed, so that it can "
            "be sent again; check the disk if this repeats."
        )
        self.blob = blob


def blob_name(data: Bytes) -> str:
    """The name that these bytes have in every store."""
    return blake3(data).hexdigest()


class Store(ABC):
    """Where bytes live by their hash.

    The gateway puts what clients upload and hands out what they ask for; the host reads arguments and puts
    results. Both may do so at the same time for the same blob. Every method may block on a disk or a network:
    where blobs are large, call them in a thread.
    """

    @abstractmethod
    def put(self, data: Bytes, *, durable: bool = False) -> str:
        """Keep `data` and return its name.

        Called by the host for results over `INLINE_LIMIT`, and by whoever has the bytes in memory already.
        With `durable` the blob outlives a power failure once this returns, not only the end of this process.

        Raises `StoreFullError`.
        """

    @abstractmethod
    def put_stream(self, chunks: Iterable[Bytes], *, durable: bool = False) -> tuple[str, int]:
        """Keep the bytes that the chunks make up; return their name and how many there are.

        Called by the gateway for uploads. Of the bytes no more than one chunk is in memory. When `chunks`
        raises, nothing is kept and the exception goes on. Raises `StoreFullError`.
        """

    @abstractmethod
    def get(self, blob: str) -> bytes:
        """The blob's bytes, checked against its name.

        Called by the host before a call whose arguments are in the store. Raises `BlobMissingError` and
        `BlobDamagedError`.
        """

    @abstractmethod
    def view(self, blob: str) -> memoryview:
        """The same as pages of a file, which take no memory of their own.

        Called by the host for large arguments. Raises as `get` does.
        """

    @abstractmethod
    def path(self, blob: str) -> Path:
        """A local file with the blob's bytes, to be opened for reading at once and never written to.

        Called by the gateway to send a download without holding it in memory. The bytes are not checked here.
        Raises `BlobMissingError`.
        """

    @abstractmethod
    def has(self, blob: str) -> bool:
        """Whether the blob is there. Called before an upload, which it spares."""

    @abstractmethod
    def size(self, blob: str) -> int:
        """The blob's length in bytes. Raises `BlobMissingError`."""

    def settle(self) -> None:  # noqa: B027  # there may be nothing to do
        """All that was put by now, also by others, outlives a power failure once this returns.

        Called where many blobs were put, before what refers to them is written; it costs less than a
        `durable` for each. Where every put is durable, there is nothing to do. Raises OSError.
        """

    def there(self) -> bool:
        """Whether the store itself is there, where a blob is missing: a disk may not be mounted."""
        return True

    @abstractmethod
    def delete(self, blob: str) -> None:
        """Let go of the blob; where it is not there, nothing happens.

        Called when no call refers to it any more.
        """


class LocalStore(Store):
    """A folder with one file per blob: ``ab/cdef…``.

    A blob is written under ``tmp/`` and renamed when it is whole, so readers and other writers, also those in
    other processes, never see part of one.
    """

    def __init__(self, folder: Path) -> None:
        """Open the store in `folder`, which is made (mode 0700) where it is missing."""
        self.folder = folder
        self._temporary = folder / "tmp"
        self._temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remove_stale()

    def put(self, data: Bytes, *, durable: bool = False) -> str:
        """See `Store.put`."""
        blob = blob_name(data)
        if not self._has_whole(blob, len(data)):
            self._write((data,), blob, durable)
        return blob

    def put_stream(self, chunks: Iterable[Bytes], *, durable: bool = False) -> tuple[str, int]:
        """See `Store.put_stream`."""
        return self._write(chunks, None, durable)

    def get(self, blob: str) -> bytes:
        """See `Store.get`."""
        file = self._file(blob)
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            raise BlobMissingError(blob, str(self.folder)) from None
        self._check(blob, data)
        return data

    def view(self, blob: str) -> memoryview:
        """See `Store.view`."""
        with self.path(blob).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b"")
        self._check(blob, data)
        return data

    def path(self, blob: str) -> Path:
        """See `Store.path`."""
        file = self._file(blob)
        if not file.is_file():
            raise BlobMissingError(blob, str(self.folder))
        return file

    def has(self, blob: str) -> bool:
        """See `Store.has`."""
        return self._file(blob).is_file()

    def size(self, blob: str) -> int:
        """See `Store.size`."""
        try:
            return self._file(blob).stat().st_size
        except FileNotFoundError:
            raise BlobMissingError(blob, str(self.folder)) from None

    def settle(self) -> None:
        """See `Store.settle`."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if _libc.syncfs(descriptor):
                number = ctypes.get_errno()
                if number in _NO_ROOM:  # what was accepted turns out not to fit
                    raise StoreFullError(self.folder, 0, shutil.disk_usage(self.folder).free)
                raise OSError(number, os.strerror(number), str(self.folder))
        finally:
            os.close(descriptor)

    def there(self) -> bool:
        """See `Store.there`."""
        return self.folder.is_dir()

    def delete(self, blob: str) -> None:
        """See `Store.delete`."""
        self._file(blob).unlink(missing_ok=True)

    def _check(self, blob: str, data: Bytes) -> None:
        if blob_name(data) != blob:
            self.delete(blob)
            raise BlobDamagedError(blob, str(self.folder))

    def _file(self, blob: str) -> Path:
        # Names come from clients and become paths.
        if len(blob) != 64 or not _HEX.issuperset(blob):
            raise ValueError(f"{blob!r} is not the name of a blob (64 hex digits)")
        return self.folder / blob[:2] / blob[2:]

    def _has_whole(self, blob: str, size: int) -> bool:
        """And counts as put now, if so: who collects garbage leaves it alone."""
        try:
            file = self._file(blob)
            found = file.stat()
            if found.st_size == size and found.st_mtime < time.time() - _YOUNG_SECONDS:
                os.utime(file)
        except FileNotFoundError:
            return False
        return found.st_size == size

    def _write(self, chunks: Iterable[Bytes], blob: str | None, durable: bool) -> tuple[str, int]:
        temporary = self._temporary / f"{os.getpid()}-{secrets.token_hex(8)}"
        written = needed = 0
        hasher = blake3()
        try:
            with open(_create(temporary), "wb", buffering=0) as file:
                for chunk in chunks:
                    view = memoryview(chunk).cast("B")
                    if blob is None:
                        hasher.update(view)
                    needed = written + len(view)
                    while view:
                        count = file.write(view)
                        written += count
                        view = view[count:]
                if durable:
                    os.fdatasync(file.fileno())
            if blob is None:
                blob = hasher.hexdigest()
            target = self._file(blob)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            temporary.replace(target)
            if durable:
                _sync_folder(target.parent)
                _sync_folder(self.folder)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno in _NO_ROOM:
                raise StoreFullError(self.folder, needed, shutil.disk_usage(self.folder).free) from error
            raise
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return blob, written

    def _remove_stale(self) -> None:
        oldest = time.time() - _STALE_SECONDS
        for file in self._temporary.iterdir():
            # Another process may finish or remove its file meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_mtime < oldest:
                    file.unlink()


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
