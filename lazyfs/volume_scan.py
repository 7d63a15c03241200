"""What is in a folder of this machine that a container writes to, against a tree.

Nothing in such a folder is trusted: whoever writes there may swap a directory for a symlink at any moment. So
every directory is opened from the one above it, and no symlink is ever followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from typing import Literal, NamedTuple

from skylift.lazyfs.trees import MAX_DEPTH
from skylift.lazyfs.volume_paths import Parts

HALF_WRITTEN = re.compile(rb"\.skylift-[0-9a-f]{16}\.part")
"""A file that a reload was writing; not a part of the volume."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OVERLAYS = ("trusted.overlay.", "user.overlay.")


class Found(NamedTuple):
    """One thing in the folder."""

    parts: Parts
    kind: Literal["file", "dir", "link", "whiteout", "special", "other"]
    """special: sockets, pipes and devices, which cannot be in a volume; other: what has a `problem`."""
    status: os.stat_result
    folder: int
    """The open directory that it is in, until the next is asked for."""
    opaque: bool = False
    """Of a directory: nothing below it is there but what the folder has."""
    problem: str = ""
    """Why it cannot be committed. What is here counts as it was committed before."""


def scan(folder: str | os.PathLike[str], *, overlay: bool) -> Iterator[Found]:
    """All that is in the folder, directories before what is in them.

    In the upper folder of an overlay (`overlay`), a whiteout says that a name of the lower one is gone. What
    goes away meanwhile may be left out. Raises OSError where the folder itself cannot be read.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from _scan(descriptor, (), overlay)
    finally:
        os.close(descriptor)


def _scan(folder: int, at: Parts, overlay: bool) -> Iterator[Found]:
    names = sorted(os.fsencode(name) for name in os.listdir(folder))
    for name in names:
        if HALF_WRITTEN.fullmatch(name):
            continue
        parts = (*at, name)
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            yield from _scan_directory(folder, parts, status, overlay)
        elif stat.S_ISREG(mode):
            if overlay and status.st_size == 0 and _overlay_mark(folder, name, "whiteout") is not None:
                yield Found(parts, "whiteout", status, folder)
                continue
            problem = ""
            if overlay and _overlay_mark(folder, name, "metacopy") is not None:
                problem = "its content is not in the overlay's upper folder: mount it with metacopy=off"
            yield Found(parts, "file", status, folder, problem=problem)
        elif stat.S_ISLNK(mode):
            yield Found(parts, "link", status, folder)
        elif overlay and stat.S_ISCHR(mode) and status.st_rdev == 0:
            yield Found(parts, "whiteout", status, folder)
        else:
            problem = f"it is {_kind(mode)}, and volumes keep none"
            yield Found(parts, "special", status, folder, problem=problem)


def _scan_directory(folder: int, parts: Parts, status: os.stat_result, overlay: bool) -> Iterator[Found]:
    if len(parts) > MAX_DEPTH:
        yield Found(parts, "other", status, folder, problem=f"it is more than {MAX_DEPTH} levels deep")
        return
    try:
        child = os.open(parts[-1], _DIRECTORY, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # it has just become something else
            yield Found(parts, "other", status, folder, problem="it changed while it was being looked at")
            return
        raise
    try:
        opaque = False
        if overlay:
            if _mark(child, "redirect") is not None:
                problem = "it was renamed within the overlay: mount that with redirect_dir=off"
                yield Found(parts, "other", status, folder, problem=problem)
                return
            opaque = _mark(child, "opaque") == b"y"
        yield Found(parts, "dir", status, folder, opaque)
        yield from _scan(child, parts, overlay)
    finally:
        os.close(child)


def _overlay_mark(folder: int, name: bytes, mark: str) -> bytes | None:
    with contextlib.suppress(OSError):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            return _mark(descriptor, mark)
        finally:
            os.close(descriptor)
    return None


def _mark(descriptor: int, mark: str) -> bytes | None:
    """What the overlay file system has noted in an extended attribute."""
    for prefix in _OVERLAYS:
        with contextlib.suppress(OSError):
            return os.getxattr(descriptor, prefix + mark)
    return None


def _kind(mode: int) -> str:
    if stat.S_ISSOCK(mode):
        return "a socket"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a device"
