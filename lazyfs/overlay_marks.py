"""How a layer says that something of the layers below it is gone, as overlayfs has it.

A whiteout (a character device 0/0) hides one name. An opaque folder (an extended attribute) hides all that is
below it. `hide_by_name` says the same as an opaque folder with whiteouts alone: EROFS images keep both, but
layers that are unpacked with fsck.erofs lose attributes.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
"""The attributes, with the value ``y``. The second one counts in an overlay with the option ``userxattr``."""

NamesBelow: TypeAlias = Callable[[str], Iterable[str]]
"""What the layers below show in a folder, a path relative to their root ("" for that); nothing where there is
none."""


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this hides what is below."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def make_whiteout(path: str | os.PathLike[str]) -> None:
    """Hide a name of the layers below; there is nothing at `path`. Raises OSError."""
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(0, 0))
    os.utime(path, (0, 0))  # the same layer at all times


def is_opaque(folder: str | os.PathLike[str]) -> bool:
    """Whether nothing of the folders below is seen in this one."""
    try:
        marks = os.listxattr(folder, follow_symlinks=False)
        return any(
            name in marks and os.getxattr(folder, name, follow_symlinks=False) == b"y" for name in OPAQUE
        )
    except OSError:
        return False


def hide_by_name(layer: Path, folder: str, below: NamesBelow) -> None:
    """Hide all that the layers below have in a folder of a layer, and take its opaque mark away.

    So it is for the folders in it, too: what is below them has been hidden with them. Raises OSError.
    """
    here = layer / folder
    hidden = [name for name in below(folder) if not os.path.lexists(here / name)]
    for entry in list(os.scandir(here)):
        if entry.is_dir(follow_symlinks=False):
            hide_by_name(layer, f"{folder}/{entry.name}" if folder else entry.name, below)
    for name in hidden:
        make_whiteout(here / name)
    for mark in OPAQUE:
        with contextlib.suppress(OSError):
            os.removexattr(here, mark)
