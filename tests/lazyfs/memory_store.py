"""A store and names in memory, where a test can come between any two of their operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from skylift.lazyfs.listing import StoredBlob
from skylift.lazyfs.names import Names, check_name
from skylift.lazyfs.store import BlobMissingError, Bytes, Store, blob_name


class Killed(BaseException):
    """The process that did this is gone: nothing of it runs any more."""


class World:
    """What both share: a clock, and what comes before each operation."""

    def __init__(self) -> None:
        self.now = 1e9
        self.before: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.now


class MemoryStore(Store):
    def __init__(self, world: World) -> None:
        self.world = world
        self.data: dict[str, bytes] = {}
        self.written: dict[str, float] = {}

    def put(self, data: Bytes, *, durable: bool = False) -> str:
        self.world.before()
        blob = blob_name(data)
        if blob not in self.data:  # as in a folder: what is there stays as it is
            self.data[blob] = bytes(data)
            self.written[blob] = self.world.now
        return blob

    def put_stream(self, chunks: Iterable[Bytes], *, durable: bool = False) -> tuple[str, int]:
        data = b"".join(bytes(chunk) for chunk in chunks)
        return self.put(data), len(data)

    def get(self, blob: str) -> bytes:
        self.world.before()
        if blob not in self.data:
            raise BlobMissingError(blob, "memory")
        return self.data[blob]

    def view(self, blob: str) -> memoryview:
        return memoryview(self.get(blob))

    def path(self, blob: str) -> Path:
        raise NotImplementedError

    def has(self, blob: str) -> bool:
        self.world.before()
        return blob in self.data

    def size(self, blob: str) -> int:
        return len(self.get(blob))

    def delete(self, blob: str) -> None:
        self.world.before()
        self.data.pop(blob, None)

    def blobs(self) -> Iterator[StoredBlob]:
        for blob, data in list(self.data.items()):
            self.world.before()
            yield StoredBlob(blob, len(data), self.written[blob])


class MemoryNames(Names):
    def __init__(self, world: World) -> None:
        self.world = world
        self.values: dict[str, bytes] = {}

    def put(self, name: str, value: bytes) -> None:
        check_name(name)
        self.world.before()
        self.values[name] = value

    def get(self, name: str) -> bytes | None:
        self.world.before()
        return self.values.get(name)

    def delete(self, name: str) -> None:
        self.world.before()
        self.values.pop(name, None)

    def under(self, prefix: str) -> list[str]:
        self.world.before()
        return sorted(name for name in self.values if name.startswith(f"{prefix}/"))

    def swap(self, name: str, expected: bytes | None, value: bytes) -> bool:
        self.world.before()
        if self.values.get(name) != expected:
            return False
        self.values[name] = value
        return True
