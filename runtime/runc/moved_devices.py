"""Run as a program: a restored container sees other device files of the host's than the written one did.

CRIU mounts what was mounted, where it was. Another GPU has another name (``/dev/nvidia1`` for
``/dev/nvidia0``), and its driver looks for it by that. So CRIU mounts the new one under the old name, and
``python moved_devices.py /proc/PID/ns/mnt OLD NEW OLD NEW ...`` gives it the new one there, before
anything of the container runs. Where NEW is empty, OLD goes.

Knows the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterable

_MS_BIND, _MNT_DETACH = 0x1000, 2
_libc = ctypes.CDLL(None, use_errno=True)


def moved(written: Iterable[str], here: Iterable[str]) -> dict[str, str]:
    """The new names of those device files that a container had and shall not have under the same name.

    "" for those that nothing stands for. Files stand for each other whose names differ in their last number.
    """
    old, new = set(written), set(here)
    moves: dict[str, str] = {}
    free = sorted(new - old, key=_order)
    for path in sorted(old - new, key=_order):
        moves[path] = next((each for each in free if _order(each)[0] == _order(path)[0]), "")
        if moves[path]:
            free.remove(moves[path])
    return moves


def _order(path: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.*?)(\d*)", path)
    assert match is not None
    return match[1], int(match[2] or 0)


def move(old: str, new: str) -> None:
    """Give what is mounted on a file another name; none, if that is empty. Raises OSError."""
    if new:
        _make(new)
        _check(_libc.mount(os.fsencode(old), os.fsencode(new), None, ctypes.c_ulong(_MS_BIND), None))
    _check(_libc.umount2(os.fsencode(old), _MNT_DETACH))
    os.unlink(old)


def _make(path: str) -> None:
    """An empty file, as the owner of its folder: the host's root is nobody there, and cannot own one.

    Nothing that the container has put there itself is taken, or followed.
    """
    folder = os.stat(os.path.dirname(path))
    os.setegid(folder.st_gid)
    os.seteuid(folder.st_uid)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDONLY | os.O_CLOEXEC, 0o666))
    finally:
        os.seteuid(0)
        os.setegid(0)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main(namespace: str, names: list[str]) -> str:
    """What went wrong; "" for nothing."""
    try:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        _check(_libc.setns(descriptor, 0))
        for old, new in zip(names[::2], names[1::2], strict=True):
            move(old, new)
    except OSError as error:
        return f"{error.filename or 'a device file'}: {error.strerror}"
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]) or 0)
