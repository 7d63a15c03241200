"""Which blobs a store has: for who collects garbage, and for who shows what takes room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from skylift.lazyfs.store import BlobMissingError, LocalStore, Store


class StoredBlob(NamedTuple):
    """One blob, as the store has it."""

    blob: str
    size: int
    """Bytes."""
    written: float
    """When it was put; seconds since 1970, by the clock of where it is kept."""


@runtime_checkable
class Listed(Protocol):
    """A store that can say which blobs it has."""

    def blobs(self) -> Iterator[StoredBlob]:
        """Every blob, in no order; one that comes or goes meanwhile may be in it or not."""


def stored_blobs(store: Store) -> Iterator[StoredBlob]:
    """Every blob of a store, as `Listed.blobs`. Raises TypeError for a store that cannot say."""
    if isinstance(store, Listed):
        return store.blobs()
    if isinstance(store, LocalStore):
        return _local_blobs(store)
    raise TypeError(f"{type(store).__name__} cannot list its blobs")


def put_again(store: Store, found: StoredBlob) -> bool:
    """Whether a blob was put once more since it was listed, where the store can tell that cheaply."""
    try:
        return isinstance(store, LocalStore) and store.path(found.blob).stat().st_mtime != found.written
    except (BlobMissingError, FileNotFoundError):
        return False


def _local_blobs(store: LocalStore) -> Iterator[StoredBlob]:
    for folder in sorted(store.folder.glob("[0-9a-f][0-9a-f]")):
        for file in folder.iterdir():
            try:
                found = file.stat()
            except FileNotFoundError:
                continue
            blob = folder.name + file.name
            if len(blob) == 64:
                yield StoredBlob(blob, found.st_size, found.st_mtime)
