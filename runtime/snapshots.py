"""Snapshots: written to the store, found again by any host that shares it, unpacked to be restored.

A snapshot is a folder of files (CRIU's images, an archive of the container's upper layer, whatever else) and
metadata. `Snapshots` knows nothing of how it was made and how it is restored. It knows where it may be
restored and keeps the budgets, and a snapshot is either there as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from skylift.lazyfs.names import Names
from skylift.lazyfs.store import BlobDamagedError, BlobMissingError, Store, StoreFullError
from skylift.runtime.criu_images import page_runs
from skylift.runtime.criu_protobuf import ProtobufError
from skylift.runtime.snapshot_blobs import SnapshotBlobs
from skylift.runtime.snapshot_cache import SnapshotCache, Unpacked
from skylift.runtime.snapshot_errors import (
    SnapshotDamagedError,
    SnapshotError,
    SnapshotMissingError,
    SnapshotSpaceError,
    SnapshotUnreachableError,
)
from skylift.runtime.snapshot_index import FORGET_RETIRED, Record, SnapshotIndex
from skylift.runtime.snapshot_manifest import Kind, Manifest, decode_manifest
from skylift.runtime.snapshot_needs import Needs, why_not
from skylift.runtime.snapshot_packing import WORKERS, pack
from skylift.wire import SnapshotRef

MIB = 1024 * 1024


class Found(msgspec.Struct, frozen=True):
    """A snapshot that can be restored here, or why there is none."""

    ref: SnapshotRef | None
    reason: str = ""


class Snapshots:
    """The snapshots of one host and of those that share its store.

    Thread-safe. Every method may block on a disk or a network, so call them in a thread; they raise
    `SnapshotError`.
    """

    def __init__(
        self,
        store: Store,
        names: Names,
        folder: Path,
        here: Needs,
        *,
        host: str,
        store_budget: int,
        cache_budget: int,
        workers: int = WORKERS,
    ) -> None:
        """`store` should hold nothing else. `folder` is the host's own for its snapshots. `here` is what this
        machine is (`needs_of`). `store_budget` is for the templates' snapshots of all hosts, `cache_budget`
        for what is unpacked in `folder`, both in bytes. Finishes what a host before this one had begun.
        """
        self.here = here
        self._store = store
        self._host = host
        self._store_budget = store_budget
        self._workers = workers
        self._index = SnapshotIndex(names)
        self._blobs = SnapshotBlobs(store, folder / "journals", self._referred)
        with _as_snapshot_errors("opened"):
            self._cache = SnapshotCache(folder / "unpacked", cache_budget, store, workers)
            self._blobs.recover()

    def find(self, kind: Kind, key: str, image: str = "") -> Found:
        """The newest snapshot of a key that this host can restore for a container of an image."""
        here = msgspec.structs.replace(self.here, image=image)
        reason = ""
        with _as_snapshot_errors("looked up"):
            records = self._index.of(kind, key)
        for record in records:
            why = f"was retired: {record.retired}" if record.retired else why_not(record.needs, here)
            if not why:
                return Found(record.ref)
            reason = reason or f"its snapshot {why}"
        return Found(None, reason)

    def why_not_written(self, key: str) -> str:
        """Why no snapshot of a template should be written; "" where one may be.

        One that could not be restored with this CRIU and kernel would be no better the next time.
        """
        with _as_snapshot_errors("looked up"):
            for record in self._index.of("template", key):
                if record.retired and record.retired_with == self._with():
                    return f"its snapshot was retired: {record.retired}"
        return ""

    def write(
        self,
        kind: Kind,
        key: str,
        folder: Path,
        *,
        image: str = "",
        gpu_driver: str = "",
        metadata: Mapping[str, Any] | None = None,
        durable: bool = False,
        keep: bool = True,
    ) -> SnapshotRef:
        """Write the files in `folder` as a snapshot, which replaces others of its key.

        `image` is the container's fingerprint; `gpu_driver` the driver's version where GPU memory is in the
        files. With `durable` it outlives a power failure once this returns. With `keep` the folder becomes
        this host's unpacked copy, and is gone from its place where it is on the same disk.

        Where it fails (`SnapshotSpaceError` and others) nothing of it is left, the folder is as it was, and
        what the key had before is still there.
        """
        needs = msgspec.structs.replace(self.here, image=image, gpu_driver=gpu_driver)
        now = time.time()
        with _as_snapshot_errors("written"), self._blobs.writing(durable) as put:
            packed = pack(folder, put, _runs(folder), self._workers)
            if kind == "template" and packed.stored > self._store_budget:
                raise SnapshotSpaceError(
                    f"A snapshot of {packed.stored / MIB:,.1f} MiB is larger than all of them may be: "
                    f"snapshot_store in [host] of config.toml is {self._store_budget / MIB:,.0f} MiB."
                )
            manifest = Manifest(
                kind=kind,
                key=key,
                created=now,
                needs=needs,
                chunks=packed.chunks,
                files=packed.files,
                metadata=dict(metadata or {}),
            )
            encoded = manifest.encode()
            ref = SnapshotRef(
                manifest=put(encoded),
                size=packed.stored + len(encoded),
                unpacked=manifest.unpacked,
                created=now,
            )
            record = Record(kind=kind, key=key, ref=ref, needs=needs, host=self._host, used=now)
            before = self._index.of(kind, key)
            self._index.put(record)
        self._replace(record, before)
        if kind == "template":
            self._evict(ref)
        if keep:
            with contextlib.suppress(OSError):  # it is in the store
                self._cache.adopt(ref.manifest, manifest, folder)
        return ref

    def open(self, ref: SnapshotRef) -> Unpacked:
        """Its folder on this host, which is filled while you go on: `Unpacked.whole` says when it is. Release
        it after the restore."""
        return self._cache.hold(ref.manifest, self.manifest(ref))

    def prefetch(self, room: int) -> int:
        """Unpack the most recently used templates' snapshots that this host can restore and has not unpacked,
        of at most `room` bytes together; how many bytes that were. For hosts that have nothing else to do:
        a container whose snapshot is unpacked starts in half the time.
        """
        done = 0
        with _as_snapshot_errors("listed"):
            records = sorted(self._index.all(), key=lambda each: each.used, reverse=True)
        for record in records:
            here = msgspec.structs.replace(self.here, image=record.needs.image)
            if record.kind != "template" or record.retired or why_not(record.needs, here):
                continue
            if self._cache.manifest(record.ref.manifest) or done + record.ref.unpacked > room:
                continue
            with contextlib.suppress(SnapshotError):  # it is told when it is wanted
                held = self.open(record.ref)
                try:
                    held.whole.result()
                finally:
                    held.release()
                done += record.ref.unpacked
        return done

    def manifest(self, ref: SnapshotRef) -> Manifest:
        """What it is made of."""
        return self._cache.manifest(ref.manifest) or self._read_manifest(ref.manifest)

    def used(self, ref: SnapshotRef) -> None:
        """Note that it was restored: the least recently used ones are the first to go."""
        with contextlib.suppress(OSError):
            record = self._index.find(ref.manifest)
            if record is not None:
                self._index.note_use(record)

    def retire(self, ref: SnapshotRef, reason: str, *, damaged: bool = False) -> None:
        """It could not be restored, so nobody is to try again. `reason` is kept. With `damaged` that says
        nothing against another one that is written like it.

        A template's snapshot is deleted; a session's stays until `delete`, for it is all there is of it.
        """
        with _as_snapshot_errors("retired"):
            record = self._index.find(ref.manifest)
            if record is None or record.retired:
                return
            retired = msgspec.structs.replace(
                record,
                retired=reason,
                retired_at=time.time(),
                retired_with="" if damaged else self._with(),
            )
            if record.kind == "session":
                self._index.put(retired)
                return
            self._blobs.delete(self._blobs_of(ref.manifest), lambda: self._index.put(retired))
            self._cache.discard(ref.manifest)

    def delete(self, ref: SnapshotRef) -> None:
        """Remove it and what only it needs. Idempotent."""
        with _as_snapshot_errors("deleted"):
            record = self._index.find(ref.manifest)
            if record is not None:
                self._delete(record)

    def all(self) -> list[Record]:
        """Every snapshot of every host that shares the store, retired ones too, the newest first."""
        with _as_snapshot_errors("listed"):
            return self._index.all()

    def _replace(self, record: Record, before: Iterable[Record]) -> None:
        """Delete the snapshots that a new one stands for."""
        with contextlib.suppress(OSError):  # they go another time
            for old in before:
                same = record.kind == "session" or old.needs == record.needs or old.retired
                if same and old.ref.manifest != record.ref.manifest:
                    self._delete(old)

    def _evict(self, new: SnapshotRef) -> None:
        """Delete the least recently used templates' snapshots that are over the budget."""
        with contextlib.suppress(OSError):
            records = [record for record in self._index.all() if record.kind == "template"]
            for record in records:
                if record.retired and time.time() - record.retired_at > FORGET_RETIRED:
                    self._index.delete(record)
            living = sorted((each for each in records if not each.retired), key=lambda each: each.used)
            total = sum(record.ref.size for record in living)
            for record in living:
                if total <= self._store_budget:
                    break
                if record.ref.manifest != new.manifest:
                    self._delete(record)
                    total -= record.ref.size

    def _delete(self, record: Record) -> None:
        blobs = [] if _is_gone(record) else self._blobs_of(record.ref.manifest)
        self._blobs.delete(blobs, lambda: self._index.delete(record))
        self._cache.discard(record.ref.manifest)

    def _read_manifest(self, name: str) -> Manifest:
        with _as_snapshot_errors("read"):
            try:
                return decode_manifest(self._store.get(name), name)
            except BlobMissingError as error:
                if not self._store.there():
                    raise SnapshotUnreachableError(
                        f"Snapshot {name[:16]} cannot be read from the store now: it is not there."
                    ) from error
                raise SnapshotMissingError(f"Snapshot {name[:16]} is not in the store any more.") from error
            except BlobDamagedError as error:
                raise SnapshotDamagedError(f"Snapshot {name[:16]} is damaged: {error}") from error

    def _blobs_of(self, manifest: str) -> list[str]:
        """The blobs that a snapshot refers to; only its manifest where that is damaged or gone."""
        try:
            return [manifest, *(chunk.blob for chunk in self._read_manifest(manifest).chunks)]
        except (SnapshotMissingError, SnapshotDamagedError):
            return [manifest]

    def _referred(self) -> set[str]:
        """The blobs of all snapshots that there are."""
        blobs: set[str] = set()
        for record in self._index.all():
            if not _is_gone(record):
                blobs.update(self._blobs_of(record.ref.manifest))
        return blobs

    def _with(self) -> str:
        return f"CRIU {self.here.criu}, kernel {self.here.kernel}"


def _is_gone(record: Record) -> bool:
    """Whether only the record is left of it."""
    return bool(record.retired) and record.kind == "template"


def _runs(folder: Path) -> dict[str, list[int]]:
    try:
        return page_runs(folder)
    except ProtobufError:
        return {}  # of a version of CRIU that writes them in another way: no less correct


@contextlib.contextmanager
def _as_snapshot_errors(what: str) -> Iterator[None]:
    """Errors of store, names and disk as ours; `what` was to be done with the snapshot."""
    try:
        yield
    except StoreFullError as error:
        raise SnapshotSpaceError(f"The snapshot was not {what}: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SnapshotSpaceError(f"The snapshot could not be {what}: the disk is full.") from error
        where = f" ({error.filename})" if error.filename else ""
        raise SnapshotUnreachableError(
            f"The snapshot could not be {what}: {error.strerror or error}{where}."
        ) from error
