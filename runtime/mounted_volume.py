"""One volume in one container: what it writes is a working copy, and is committed from here.

Its methods block on disks and the store; call them in threads, one at a time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3

from skylift.lazyfs.leases import Lease, LeaseLostError
from skylift.lazyfs.names import Names
from skylift.lazyfs.tree_mounts import TreeMounts
from skylift.lazyfs.trees import Trees
from skylift.lazyfs.volume_changes import TICK_NS
from skylift.lazyfs.volume_commits import Commits, Version
from skylift.lazyfs.volume_errors import explaining
from skylift.lazyfs.volume_handle import Volume
from skylift.lazyfs.volume_reading import VolumeView
from skylift.lazyfs.volume_workdir import Workdir
from skylift.wire import VolumeMount

STATE, NOTE = "state.json", "volume.json"
_FOLDERS = ("upper", "work", "empty", "merged")


class Note(msgspec.Struct, frozen=True):
    """Beside a working copy: whose it is, for a host that finds it."""

    volume_id: str
    name: str
    who: str


class Left(NamedTuple):
    """What a commit left out."""

    text: str
    """Which file it is, and why."""
    pending: bool
    """The next commit may have it."""


class MountedVolume:
    """The folders that the overlay in the container is made of, and the working copy in them."""

    def __init__(
        self,
        mount: VolumeMount,
        folder: Path,
        trees: Trees,
        names: Names,
        mounts: TreeMounts,
        owner: tuple[int, int],
        who: str,
    ) -> None:
        """`folder` is made; `mounts` are the trees that this host sees. Raises `VolumeError` and
        OSError."""
        self.mount = mount
        self.folder = folder
        self._mounts = mounts
        self._lower = ""
        """The tree that is acquired there."""
        self._owner = owner
        self._who = who
        self._where = f"Volume {mount.name!r}"
        self._volume = Volume(Commits(trees, names, mount.volume_id, mount.name))
        self._workdir: Workdir | None = None
        self._lease: Lease | None = None
        self._committed = b""
        self._told: set[str] = set()
        try:
            self._begin(trees, names)
        except BaseException:
            self.close()
            raise

    def _begin(self, trees: Trees, names: Names) -> None:
        mount, folder = self.mount, self.folder
        version = self._version()
        if self.read_only:
            self._lease = Lease(
                names, f"container with volume {mount.name}", writing=False, trees=(version.root,)
            )
            if mount.sub_path:
                # A folder that is not there cannot be made in what is read-only.
                VolumeView(trees, version.root, self._where).stat(mount.sub_path)
        folder.mkdir(mode=0o700, parents=True)
        self._lay_out(version.root)
        if not self.read_only:
            note = Note(mount.volume_id, mount.name, self._who)
            (folder / NOTE).write_bytes(msgspec.json.encode(note))
            self._workdir = Workdir(self._volume, self.upper, version, overlay=True, state=folder / STATE)

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written to it."""
        return self.mount.read_only or bool(self.mount.version)

    @property
    def upper(self) -> Path:
        """What the container has written."""
        return self.folder / "upper"

    def wish(self, pid: int) -> dict[str, Any]:
        """For `runc/volume_mount.py`."""
        return {
            "do": "mount",
            "folder": str(self.folder),
            "pid": pid,
            "target": self.mount.path,
            "sub_path": self.mount.sub_path,
            "read_only": self.read_only,
            "owner": list(self._owner),
        }

    def commit(self, *, force: bool = False) -> list[Left]:
        """Commit what was written since; what was not committed, in words. With `force` nothing is taken for
        unchanged at a glance. Raises `VolumeError`."""
        if self._workdir is None:
            return []
        now = _fingerprint(self.upper)
        if now and now == self._committed and not force:
            return []
        done = self._workdir.commit(who=self._who)
        pending = False
        said: list[Left] = []
        for skipped in done.skipped:
            pending = pending or skipped.pending
            if skipped.pending or skipped.path not in self._told:
                text = f"{skipped.path} of volume {self.mount.name} was not committed: {skipped.reason}"
                said.append(Left(text, skipped.pending))
            self._told.add(skipped.path)
        if not pending:
            self._committed = now
        return said

    def reload(self) -> None:
        """Go on from what is newest; the container's mount was taken out. Raises `VolumeError`."""
        if self._workdir is None:
            if not self.mount.version:
                version = self._version()
                assert self._lease is not None
                self._lease.renew((version.root,))
                self._link(version.root)
            return
        old = self.upper
        fresh = self.folder / "upper.new"
        _make(fresh, self._owner)
        done = self._workdir.reload(fresh, who=self._who)
        # The working copy has the folder's path: both are moved, one after the other.
        past = self.folder / "upper.old"
        old.rename(past)
        fresh.rename(old)
        self._workdir.folder = old
        self._committed = b""
        self._link(done.version.root)
        shutil.rmtree(past, ignore_errors=True)

    def renew(self) -> None:
        """Say that it is still in use. Raises OSError."""
        if self._workdir is not None:
            self._workdir.renew()
        elif self._lease is not None:
            with contextlib.suppress(LeaseLostError):
                self._lease.renew()

    def close(self) -> None:
        """Let go of the volume; nothing is committed here."""
        if self._lower:
            self._mounts.release(self._lower)
            self._lower = ""
        if self._workdir is not None:
            self._workdir.close()
        if self._lease is not None:
            with contextlib.suppress(OSError):
                self._lease.end()

    def _version(self) -> Version:
        if self.mount.version:
            return self._volume.at(self.mount.version).version
        with explaining(self._where, "looking for its newest version"):
            return self._volume.commits.newest()

    def _lay_out(self, root: str) -> None:
        for name in _FOLDERS:
            if name == "upper":
                _make(self.folder / name, self._owner)
            else:
                (self.folder / name).mkdir(mode=0o700)
        self._link(root)

    def _link(self, root: str) -> None:
        link = self.folder / "lower"
        place = self._mounts.acquire(root)
        before, self._lower = self._lower, root
        link.unlink(missing_ok=True)
        link.symlink_to(place)
        if before:
            self._mounts.release(before)


def recovered(folder: Path, trees: Trees, names: Names) -> str:
    """Commit what a container had written whose host was killed; what came of it, in words.

    Raises `VolumeError` and OSError.
    """
    note = msgspec.json.decode((folder / NOTE).read_bytes(), type=Note)
    volume = Volume(Commits(trees, names, note.volume_id, note.name))
    workdir = Workdir(volume, folder / "upper", overlay=True, state=folder / STATE)
    done = workdir.commit(who=note.who, message="found by the next host")
    workdir.close()
    left = [f"{skipped.path}: {skipped.reason}" for skipped in done.skipped]
    return f"volume {note.name} is at version {done.version.number}" + (f"; left out: {left}" if left else "")


def _make(folder: Path, owner: tuple[int, int]) -> None:
    folder.mkdir()
    os.chown(folder, *owner)
    folder.chmod(0o755)


def _fingerprint(folder: Path) -> bytes:
    """Changes with whatever is written below a folder; empty where that was so recent that times do not
    tell."""
    digest = blake3()
    newest = 0
    began = time.time_ns()
    waiting = [os.fspath(folder)]
    while waiting:
        at = waiting.pop()
        try:
            entries = sorted(os.scandir(at), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            newest = max(newest, status.st_ctime_ns)
            digest.update(os.fsencode(entry.path))
            times = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode)
            digest.update(repr(times).encode())
            if stat.S_ISDIR(status.st_mode):
                waiting.append(entry.path)
    return digest.digest() if newest < began - TICK_NS else b""
