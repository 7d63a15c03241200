"""The kernel's FUSE protocol: the part that one flat folder of read-only files needs.

Spoken here and not through libfuse, because a libfuse process can only ever begin a connection: it answers
nothing before the kernel's first request, which is sent once, and the numbers of its files die with it. A
process that speaks the protocol itself can go on with the connection of one that died. Layouts are those of
Linux' ``include/uapi/linux/fuse.h``, version 7.31 and what was added at their ends since.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Sequence
from typing import NamedTuple

LOOKUP = 1
FORGET = 2
GETATTR = 3
OPEN = 14
READ = 15
STATFS = 17
RELEASE = 18
FLUSH = 25
INIT = 26
OPENDIR = 27
READDIR = 28
RELEASEDIR = 29
ACCESS = 34
INTERRUPT = 36
DESTROY = 38
BATCH_FORGET = 42

ROOT = 1
"""The number of the folder itself."""

MAX_READ = 1 << 20
"""Bytes that the kernel asks for at once at most."""

REQUEST_ROOM = 64 * 1024
"""Bytes that a request may have; the kernel wants to see room for the largest."""

_MAJOR, _MINOR = 7, 40
_MAX_WRITE = 4096
_PAGE = 4096

_ASYNC_READ = 1 << 0
_PARALLEL_DIROPS = 1 << 18
_MAX_PAGES = 1 << 22
_INIT_EXT = 1 << 30
_HAS_RESEND = 1 << 7  # of the second word of flags

_KEEP_CACHE = 1 << 1
_NOTIFY_STORE = 4
_NOTIFY_RESEND = 7
_FOREVER = 1 << 31
"""Seconds that the kernel may remember what it was told: nothing here ever changes."""

_IN_HEADER = struct.Struct("<IIQQIIIHH")
_STORE_OUT = struct.Struct("<QQII")
_OUT_HEADER = struct.Struct("<IiQ")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHII24x")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY_OUT = struct.Struct("<QQQQII")
_ATTR_OUT = struct.Struct("<QII")
_OPEN_OUT = struct.Struct("<QIi")
_READ_IN = struct.Struct("<QQII")
_STATFS_OUT = struct.Struct("<QQQQQIIII24x")
_DIRENT = struct.Struct("<QQII")


class Request(NamedTuple):
    """One request of the kernel's."""

    opcode: int
    unique: int
    """What the answer has to repeat."""
    node: int
    """The file or folder that it is about."""
    body: bytes


def parse(data: bytes) -> Request:
    """What was read from ``/dev/fuse``, which gives one whole request at a time."""
    _, opcode, unique, node, *_ = _IN_HEADER.unpack_from(data)
    return Request(opcode, unique, node, data[_IN_HEADER.size :])


def answer(connection: int, unique: int, parts: Sequence[bytes | memoryview] = (), error: int = 0) -> None:
    """Answer a request, from any thread.

    Nothing happens where nobody waits for it any more. Raises OSError where the kernel does not take it.
    """
    length = _OUT_HEADER.size + sum(map(len, parts))
    try:
        os.writev(connection, [_OUT_HEADER.pack(length, -error, unique), *parts])
    except (FileNotFoundError, ConnectionAbortedError):  # interrupted; unmounted
        return
    except OSError as failure:
        if failure.errno != errno.ENODEV:
            raise


def store(connection: int, node: int, offset: int, data: bytes | bytearray | memoryview) -> None:
    """Put bytes of a file into the kernel's cache that it has not asked for.

    Waits for reads of the same pages that are under way to be answered. Raises OSError where the kernel does
    not take them; before it has looked up the file, that is FileNotFoundError.
    """
    length = _OUT_HEADER.size + _STORE_OUT.size + len(data)
    parts = [_OUT_HEADER.pack(length, _NOTIFY_STORE, 0), _STORE_OUT.pack(node, offset, len(data), 0), data]
    os.writev(connection, parts)


def ask_again(connection: int) -> None:
    """Have the kernel send again what it has sent and got no answer to. Raises OSError before Linux 6.9."""
    os.write(connection, _OUT_HEADER.pack(_OUT_HEADER.size, _NOTIFY_RESEND, 0))


def init_body(request: Request, more_flags: int = 0) -> bytes:
    """The answer to `INIT`, the first request of a connection."""
    _, minor, readahead, _ = _INIT_IN.unpack_from(request.body)
    flags = _ASYNC_READ | _PARALLEL_DIROPS | _MAX_PAGES | _INIT_EXT | more_flags
    return _INIT_OUT.pack(
        _MAJOR,
        min(minor, _MINOR),
        readahead,
        flags,
        64,
        48,
        _MAX_WRITE,
        1,
        MAX_READ // _PAGE,
        0,
        _HAS_RESEND,
        0,
    )


def entry_body(node: int, size: int) -> bytes:
    """The answer to `LOOKUP` of a file."""
    return _ENTRY_OUT.pack(node, 0, _FOREVER, _FOREVER, 0, 0) + _attributes(node, size)


def attributes_body(node: int, size: int) -> bytes:
    """The answer to `GETATTR`."""
    return _ATTR_OUT.pack(_FOREVER, 0, 0) + _attributes(node, size)


def open_body() -> bytes:
    """The answer to `OPEN` and `OPENDIR`: what the kernel has cached stays."""
    return _OPEN_OUT.pack(0, _KEEP_CACHE, 0)


def read_range(request: Request) -> tuple[int, int]:
    """Offset and length that a `READ` or `READDIR` asks for."""
    _, offset, length, _ = _READ_IN.unpack_from(request.body)
    return offset, length


def statfs_body() -> bytes:
    """The answer to `STATFS`: nothing is free, as is true of what is read-only."""
    return _STATFS_OUT.pack(0, 0, 0, 0, 0, _PAGE, 255, _PAGE, 0)


def entries_body(entries: Sequence[tuple[int, str]], offset: int, room: int) -> bytes:
    """The answer to `READDIR`: as many entries (number, name) from `offset` on as `room` bytes hold."""
    body = b""
    for position, (node, name) in enumerate(entries[offset:], start=offset + 1):
        encoded = os.fsencode(name)
        kind = stat.S_IFDIR if node == ROOT else stat.S_IFREG
        entry = _DIRENT.pack(node, position, len(encoded), kind >> 12) + encoded
        entry += bytes(-len(entry) % 8)
        if len(body) + len(entry) > room:
            break
        body += entry
    return body


def _attributes(node: int, size: int) -> bytes:
    folder = node == ROOT
    mode = stat.S_IFDIR | 0o500 if folder else stat.S_IFREG | 0o400
    links = 2 if folder else 1
    owner, group = os.geteuid(), os.getegid()
    return _ATTR.pack(node, size, -(-size // 512), 0, 0, 0, 0, 0, 0, mode, links, owner, group, 0, _PAGE, 0)
