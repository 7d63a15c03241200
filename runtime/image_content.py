"""What becomes of the files that a step has written before they are a layer.

Owners are those of the image, not of this host; what only tells when or where something ran is gone; and
times are not those of the build, so that a step that does the same makes the same layer.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from skylift.lazyfs.overlay_marks import OPAQUE, hide_by_name, is_opaque, is_whiteout
from skylift.runtime.image_tree import ImageTree

EPOCH = 1_577_836_800
"""Unix time (2020) of everything that was made while a step ran."""

_OF_THE_HOST = ("etc/hosts", "etc/hostname", "etc/resolv.conf", ".skylift", "opt/skylift/lib")
_REMOVED = (
    "root/.cache/pip",
    "root/.cache/uv",
    "var/cache/apt/pkgcache.bin",
    "var/cache/apt/srcpkgcache.bin",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/available-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/statoverride-old",
    "var/log/alternatives.log",
    "var/log/apt",
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
)
"""Caches and logs: of what a step has written there nothing is kept."""
_EMPTIED = ("var/cache/apt/archives", "var/lib/apt/lists")
"""The same of what is in these."""
_PYC = struct.Struct("<III")
"""After its first four bytes: flags, time and size of its source."""


class ContentError(Exception):
    """Files that cannot be in an image. The message names the first."""


def tidy(written: Path, below: ImageTree, began: float, own_id: Callable[[int], int]) -> None:
    """Make of what a step has written, since the Unix time `began`, what is to be in its layer.

    `below` is the image that it began with, `own_id` gives the image's user or group for this host's. Raises
    `ContentError` and OSError.
    """
    for name in _OF_THE_HOST:
        _remove(written / name)
    for name in _EMPTIED:
        folder = written / name
        if folder.is_dir() and not folder.is_symlink():
            for path in folder.iterdir():
                if not is_whiteout(path.lstat()):
                    _remove(path)
    for name in _REMOVED:
        _remove(written / name)
    for name in ("opt/skylift", "run/skylift", "run", "dev", "proc", "sys"):
        # Only there so that something could be mounted on it.
        if below.find(name) is None:
            with contextlib.suppress(OSError):
                (written / name).rmdir()
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(written, topdown=False):
        here = Path(parent)
        for name in (*files, *folders):
            path = here / name
            status = path.lstat()
            if (status.st_dev, status.st_ino) in seen and name in files:
                continue
            seen.add((status.st_dev, status.st_ino))
            _check(path, status, written)
            _clean(path, status, own_id)
        if is_opaque(here):
            # Layers that are unpacked have no marks.
            hide_by_name(written, here.relative_to(written).as_posix(), below.names)
        _settle_python(here, files, began)
    _clean(written, written.lstat(), own_id)
    for parent, folders, files in os.walk(written, topdown=False):
        for name in (*files, *folders):
            _settle(Path(parent) / name, began)
    _settle(written, began)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def _check(path: Path, status: os.stat_result, written: Path) -> None:
    if stat.S_ISBLK(status.st_mode) or (stat.S_ISCHR(status.st_mode) and not is_whiteout(status)):
        raise ContentError(f"/{path.relative_to(written)} is a device, which an image cannot have.")


def _clean(path: Path, status: os.stat_result, own_id: Callable[[int], int]) -> None:
    user, group = own_id(status.st_uid), own_id(status.st_gid)
    if (user, group) != (status.st_uid, status.st_gid):
        os.chown(path, user, group, follow_symlinks=False)
        if status.st_mode & 0o6000 and not stat.S_ISLNK(status.st_mode):
            path.chmod(stat.S_IMODE(status.st_mode))  # the kernel takes set-user-id away
    if not stat.S_ISLNK(status.st_mode):
        for name in os.listxattr(path):
            # What overlayfs remembers of where a file came from would be wrong on another host.
            ours = name.startswith(("trusted.overlay.", "user.overlay.")) and name not in OPAQUE
            if ours or name == "security.capability":
                os.removexattr(path, name)


def _settle_python(folder: Path, files: list[str], began: float) -> None:
    """Bytecode names the time of its source, and is used only where that is so."""
    if folder.name != "__pycache__":
        return
    for name in files:
        if not name.endswith(".pyc"):
            continue
        source = folder.parent / f"{name.split('.', 1)[0]}.py"
        try:
            time = source.stat().st_mtime
        except OSError:
            continue
        if time < began:
            continue
        with (folder / name).open("r+b") as file:
            header = file.read(16)
            if len(header) == 16:
                flags, named, size = _PYC.unpack(header[4:])
                if flags == 0 and named == int(time) & 0xFFFFFFFF:
                    file.seek(4)
                    file.write(_PYC.pack(flags, EPOCH, size))


def _settle(path: Path, began: float) -> None:
    status = path.lstat()
    if status.st_mtime >= began:
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
