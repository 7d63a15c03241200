"""Unpacked snapshots on this host's disk, from which containers are restored.

They lie in a folder of an ordinary file system rather than in a tmpfs: what is used stays in the page cache,
CRIU reads it from there faster (a tmpfs has its pages one by one, ext4 and XFS in large pieces), and the
kernel can take the memory back.

The cache's folder is for the host's user alone. What is inside may be read by all who can get there: CRIU
opens it before it enters the container's user namespace, and reads on as somebody else.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import threading
from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path

import msgspec

from skylift.lazyfs.store import Store
from skylift.runtime.snapshot_errors import SnapshotSpaceError
from skylift.runtime.snapshot_manifest import Manifest
from skylift.runtime.snapshot_packing import WORKERS
from skylift.runtime.snapshot_unpacking import Unpacking

log = logging.getLogger(__name__)

_BLOCK = 512
"""Bytes that ``st_blocks`` counts in."""

_NOTE = ".whole"
"""Ends the name of the file that lies beside a folder which is whole."""


class _Whole(msgspec.Struct, frozen=True):
    """What is in the file beside a folder."""

    boot: str
    """Id of the boot that it was written in: at a power failure some of it may not have reached the disk."""
    manifest: Manifest


class _Entry:
    def __init__(self, folder: Path, manifest: Manifest, unpacking: Unpacking | None, size: int) -> None:
        self.folder = folder
        self.manifest = manifest
        self.unpacking = unpacking
        """While it is unpacked."""
        self.size = size
        """Bytes on the disk; while it is unpacked, those that it will take."""
        self.users = 0
        self.unwanted = False
        """It goes with its last user."""

    def usable(self) -> bool:
        """Whether it is being unpacked, or all its files are there and of the right size."""
        if self.unpacking is not None:
            return not self.unpacking.whole.done() or self.unpacking.whole.exception() is None
        try:
            return all((self.folder / file.name).stat().st_size == file.size for file in self.manifest.files)
        except OSError:
            return False


class Unpacked:
    """A snapshot's folder. It stays until it is released."""

    def __init__(self, cache: SnapshotCache, entry: _Entry) -> None:
        self.folder = entry.folder
        self.manifest = entry.manifest
        self.fresh = entry.unpacking is not None
        """Whether it is only now being unpacked."""
        self.small: Future[None] = entry.unpacking.small if entry.unpacking else _done()
        """See `Unpacking.small`."""
        self.whole: Future[None] = entry.unpacking.whole if entry.unpacking else _done()
        """See `Unpacking.whole`."""
        self._cache = cache
        self._entry: _Entry | None = entry

    def release(self) -> None:
        """From now on it may be removed. Idempotent."""
        if self._entry is not None:
            self._cache.let_go(self._entry)
            self._entry = None


class SnapshotCache:
    """Keeps at most so many bytes, but for what is in use; the least recently used go first. Thread-safe."""

    def __init__(self, folder: Path, budget: int, store: Store, workers: int = WORKERS) -> None:
        """`folder` is this cache's alone; what is whole in there, of the same boot, is kept. `budget` in
        bytes. Raises OSError."""
        self._folder = folder
        self._budget = budget
        self._store = store
        self._workers = workers
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        self._lock = threading.RLock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        """The least recently used first."""
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._take_over()

    @property
    def size(self) -> int:
        """Bytes."""
        with self._lock:
            return sum(entry.size for entry in self._entries.values())

    def manifest(self, name: str) -> Manifest | None:
        """The manifest of a snapshot that is here."""
        with self._lock:
            entry = self._entries.get(name)
            return entry.manifest if entry else None

    def hold(self, name: str, manifest: Manifest) -> Unpacked:
        """The snapshot's folder. Where it is not here, unpacking begins; this does not wait for it.

        Raises `SnapshotSpaceError`.
        """
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None and not entry.usable():
                self._forget(name)
                entry = None
            if entry is None:
                entry = self._begin(name, manifest)
            elif entry.unpacking is None:
                os.utime(self._folder / f"{name}{_NOTE}")
            self._entries.move_to_end(name)
            entry.users += 1
            held = Unpacked(self, entry)
        self._make_room()
        return held

    def adopt(self, name: str, manifest: Manifest, folder: Path) -> None:
        """Take over the folder that a snapshot was written from; it must be on the same disk, and is gone
        from its place afterwards. Raises OSError."""
        with self._lock:
            if name in self._entries:
                shutil.rmtree(folder, ignore_errors=True)
                return
            target = self._folder / name
            folder.replace(target)
            target.chmod(0o755)
            entry = self._entries[name] = _Entry(target, manifest, None, _size(target))
            self._note(name, entry)
        self._make_room()

    def discard(self, name: str) -> None:
        """Remove a snapshot; while somebody uses it, after that."""
        with self._lock:
            if name in self._entries:
                self._forget(name)

    def let_go(self, entry: _Entry) -> None:
        """Called by `Unpacked`."""
        with self._lock:
            entry.users -= 1
            if entry.unwanted and not entry.users:
                _remove(entry.folder)
        self._make_room()

    def _begin(self, name: str, manifest: Manifest) -> _Entry:
        folder = self._folder / name
        try:
            folder.mkdir()
            folder.chmod(0o755)
        except OSError as error:
            raise SnapshotSpaceError(
                f"Snapshot {name[:16]} cannot be unpacked: cannot make {folder}: {error.strerror}."
            ) from error
        unpacking = Unpacking(manifest, name, folder, self._store, self._workers)
        entry = self._entries[name] = _Entry(folder, manifest, unpacking, manifest.unpacked)
        unpacking.whole.add_done_callback(lambda whole: self._unpacked(name, entry, whole))
        unpacking.start()
        return entry

    def _unpacked(self, name: str, entry: _Entry, whole: Future[None]) -> None:
        error = whole.exception()
        with self._lock:
            entry.unpacking = None
            if error is None:
                entry.size = _size(entry.folder)
                if not entry.unwanted:
                    self._note(name, entry)
                return
            if not entry.unwanted:
                self._forget(name)
        if isinstance(error, SnapshotSpaceError):
            self._make_room(0)  # for the next attempt

    def _make_room(self, budget: int | None = None) -> None:
        """Remove what is over the budget and not in use."""
        limit = self._budget if budget is None else budget
        with self._lock:
            total = sum(entry.size for entry in self._entries.values())
            for name, entry in list(self._entries.items()):
                if total <= limit:
                    break
                if not entry.users and entry.unpacking is None:
                    total -= entry.size
                    self._forget(name)

    def _forget(self, name: str) -> None:
        """Take it out, and remove its folder unless somebody uses it."""
        entry = self._entries.pop(name)
        entry.unwanted = True
        (self._folder / f"{name}{_NOTE}").unlink(missing_ok=True)
        gone = self._folder / f".{secrets.token_hex(8)}"
        try:
            entry.folder.rename(gone)
        except FileNotFoundError:
            return
        entry.folder = gone
        if not entry.users:
            _remove(gone)

    def _note(self, name: str, entry: _Entry) -> None:
        note = _Whole(self._boot, entry.manifest)
        (self._folder / f"{name}{_NOTE}").write_bytes(msgspec.json.encode(note))

    def _take_over(self) -> None:
        """What a host before this one has left; the rest is removed."""
        found: list[tuple[float, str, _Entry]] = []
        for note in self._folder.glob(f"*{_NOTE}"):
            folder = note.with_name(note.name.removesuffix(_NOTE))
            try:
                whole = msgspec.json.decode(note.read_bytes(), type=_Whole)
                entry = _Entry(folder, whole.manifest, None, _size(folder))
                if whole.boot == self._boot and entry.usable():
                    found.append((note.stat().st_mtime, folder.name, entry))
            except (OSError, msgspec.MsgspecError):
                continue
        self._entries.update((name, entry) for _, name, entry in sorted(found, key=lambda each: each[:2]))
        for path in self._folder.iterdir():
            if path.name.removesuffix(_NOTE) not in self._entries:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_blocks * _BLOCK for path in folder.iterdir())


def _done() -> Future[None]:
    future: Future[None] = Future()
    future.set_result(None)
    return future


def _remove(folder: Path) -> None:
    """Remove a folder for good; what keeps it from going is said, and the next host tries again."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        log.warning("The snapshot's folder %s was not removed at once: %s", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
