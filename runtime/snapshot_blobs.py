"""The blobs of snapshots: none is left that no snapshot refers to, whatever ends a host at whatever moment.

Before blobs are written or deleted their names go to a journal on this host's disk. What a journal names and
no snapshot refers to is deleted: when writing has failed, and at the start of the next host.

Two hosts that share a store do not wait for each other: one may delete a blob that the other has just found
there and counts on. That snapshot is damaged then; this is noticed when it is to be restored, and the
container starts cold.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from skylift.lazyfs.store import Bytes, Store, blob_name
from skylift.runtime.snapshot_packing import Put


class SnapshotBlobs:
    """Writes and deletes blobs of snapshots. Thread-safe."""

    def __init__(self, store: Store, journals: Path, referred: Callable[[], set[str]]) -> None:
        """`referred` says which blobs the snapshots that there are refer to; it may raise."""
        self._store = store
        self._journals = journals
        self._referred = referred
        self._lock = threading.Lock()
        """Held while blobs are deleted: a snapshot that is being written counts on none of them."""
        self._pending: dict[Path, set[str]] = {}
        """Blobs of snapshots that are being written, by journal."""

    @contextlib.contextmanager
    def writing(self, durable: bool) -> Iterator[Put]:
        """A function that keeps a blob. When the block raises, what it has kept is deleted again.

        With `durable` each blob outlives a power failure once the function has returned.
        """
        path = self._new_journal()
        journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        names = self._pending[path] = set()

        def put(data: Bytes) -> str:
            name = blob_name(data)
            with self._lock:
                os.write(journal, f"{name}\n".encode("ascii"))
                names.add(name)
            return self._store.put(data, durable=durable)

        try:
            yield put
        except BaseException:
            del self._pending[path]
            self._clear(path)
            raise
        finally:
            os.close(journal)
        path.unlink()
        del self._pending[path]

    def delete(self, names: Iterable[str], forget: Callable[[], None]) -> None:
        """Call `forget`, which takes a snapshot out of the index, and delete its blobs, where no other has
        them too."""
        path = self._new_journal()
        path.write_text("".join(f"{name}\n" for name in names), encoding="ascii")
        forget()
        self._clear(path)

    def recover(self) -> None:
        """Finish what a host before this one had begun. Call it before anything is written or deleted."""
        for path in self._journals.glob("*"):
            self._clear(path)

    def _new_journal(self) -> Path:
        self._journals.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._journals / secrets.token_hex(8)

    def _clear(self, path: Path) -> None:
        """Delete what the journal names and nothing refers to; where that cannot be known now, it stays."""
        with contextlib.suppress(OSError), self._lock:
            names = set(path.read_text(encoding="ascii").split("\n")[:-1])
            names.difference_update(*self._pending.values())
            if names:
                names -= self._referred()
            for name in names:
                self._store.delete(name)
            path.unlink()
