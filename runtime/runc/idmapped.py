"""Run as a program in a new mount namespace: shows folders with the user ids of a container.

``python idmapped.py /proc/PID/ns/user FOLDER...`` mounts each folder over itself, its owners mapped through
that user namespace: what belongs to root is then root's in the container too, and as readable as for root
outside. Used for folders that others may not enter. Where a file system cannot do it, the folder stays as
it is.

Knows the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import sys

# The same on every processor.
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
OPEN_TREE_CLONE = 1
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
MOVE_MOUNT_F_EMPTY_PATH = 4
MOUNT_ATTR_IDMAP = 0x00100000

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def show_mapped(folder: str, user_namespace: int, target: str = "") -> None:
    """Mount a folder with the ids of a user namespace, over itself or at `target`. Raises OSError."""
    path = ctypes.c_char_p(os.fsencode(folder))
    place = ctypes.c_char_p(os.fsencode(target or folder))
    empty = ctypes.c_char_p(b"")
    tree = _call(OPEN_TREE, AT_FDCWD, path, OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC)
    try:
        attributes = _MountAttributes(attr_set=MOUNT_ATTR_IDMAP, userns_fd=user_namespace)
        size = ctypes.c_size_t(ctypes.sizeof(attributes))
        _call(MOUNT_SETATTR, tree, empty, AT_EMPTY_PATH | AT_RECURSIVE, ctypes.byref(attributes), size)
        _call(MOVE_MOUNT, tree, empty, AT_FDCWD, place, MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def main(user_namespace: str, folders: list[str]) -> None:
    """Show each folder mapped, where that can be done."""
    descriptor = os.open(user_namespace, os.O_RDONLY | os.O_CLOEXEC)
    for folder in folders:
        try:
            show_mapped(folder, descriptor)
        except OSError:  # noqa: PERF203
            continue


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
