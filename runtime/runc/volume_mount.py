"""Run as a program: mounts a folder of a volume in a running container, or takes it out again.

``python volume_mount.py JSON``. With ``"do": "mount"``, in a mount namespace of its own: an overlay of the
folders ``lower`` and ``upper`` in the working directory (of ``lower`` alone where it is read-only), then, of
that, the folder ``sub_path``; this is attached at ``target`` in the container that process ``pid`` is in. So
nothing is mounted on the host, and what is mounted ends with the container. With ``"served": [PID, PATH]`` it
is not an overlay, but what is mounted there in the mount namespace of that process. With ``"do": "unmount"``
it is detached, where nothing has a file of it open; exit status 16 (EBUSY) says that something has.

Nothing that the container could have made a link is followed. Knows the standard library alone.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from typing import Any

# The same on every processor.
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
CLONE_NEWNS = 0x00020000
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 0x4000, 1 << 18
OPEN_TREE_CLONE = 1
AT_EMPTY_PATH = 0x1000
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 4, 0x40
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
UMOUNT_NOFOLLOW = 8

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def _system_call(what: str, number: int, *arguments: object) -> int:
    return _checked(_libc.syscall(number, *arguments), what)


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int, options: bytes | None) -> None:
    result = _libc.mount(source, target, kind, ctypes.c_ulong(flags), options)
    _checked(result, os.fsdecode(target))


def _enter_mounts(pid: int) -> None:
    """Go into the mount namespace of a process, and to its root."""
    descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    _checked(_libc.setns(descriptor, CLONE_NEWNS), f"/proc/{pid}/ns/mnt")
    os.close(descriptor)
    os.chdir("/")


def _walk(start: int, path: str, owner: list[int] | None) -> int:
    """Open a folder, one name after another; with `owner` those that are missing are made, and given to
    it."""
    folder = start
    for name in path.split("/"):
        if name in ("", "."):
            continue
        try:
            child = os.open(name, _DIRECTORY, dir_fd=folder)
        except FileNotFoundError:
            if owner is None:
                raise
            os.mkdir(name, 0o755, dir_fd=folder)
            child = os.open(name, _DIRECTORY, dir_fd=folder)
            os.fchown(child, *owner)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise NotADirectoryError(errno.ENOTDIR, "it is a file or a link", path) from None
            raise
        os.close(folder)
        folder = child
    return folder


def mount(wish: dict[str, Any]) -> None:
    """See the module. Raises OSError."""
    _checked(_libc.unshare(CLONE_NEWNS), "unshare")
    _mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    _attach(_served(wish) if "served" in wish else _overlay(wish), wish)


def _served(wish: dict[str, Any]) -> int:
    """A folder that is mounted in the mount namespace of a process."""
    pid, path = wish["served"]
    _enter_mounts(pid)
    return os.open(path, _DIRECTORY)


def _overlay(wish: dict[str, Any]) -> int:
    read_only = wish["read_only"]
    options = b"lowerdir=lower:empty" if read_only else b"lowerdir=lower,upperdir=upper,workdir=work"
    options += b",redirect_dir=off,metacopy=off,index=off"
    _mount(b"overlay", b"merged", b"overlay", MS_NOSUID | MS_NODEV, options)
    owner = None if read_only else wish["owner"]
    try:
        return _walk(os.open("merged", _DIRECTORY), wish["sub_path"], owner)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "the volume has no such folder", wish["sub_path"]) from None


def _attach(folder: int, wish: dict[str, Any]) -> None:
    empty = ctypes.c_char_p(b"")
    tree = _system_call("open_tree", OPEN_TREE, folder, empty, OPEN_TREE_CLONE | AT_EMPTY_PATH | os.O_CLOEXEC)
    what = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if wish["read_only"] else 0)
    attributes = _MountAttributes(attr_set=what)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _system_call("mount_setattr", MOUNT_SETATTR, tree, empty, AT_EMPTY_PATH, ctypes.byref(attributes), size)
    _enter_mounts(wish["pid"])
    target = _walk(os.open("/", _DIRECTORY), wish["target"], wish["owner"])
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _system_call("move_mount", MOVE_MOUNT, tree, empty, target, empty, flags)


def unmount(wish: dict[str, Any]) -> None:
    """See the module. Raises OSError."""
    _enter_mounts(wish["pid"])
    _checked(_libc.umount2(os.fsencode(wish["target"]), UMOUNT_NOFOLLOW), wish["target"])


def main() -> int:
    """See the module."""
    wish = json.loads(sys.argv[1])
    try:
        {"mount": mount, "unmount": unmount}[wish["do"]](wish)
    except OSError as error:
        print(f"{error.filename or wish['target']}: {error.strerror}", file=sys.stderr)
        return error.errno or 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
