"""What has changed in a folder that a container writes to, put in the store."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

from skylift.lazyfs.chunked import ChangedError
from skylift.lazyfs.leases import Lease
from skylift.lazyfs.trees import Entry, Trees, link_entry
from skylift.lazyfs.volume_content import opened, put_file
from skylift.lazyfs.volume_edits import TreeEditor
from skylift.lazyfs.volume_paths import Parts, text
from skylift.lazyfs.volume_scan import Found, scan

_WORKERS = 4
_MOST_OPEN = 16
_MOST_READS = 3
TICK_NS = 20_000_000
"""Nanoseconds: a file that changed so shortly before it was read may change again and keep its times."""


class Skipped(NamedTuple):
    """What was not committed. The volume has it as it was committed before, if it was."""

    path: str
    reason: str
    pending: bool
    """It is still to be committed. Else it is a socket, a pipe or a device, and cannot be in a volume."""


class Fingerprint(NamedTuple):
    device: int
    inode: int
    size: int
    modified: int
    changed: int
    mode: int


class Known(NamedTuple):
    """A file as it was read last."""

    fingerprint: Fingerprint
    entry: Entry
    sure: bool
    """Its fingerprint changes with the next write."""


def fingerprint_of(status: os.stat_result) -> Fingerprint:
    return Fingerprint(
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        stat.S_IMODE(status.st_mode),
    )


class FolderChanges:
    """What one commit finds in a folder, and the tree that comes of it. Used once."""

    def __init__(
        self,
        trees: Trees,
        folder: Path,
        where: str,
        *,
        overlay: bool,
        lower: str,
        view: str,
        known: Mapping[Parts, Known],
        lease: Lease,
        now_ns: int,
    ) -> None:
        """`view` is the tree that was committed last, `lower` the one below an overlay, else an empty one.

        Files that are as in `known` are not read. `now_ns` becomes the time of directories that change.
        """
        self._trees = trees
        self._folder = folder
        self._overlay = overlay
        self._before = TreeEditor(trees, view, where, 0)
        self._lower = TreeEditor(trees, lower, where, 0)
        self._editor = TreeEditor(trees, view, where, now_ns)
        self._known = known
        self._lease = lease
        self._free = threading.Semaphore(_MOST_OPEN)
        self.known: dict[Parts, Known] = {}
        """The files as they were read, for the next time."""
        self.skipped: list[Skipped] = []

    def write(self) -> str:
        """The root of the tree. Everything in it is in the store then. Raises what the store raises."""
        self._collect()
        return self._editor.write()

    def _collect(self) -> None:
        here: dict[Parts, set[bytes]] = {(): set()}
        """What the folder has, in each of its directories."""
        opaque: set[Parts] = set()
        gone: set[Parts] = set()
        reading: list[tuple[Parts, Future[Known | str]]] = []
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="commit") as pool:
            for found in scan(self._folder, overlay=self._overlay):
                self._lease.renew_when_due()
                parts = found.parts
                if found.kind == "whiteout":
                    gone.add(parts)
                    continue
                here[parts[:-1]].add(parts[-1])
                if found.problem:
                    self._skip(parts, found.problem, pending=found.kind != "special")
                elif found.kind == "dir":
                    here[parts] = set()
                    if found.opaque or not self._in_lower(parts, opaque, gone):
                        opaque.add(parts)
                    self._put_directory(found)
                elif found.kind == "link":
                    self._put_link(found)
                else:
                    known = self._read(found, pool)
                    if isinstance(known, Future):
                        reading.append((parts, known))
                    else:
                        self._put(parts, known)
            for parts, future in reading:
                outcome = future.result()
                if isinstance(outcome, str):
                    self._skip(parts, outcome, pending=True)
                else:
                    self._put(parts, outcome)
        if not self._overlay:
            opaque.add(())
        for parts, names in here.items():
            self._settle(parts, names, parts in opaque, gone)

    def _settle(self, at: Parts, names: set[bytes], opaque: bool, gone: set[Parts]) -> None:
        """What a directory of the folder does not have is as the lower one has it, or is not there."""
        lower: dict[bytes, Entry] = {}
        if not opaque:
            below = self._lower.find(at)
            if below is not None and below.kind == "dir":
                lower = {entry.name: entry for entry in self._trees.entries(below.blob)}
        view = self._base_names(at)
        for name in view - names:
            if name not in lower or (*at, name) in gone:
                self._editor.remove((*at, name), missing_ok=True)
        for name, entry in lower.items():
            parts = (*at, name)
            if name not in names and parts not in gone and self._editor.find(parts) != entry:
                self._editor.remove(parts, missing_ok=True)
                self._editor.put(parts, entry)

    def _base_names(self, at: Parts) -> set[bytes]:
        base = self._before.find(at)
        if base is None or base.kind != "dir":
            return set()
        return {entry.name for entry in self._trees.entries(base.blob)}

    def _in_lower(self, parts: Parts, opaque: set[Parts], gone: set[Parts]) -> bool:
        """Whether a directory of the folder lies over one of the lower tree."""
        if not self._overlay or parts[:-1] in opaque or parts in gone:
            return False
        below = self._lower.find(parts)
        return below is not None and below.kind == "dir"

    def _put_directory(self, found: Found) -> None:
        mode = stat.S_IMODE(found.status.st_mode)
        old = self._editor.find(found.parts)
        if old is not None and old.kind != "dir":
            self._editor.remove(found.parts)
        if old is None or old.kind != "dir" or old.mode != mode:
            self._editor.make_directory(found.parts, mode)

    def _put_link(self, found: Found) -> None:
        try:
            target = os.fsencode(os.readlink(found.parts[-1], dir_fd=found.folder))
        except OSError:
            self._skip(found.parts, "it changed while it was being looked at", pending=True)
            return
        self._replace(found.parts, link_entry(found.parts[-1], target, found.status.st_mtime_ns))

    def _put(self, parts: Parts, known: Known) -> None:
        self.known[parts] = known
        self._replace(parts, known.entry)

    def _replace(self, parts: Parts, entry: Entry) -> None:
        old = self._editor.find(parts)
        if old == entry:
            return
        if old is not None and old.kind == "dir":
            self._editor.remove(parts)
        self._editor.put(parts, entry)

    def _skip(self, parts: Parts, reason: str, pending: bool) -> None:
        self.skipped.append(Skipped(text(parts), reason, pending))

    def _read(self, found: Found, pool: ThreadPoolExecutor) -> Known | Future[Known | str]:
        """The file's entry, or what will give it, or the reason why there is none."""
        known = self._known.get(found.parts)
        if known is not None and known.sure and known.fingerprint == fingerprint_of(found.status):
            return known
        self._free.acquire()
        stack = contextlib.ExitStack()
        try:
            file = stack.enter_context(opened(found.parts[-1], found.folder))
        except (OSError, ValueError) as error:
            self._free.release()
            reason: Future[Known | str] = Future()
            reason.set_result(f"it cannot be read: {getattr(error, 'strerror', None) or error}")
            return reason
        return pool.submit(self._send, stack, file, found.parts[-1])

    def _send(self, stack: contextlib.ExitStack, file: BinaryIO, name: bytes) -> Known | str:
        with self._releasing(), stack:
            for _ in range(_MOST_READS):
                began = time.time_ns()
                try:
                    entry = put_file(file, name, self._trees.store, self._advance)
                except ChangedError:
                    continue
                now = fingerprint_of(os.fstat(file.fileno()))
                if now.modified == entry.mtime_ns:
                    return Known(now, entry, now.changed < began - TICK_NS)
            return "it is being written to"

    def _advance(self, _: int) -> None:
        self._lease.renew_when_due()

    @contextlib.contextmanager
    def _releasing(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._free.release()
