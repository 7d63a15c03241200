"""The EROFS format, as far as we write it: Linux' ``fs/erofs/erofs_fs.h``, the plainest part, which every
kernel from 5.4 on reads.

An image has, one behind the other: a block with the superblock; inodes, each with what little it has in it;
the directories' blocks; and the files, each from a whole block on.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping

BLOCK = 4096
SLOT = 32
"""Bytes; inodes begin at multiples of it, and are known by the number of theirs."""
FIRST_INODE = BLOCK
"""Where in the image slot 0 is; the root's inode must be there, or soon after."""
PLAIN, INLINE = 1, 5
"""Extended inodes: with their data in blocks, or with the last part of it behind them."""
NO_BLOCK = 0xFFFFFFFF
MOST_BLOCKS = 0xFFFFFFF0
FILE, DIRECTORY, CHARACTER, BLOCK_DEVICE, FIFO, SOCKET, LINK = range(1, 8)
"""What a directory says that its entries are."""

_MAGIC = 0xE0F5E1E2
_SUPER_AT = 1024
_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT = struct.Struct("<QHBx")
_XATTRS = struct.Struct("<IB7x")
_XATTR = struct.Struct("<BBH")
INODE_SIZE = _INODE.size
MOST_INLINE = BLOCK - INODE_SIZE
_PREFIXES = (
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
)


def write_superblock(image: bytearray, *, blocks: int, inodes: int, root: int, uuid: bytes = b"") -> None:
    """Into an image's first bytes. `root`: where the root's inode is, from the first one on, in bytes."""
    _SUPER.pack_into(
        image,
        _SUPER_AT,
        *(_MAGIC, 0, 0, 12, 0, root // SLOT, inodes, 0, 0, blocks, 1, 0),
        *(uuid, b"", 0, 0, 0, 0, 0, 0, 0, 0, 0),
    )


def write_inode(
    image: bytearray,
    at: int,
    *,
    mode: int,
    size: int,
    block: int,
    number: int,
    owner: tuple[int, int],
    mtime_ns: int,
    links: int,
    xattrs: bytes = b"",
    tail: bytes = b"",
) -> None:
    """At `at`, in bytes from the first inode on. `block` is where its data begins, or a device's number;
    `tail` is that part of the data which is kept here, and `xattrs` what `pack_xattrs` made. What was changed
    before 1970 was changed in 1970."""
    at += FIRST_INODE
    layout = INLINE if tail else PLAIN
    count = (len(xattrs) - _XATTRS.size) // 4 + 1 if xattrs else 0
    seconds, rest = divmod(max(mtime_ns, 0), 10**9)
    _INODE.pack_into(image, at, layout, count, mode, 0, size, block, number, *owner, seconds, rest, links)
    behind = xattrs + tail
    image[at + _INODE.size : at + _INODE.size + len(behind)] = behind


def place_inode(at: int, behind: int = 0, tail: int = 0) -> int:
    """Where an inode can be, from `at` on, with `behind` bytes of attributes and then `tail` of data, which
    have to be within one block (so `MOST_INLINE` at most)."""
    at += -at % SLOT
    while at % BLOCK + INODE_SIZE > BLOCK or (at + INODE_SIZE + behind) % BLOCK + tail > BLOCK:
        at += SLOT
    return at


def pack_xattrs(attributes: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Extended attributes, sorted; those with names that the format has no place for are left out.

    Raises ValueError where one is too long.
    """
    packed = b""
    for name, value in sorted(attributes):
        for prefix, index in _PREFIXES:
            if name.startswith(prefix):
                rest = name[len(prefix) :]
                if len(rest) > 255 or len(value) > 0xFFFF:
                    raise ValueError(f"its attribute {name.decode(errors='replace')} is too long")
                entry = _XATTR.pack(len(rest), index, len(value)) + rest + value
                packed += entry + bytes(-len(entry) % 4)
                break
    return _XATTRS.pack(0, 0) + packed if packed else b""


def pack_device(device: int) -> int:
    """A device's number, as `os.stat` has it, as the kernel writes it."""
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


class Names:
    """The names of a directory, block by block, each with what is told of it."""

    def __init__(self, names: Iterable[bytes]) -> None:
        """`names` come sorted, as bytes, with ``.`` and ``..`` among them."""
        self.blocks: list[list[bytes]] = []
        room = 0
        for name in names:
            needed = _DIRENT.size + len(name)
            if needed > room:
                self.blocks.append([])
                room = BLOCK
            self.blocks[-1].append(name)
            room -= needed
        self.last = sum(_DIRENT.size + len(name) for name in self.blocks[-1])
        """Bytes of the last block that are used."""

    @property
    def size(self) -> int:
        """Bytes of the directory."""
        return (len(self.blocks) - 1) * BLOCK + self.last

    def packed(self, inodes: Mapping[bytes, tuple[int, int]]) -> list[bytes]:
        """The blocks as they are written. `inodes`: of each name, where its inode is (from the first one on,
        in bytes), and its type."""
        blocks = []
        for names in self.blocks:
            place = _DIRENT.size * len(names)
            head = b""
            for name in names:
                inode, kind = inodes[name]
                head += _DIRENT.pack(inode // SLOT, place, kind)
                place += len(name)
            blocks.append(head + b"".join(names))
        return blocks
