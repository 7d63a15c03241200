"""mount(2) and umount2(2), which Python does not have, and what is mounted now."""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


class Mounted(NamedTuple):
    """One line of ``/proc/self/mountinfo``."""

    target: Path
    type: str
    source: str
    device: int
    """As in ``st_dev``."""


def mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    """Mount a file system. Raises OSError."""
    words = (source.encode(), os.fsencode(target), kind.encode())
    if _libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None):
        raise _failure(target)


def enter_new_namespace() -> None:
    """Have mounts of one's own from here on, which nobody else sees; called before there are threads.

    Raises OSError.
    """
    if _libc.unshare(_CLONE_NEWNS):
        raise _failure(Path("/"))
    mount("none", Path("/"), "", _MS_REC | _MS_PRIVATE)


def unmount(target: Path, *, lazily: bool = False) -> None:
    """Unmount what is there; lazily: out of sight now, and gone when nobody uses it any more.

    Raises OSError (EINVAL where nothing is mounted, EBUSY).
    """
    if _libc.umount2(os.fsencode(target), UMOUNT_NOFOLLOW | (MNT_DETACH if lazily else 0)):
        raise _failure(target)


def abort(target: Path) -> None:
    """End the FUSE connection of what is mounted there: whoever waits for an answer gets an error.

    Raises OSError where the kernel's list of connections cannot be mounted.
    """
    for mounted in mounted_under(target):
        if mounted.target == target and mounted.type.startswith("fuse"):
            with tempfile.TemporaryDirectory(prefix="fusectl-") as folder:
                mount("fusectl", Path(folder), "fusectl", 0)
                try:
                    (Path(folder) / str(os.minor(mounted.device)) / "abort").write_text("1")
                finally:
                    unmount(Path(folder), lazily=True)


def mounted_under(folder: Path) -> list[Mounted]:
    """What is mounted in a folder or on it, the last one first, as it can be unmounted."""
    found = []
    # Not resolved where it hangs: a folder of ours is never a link.
    wanted = Path(os.path.abspath(folder))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.rstrip("\n").partition(" - ")
            _, _, device, _, target, *_ = before.split(" ")
            kind, source, *_ = after.split(" ")
            path = Path(_unescaped(target))
            if path == wanted or wanted in path.parents:
                major, minor = map(int, device.split(":"))
                found.append(Mounted(path, kind, _unescaped(source), os.makedev(major, minor)))
    return found[::-1]


def _unescaped(word: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, character)
    return word


def _failure(target: Path) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), str(target))
