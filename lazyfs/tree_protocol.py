"""The kernel's FUSE protocol: what a tree of directories needs beyond `skylift.lazyfs.fuse_protocol`."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable
from typing import NamedTuple

from skylift.lazyfs import fuse_protocol as fuse
from skylift.lazyfs.trees import Entry

READLINK = 5
READDIRPLUS = 44

_FOREVER = 1 << 31
_PAGE = 4096
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY_OUT = struct.Struct("<QQQQII")
_ATTR_OUT = struct.Struct("<QII")
_DIRENT = struct.Struct("<QQII")
_FORGET = struct.Struct("<Q")
_BATCH = struct.Struct("<II")
_FORGET_ONE = struct.Struct("<QQ")

# A tree never changes: the kernel keeps directories and symlinks too, and opens files without asking.
FLAGS = 1 << 13 | 1 << 14 | 1 << 17 | 1 << 23 | 1 << 24
"""READDIRPLUS, READDIRPLUS_AUTO, NO_OPEN_SUPPORT, CACHE_SYMLINKS, NO_OPENDIR_SUPPORT."""

_KINDS = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "link": stat.S_IFLNK}


class Listed(NamedTuple):
    """A name in a directory."""

    name: bytes
    entry: Entry
    node: int
    """0 where it is only named."""


def attributes(node: int, entry: Entry, owner: tuple[int, int]) -> bytes:
    """Of a file, directory or symlink; all belong to `owner`."""
    seconds, rest = divmod(entry.mtime_ns, 10**9)
    seconds = max(seconds, 0)
    size = 0 if entry.kind == "dir" else entry.size
    mode = _KINDS[entry.kind] | entry.mode & 0o1777
    links = 2 if entry.kind == "dir" else 1
    times = (seconds, seconds, seconds, rest, rest, rest)
    return _ATTR.pack(node, size, -(-size // 512), *times, mode, links, *owner, 0, _PAGE, 0)


def entry_body(node: int, entry: Entry, owner: tuple[int, int]) -> bytes:
    """The answer to `LOOKUP`."""
    return _ENTRY_OUT.pack(node, 0, _FOREVER, _FOREVER, 0, 0) + attributes(node, entry, owner)


def nothing_body() -> bytes:
    """The answer to `LOOKUP` of what is not there, which the kernel remembers too."""
    return _ENTRY_OUT.pack(0, 0, _FOREVER, _FOREVER, 0, 0) + bytes(_ATTR.size)


def attributes_body(node: int, entry: Entry, owner: tuple[int, int]) -> bytes:
    """The answer to `GETATTR`."""
    return _ATTR_OUT.pack(_FOREVER, 0, 0) + attributes(node, entry, owner)


def dirent(listed: Listed, position: int, owner: tuple[int, int], plus: bool) -> bytes:
    """One name in the answer to `READDIR` or `READDIRPLUS`; `position` is where the next one is asked for."""
    kind = _KINDS[listed.entry.kind] >> 12
    # Zero would mean that there is nothing; what is only named has a number of no meaning.
    head = _DIRENT.pack(listed.node or position + 1000, position, len(listed.name), kind) + listed.name
    head += bytes(-len(head) % 8)
    if not plus:
        return head
    if listed.node:
        return entry_body(listed.node, listed.entry, owner) + head
    return bytes(_ENTRY_OUT.size + _ATTR.size) + head


def room_for(name: bytes, plus: bool) -> int:
    """Bytes that it takes there."""
    length = _DIRENT.size + len(name)
    return length + -length % 8 + (_ENTRY_OUT.size + _ATTR.size if plus else 0)


def forgotten(request: fuse.Request) -> Iterable[tuple[int, int]]:
    """Which nodes a `FORGET` or `BATCH_FORGET` forgets, and how many of its lookups."""
    if request.opcode == fuse.FORGET:
        return [(request.node, _FORGET.unpack_from(request.body)[0])]
    count, _ = _BATCH.unpack_from(request.body)
    rest = request.body[_BATCH.size :]
    return [_FORGET_ONE.unpack_from(rest, number * _FORGET_ONE.size) for number in range(count)]
