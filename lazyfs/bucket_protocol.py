"""The kernel's FUSE protocol: what files that are written to need beyond `skylift.lazyfs.fuse_protocol`."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from skylift.lazyfs import fuse_protocol as fuse
from skylift.lazyfs.bucket_objects import Found

SETATTR = 4
MKNOD = 8
MKDIR = 9
UNLINK = 10
RMDIR = 11
RENAME = 12
WRITE = 16
FSYNC = 20
FSYNCDIR = 30
CREATE = 35
RENAME2 = 45

MAX_WRITE = 1 << 20
REQUEST_ROOM = MAX_WRITE + 64 * 1024
"""Bytes that a request may have."""

SET_SIZE = 1 << 3
WITH_HANDLE = 1 << 6
_VALID_SECONDS = 1
"""For so long the kernel does not ask again what there is; others change it."""

_PAGE = 4096
_MAJOR, _MINOR = 7, 40
_ASYNC_READ, _ATOMIC_TRUNCATE, _BIG_WRITES, _PARALLEL_DIROPS, _MAX_PAGES = 1, 1 << 3, 1 << 5, 1 << 18, 1 << 22

_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHII24x")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY_OUT = struct.Struct("<QQQQII")
_ATTR_OUT = struct.Struct("<QII")
_OPEN_OUT = struct.Struct("<QIi")
_DIRENT = struct.Struct("<QQII")
_SETATTR_IN = struct.Struct("<IIQQ")
_HANDLE_IN = struct.Struct("<Q")
_OPEN_IN = struct.Struct("<II")
_READ_IN = struct.Struct("<QQII")
_WRITE_IN = struct.Struct("<QQIIQII")
_WRITE_OUT = struct.Struct("<II")
_STATFS_OUT = struct.Struct("<QQQQQIIII24x")
_FORGET = struct.Struct("<Q")
_BATCH = struct.Struct("<II")
_FORGET_ONE = struct.Struct("<QQ")
_BEFORE_NAME = {MKNOD: 16, MKDIR: 8, CREATE: 16, UNLINK: 0, RMDIR: 0, fuse.LOOKUP: 0}
_BEFORE_NAMES = {RENAME: 8, RENAME2: 16}


class Change(NamedTuple):
    """What a `SETATTR` asks for, as far as it matters here."""

    size: int | None
    handle: int | None


class Move(NamedTuple):
    """What a `RENAME` or `RENAME2` asks for."""

    folder: int
    """The node that the name goes to."""
    old: bytes
    new: bytes
    flags: int


def init_body(request: fuse.Request) -> bytes:
    """The answer to `INIT`."""
    _, minor, readahead, _ = _INIT_IN.unpack_from(request.body)
    flags = _ASYNC_READ | _ATOMIC_TRUNCATE | _BIG_WRITES | _PARALLEL_DIROPS | _MAX_PAGES
    pages = MAX_WRITE // _PAGE
    return _INIT_OUT.pack(_MAJOR, min(minor, _MINOR), readahead, flags, 64, 48, MAX_WRITE, 1, pages, 0, 0, 0)


def entry_body(node: int, found: Found, owner: tuple[int, int]) -> bytes:
    """The answer to `LOOKUP`, `MKNOD` and `MKDIR`."""
    return _ENTRY_OUT.pack(node, 0, _VALID_SECONDS, _VALID_SECONDS, 0, 0) + _attributes(node, found, owner)


def attributes_body(node: int, found: Found, owner: tuple[int, int]) -> bytes:
    """The answer to `GETATTR` and `SETATTR`."""
    return _ATTR_OUT.pack(_VALID_SECONDS, 0, 0) + _attributes(node, found, owner)


def open_body(handle: int) -> bytes:
    """The answer to `OPEN` and `OPENDIR`: what the kernel has cached is read anew."""
    return _OPEN_OUT.pack(handle, 0, 0)


def name_of(request: fuse.Request) -> bytes:
    """The name that a request is about."""
    return request.body[_BEFORE_NAME[request.opcode] :].split(b"\0", 1)[0]


def open_flags(request: fuse.Request) -> int:
    """Of `OPEN` and `CREATE`: those of open(2)."""
    return int(_OPEN_IN.unpack_from(request.body)[0])


def mode_of(request: fuse.Request) -> int:
    """Of `MKNOD`: the kind of file."""
    return int(_OPEN_IN.unpack_from(request.body)[0])


def handle_of(request: fuse.Request) -> int:
    """Of what is asked about an open file."""
    return int(_HANDLE_IN.unpack_from(request.body)[0])


def read_wish(request: fuse.Request) -> tuple[int, int, int]:
    """Handle, offset and length of `READ` and `READDIR`."""
    handle, offset, length, _ = _READ_IN.unpack_from(request.body)
    return handle, offset, length


def write_wish(request: fuse.Request) -> tuple[int, int, bytes]:
    """Handle, offset and bytes of `WRITE`."""
    handle, offset, length, *_ = _WRITE_IN.unpack_from(request.body)
    return handle, offset, request.body[_WRITE_IN.size : _WRITE_IN.size + length]


def written_body(count: int) -> bytes:
    """The answer to `WRITE`."""
    return _WRITE_OUT.pack(count, 0)


def change(request: fuse.Request) -> Change:
    """Of `SETATTR`."""
    valid, _, handle, size = _SETATTR_IN.unpack_from(request.body)
    return Change(size if valid & SET_SIZE else None, handle if valid & WITH_HANDLE else None)


def move(request: fuse.Request) -> Move:
    """Of `RENAME` and `RENAME2`."""
    (folder,) = _HANDLE_IN.unpack_from(request.body)
    flags = int.from_bytes(request.body[8:12], "little") if request.opcode == RENAME2 else 0
    old, new, *_ = request.body[_BEFORE_NAMES[request.opcode] :].split(b"\0")
    return Move(folder, old, new, flags)


def statfs_body() -> bytes:
    """The answer to `STATFS`: a bucket has as much room as one wants."""
    blocks = 1 << 40
    return _STATFS_OUT.pack(blocks, blocks, blocks, blocks, blocks, _PAGE, 255, _PAGE, 0)


def entries_body(entries: Sequence[tuple[bytes, bool]], offset: int, room: int) -> bytes:
    """The answer to `READDIR`: as many entries (name, whether it is a folder) as `room` bytes hold."""
    body: list[bytes] = []
    for position, (name, folder) in enumerate(entries[offset:], start=offset + 1):
        kind = (stat.S_IFDIR if folder else stat.S_IFREG) >> 12
        # A name that is only listed has a number of no meaning, but not zero.
        entry = _DIRENT.pack(position + 1000, position, len(name), kind) + name
        entry += bytes(-len(entry) % 8)
        room -= len(entry)
        if room < 0:
            break
        body.append(entry)
    return b"".join(body)


def forgotten(request: fuse.Request) -> Iterable[tuple[int, int]]:
    """Which nodes a `FORGET` or `BATCH_FORGET` forgets, and how many of its lookups."""
    if request.opcode == fuse.FORGET:
        return [(request.node, _FORGET.unpack_from(request.body)[0])]
    count, _ = _BATCH.unpack_from(request.body)
    rest = request.body[_BATCH.size :]
    return [_FORGET_ONE.unpack_from(rest, number * _FORGET_ONE.size) for number in range(count)]


def _attributes(node: int, found: Found, owner: tuple[int, int]) -> bytes:
    seconds = max(int(found.mtime), 0)
    rest = int(found.mtime % 1 * 10**9)
    mode = stat.S_IFDIR | 0o755 if found.folder else stat.S_IFREG | 0o644
    links = 2 if found.folder else 1
    times = (seconds, seconds, seconds, rest, rest, rest)
    blocks = -(-found.size // 512)
    return _ATTR.pack(node, found.size, blocks, *times, mode, links, *owner, 0, _PAGE, 0)
