"""A store in front of which it is remembered which blobs are there: for who may not wait for a network."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from skylift.lazyfs.listing import StoredBlob, stored_blobs
from skylift.lazyfs.store import BlobMissingError, Bytes, Store

SECONDS = 3600.0
"""For so long: a collector of another machine deletes nothing that is younger than a day."""
_MOST = 100_000


class RememberedSizes(Store):
    """`behind`, whose `has` and `size` are answered at once for blobs that were put, read or asked for
    through here within an hour. Thread-safe."""

    def __init__(self, behind: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self.behind = behind
        self._clock = clock
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def put(self, data: Bytes, *, durable: bool = False) -> str:
        """See `Store.put`."""
        blob = self.behind.put(data, durable=durable)
        self._remember(blob, memoryview(data).nbytes)
        return blob

    def put_stream(self, chunks: Iterable[Bytes], *, durable: bool = False) -> tuple[str, int]:
        """See `Store.put_stream`."""
        blob, size = self.behind.put_stream(chunks, durable=durable)
        self._remember(blob, size)
        return blob, size

    def get(self, blob: str) -> bytes:
        """See `Store.get`."""
        return self.behind.get(blob)

    def view(self, blob: str) -> memoryview:
        """See `Store.view`."""
        return self.behind.view(blob)

    def path(self, blob: str) -> Path:
        """See `Store.path`."""
        return self.behind.path(blob)

    def has(self, blob: str) -> bool:
        """See `Store.has`."""
        try:
            self.size(blob)
        except BlobMissingError:
            return False
        return True

    def size(self, blob: str) -> int:
        """See `Store.size`."""
        with self._lock:
            when, size = self._sizes.get(blob, (0.0, -1))
        if size >= 0 and self._clock() - when < SECONDS:
            return size
        try:
            size = self.behind.size(blob)
        except BlobMissingError:
            self._forget(blob)
            raise
        self._remember(blob, size)
        return size

    def settle(self) -> None:
        """See `Store.settle`."""
        self.behind.settle()

    def there(self) -> bool:
        """See `Store.there`."""
        return self.behind.there()

    def delete(self, blob: str) -> None:
        """See `Store.delete`."""
        self._forget(blob)
        self.behind.delete(blob)

    def blobs(self) -> Iterator[StoredBlob]:
        """See `Listed.blobs`."""
        return stored_blobs(self.behind)

    def _remember(self, blob: str, size: int) -> None:
        with self._lock:
            self._sizes[blob] = self._clock(), size
            self._sizes.move_to_end(blob)
            if len(self._sizes) > _MOST:
                self._sizes.popitem(last=False)

    def _forget(self, blob: str) -> None:
        with self._lock:
            self._sizes.pop(blob, None)
