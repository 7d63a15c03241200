"""A store far away with a folder in front of it, which keeps what was used last within a budget of bytes.

The store far away is the one that counts: a blob is put there before `put` returns, and whether a blob is
there is asked there, so that nothing is built on what only this machine has. Blobs never change, so that what
the folder has is right without asking. Where its disk is full or broken, everything goes on without it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar, runtime_checkable

from skylift.lazyfs.cache_folder import CacheFolder, no_room
from skylift.lazyfs.listing import StoredBlob, stored_blobs
from skylift.lazyfs.store import BlobDamagedError, BlobMissingError, Bytes, Store

_T = TypeVar("_T")


@runtime_checkable
class FetchesFiles(Protocol):
    """A store that can write a blob to a file, without holding it in memory."""

    def fetch_to(self, blob: str, path: Path) -> int:
        """Write the blob's bytes, checked, to a new file; return how many."""


class CachedStore(Store):
    """`remote`, with a folder in front of it. Thread-safe."""

    def __init__(self, remote: Store, folder: CacheFolder) -> None:
        self.remote = remote
        self.folder = folder
        self._lock = threading.Lock()
        self._arriving: dict[str, Future[bool]] = {}
        self._too_large: set[str] = set()
        """Those that were larger than the whole budget: not fetched for the folder again."""

    def close(self) -> None:
        """Let another process have the folder."""
        self.folder.close()

    def put(self, data: Bytes, *, durable: bool = False) -> str:
        """See `Store.put`. Raises what the remote store raises."""
        blob = self.remote.put(data, durable=durable)
        with self._without_room():
            size = memoryview(data).nbytes
            if self._fits(blob, size):
                self.folder.store.put(data)
                self.folder.adopt(blob, size)
        return blob

    def put_stream(self, chunks: Iterable[Bytes], *, durable: bool = False) -> tuple[str, int]:
        """See `Store.put_stream`. Raises what the remote store raises."""
        copy = _Copy(self.folder)
        try:
            blob, size = self.remote.put_stream(copy.passing(chunks), durable=durable)
            with self._without_room():
                copy.adopt(blob, size)
        finally:
            copy.discard()
        return blob, size

    def get(self, blob: str) -> bytes:
        """See `Store.get`."""
        return self._read(blob, self.folder.store.get, self.remote.get)

    def view(self, blob: str) -> memoryview:
        """See `Store.view`: it stays whole when the folder lets go of the blob."""
        return self._read(blob, self.folder.store.view, self.remote.view)

    def path(self, blob: str) -> Path:
        """See `Store.path`: the file stays for some seconds, and for as long as somebody has it open."""
        return self._read(blob, self.folder.store.path, self.remote.path, handed_out=True)

    def has(self, blob: str) -> bool:
        """See `Store.has`: whether the remote store has it."""
        return self.remote.has(blob)

    def size(self, blob: str) -> int:
        """See `Store.size`; of the remote store, unless that does not answer."""
        try:
            return self.remote.size(blob)
        except OSError:
            if not self.folder.ready(blob):
                raise
            return self.folder.store.size(blob)

    def settle(self) -> None:
        """See `Store.settle`: of the remote store. What the folder loses is fetched again."""
        self.remote.settle()

    def there(self) -> bool:
        """See `Store.there`."""
        return self.remote.there()

    def delete(self, blob: str) -> None:
        """See `Store.delete`."""
        self.folder.forget(blob)
        self.remote.delete(blob)

    def blobs(self) -> Iterator[StoredBlob]:
        """See `Listed.blobs`: what the remote store has."""
        return stored_blobs(self.remote)

    def _read(
        self, blob: str, here: Callable[[str], _T], there: Callable[[str], _T], *, handed_out: bool = False
    ) -> _T:
        for brought in (False, True):
            if self.folder.ready(blob, handed_out=handed_out):
                try:
                    return here(blob)
                except BlobMissingError:  # just let go of, or removed by hand
                    self.folder.forget(blob)
                except BlobDamagedError:
                    self.folder.forget(blob)
                except OSError as error:
                    if not no_room(error):
                        raise
                    break
            if brought or blob in self._too_large or not self._bring(blob):
                break
        return there(blob)

    def _bring(self, blob: str) -> bool:
        """Have the blob in the folder, if that can take it; many who want it at once fetch it once."""
        with self._lock:
            arriving = self._arriving.get(blob)
            if arriving is None:
                mine = self._arriving[blob] = Future()
        if arriving is not None:
            return arriving.result()
        came = False
        try:
            with self._without_room():
                came = self._fetch(blob)
        except Exception as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._arriving[blob]
            if not mine.done():
                mine.set_result(came)
        return came

    def _fetch(self, blob: str) -> bool:
        if self.folder.ready(blob):
            return True  # another brought it since this thread looked
        if not isinstance(self.remote, FetchesFiles):
            data = self.remote.get(blob)
            if not self._fits(blob, len(data)):
                return False
            self.folder.store.put(data)
            self.folder.adopt(blob, len(data))
            return True
        file = self.folder.temporary()
        try:
            size = self.remote.fetch_to(blob, file)
            if not self._fits(blob, size):
                return False
            self.folder.adopt(blob, size, file)
        finally:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        return True

    def _fits(self, blob: str, size: int) -> bool:
        if size > self.folder.budget:
            self._too_large.add(blob)
            return False
        self.folder.make_room(size)
        return True

    @contextlib.contextmanager
    def _without_room(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not no_room(error):
                raise


class _Copy:
    """A stream's bytes, kept on their way where there is room."""

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder
        self._path = folder.temporary()
        self._file: BinaryIO | None = None

    def passing(self, chunks: Iterable[Bytes]) -> Iterator[Bytes]:
        size = 0
        with contextlib.suppress(OSError):
            self._file = self._path.open("xb", buffering=0)
        for chunk in chunks:
            size += memoryview(chunk).nbytes
            if self._file is not None:
                try:
                    if size > self._folder.budget:
                        self.discard()
                    else:
                        self._folder.make_room(size)
                        self._write(self._file, memoryview(chunk).cast("B"))
                except OSError:
                    self.discard()
            yield chunk

    def adopt(self, blob: str, size: int) -> None:
        if self._file is not None:
            self._folder.adopt(blob, size, self._path)

    def discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _write(self, file: BinaryIO, view: memoryview) -> None:
        while view:
            view = view[file.write(view) :]
