"""A tree of a volume as an EROFS image that is never written down: its metadata is laid out in memory, and
the files' bytes are where they are, in the store.

The image has, one behind the other: a block with the superblock; inodes, each with what a tiny file or a
symlink has in it; the directories' blocks; then, each from a whole block on, the files. A read of the image
is a read of the first part, or of a file. The same tree makes the same image. The format is that of Linux'
``fs/erofs/erofs_fs.h``; used of it is the plainest part, which every kernel from 5.4 on reads.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from skylift.lazyfs.chunked import CHUNK_SIZE
from skylift.lazyfs.store import StoreError
from skylift.lazyfs.trees import Entry, Trees

BLOCK = 4096
MOST_ENTRIES = 200_000
"""A larger tree would take seconds, and is shown without an image."""

_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT = struct.Struct("<QHBx")
_MAGIC = 0xE0F5E1E2
_SUPER_AT = 1024
_PLAIN, _INLINE = 1, 5
"""Extended inodes: with their data in blocks, or behind them."""
_SLOT = 32
_TYPES = {"file": 1, "dir": 2, "link": 7}
_KINDS = {"file": 0o100000, "dir": 0o040000, "link": 0o120000}
_MOST_INLINE = BLOCK - _INODE.size
_MOST_BLOCKS = 0xFFFFFFF0


class TooLargeError(StoreError):
    """A tree has too many files for an image."""


class Piece(NamedTuple):
    """A part of a read: bytes, or a range of a file."""

    data: bytes = b""
    entry: Entry | None = None
    offset: int = 0
    length: int = 0


class _Node:
    __slots__ = ("block", "blocks", "children", "entry", "offset", "parent", "subfolders")

    def __init__(self, entry: Entry, parent: _Node | None) -> None:
        self.entry = entry
        self.parent = parent or self
        self.children: list[_Node] = []
        self.subfolders = 0
        self.offset = 0
        """Of its inode, from the first one on."""
        self.block = 0
        self.blocks: list[list[tuple[bytes, _Node]]] = []
        """Of a directory: what is in each of its blocks."""


class TreeImage:
    """One image."""

    def __init__(self, trees: Trees, root: Entry, owner: tuple[int, int]) -> None:
        """Reads all directories of the tree. Raises `TooLargeError`, and what the store raises."""
        self._owner = owner
        nodes = _nodes(trees, root)
        end = _place_inodes(nodes)
        first_block = 1 + -(-end // BLOCK)
        block = first_block
        for node in nodes:
            if node.entry.kind == "dir":
                node.blocks = _packed(node)
                node.block, block = block, block + len(node.blocks)
            elif node.entry.held == "inline" and len(node.entry.content) > _MOST_INLINE:
                node.block, block = block, block + 1
        self._metadata_blocks = block
        self._starts: list[int] = []
        self._files: list[Entry] = []
        for node in nodes:
            entry = node.entry
            if entry.kind == "file" and entry.held != "inline":
                node.block = block
                self._starts.append(block)
                self._files.append(entry)
                block += -(-entry.size // BLOCK)
        if block > _MOST_BLOCKS:
            raise TooLargeError(f"{block * BLOCK:,} bytes are more than an image can have.")
        self.size = block * BLOCK
        self.metadata = self._laid_out(nodes, block)

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        """What a range of the image is made of."""
        end = min(offset + length, self.size)
        while offset < end:
            if offset < len(self.metadata):
                data = self.metadata[offset : min(end, len(self.metadata))]
                yield Piece(bytes(data))
                offset += len(data)
                continue
            number = bisect_right(self._starts, offset // BLOCK) - 1
            entry = self._files[number]
            begin = self._starts[number] * BLOCK
            next_file = self._starts[number + 1] * BLOCK if number + 1 < len(self._starts) else self.size
            within = offset - begin
            count = min(end, begin + entry.size) - offset
            if count > 0:
                yield Piece(entry=entry, offset=within, length=count)
            else:
                count = min(end, next_file) - offset  # the rest of a file's last block
                yield Piece(bytes(count))
            offset += count

    def file_at(self, offset: int) -> int:
        """The number of the file that is there; -1 in what is no file."""
        return bisect_right(self._starts, offset // BLOCK) - 1

    def small_files(self, begin: int, count: int) -> list[Entry]:
        """Those of the next files that are one chunk."""
        return [entry for entry in self._files[begin : begin + count] if entry.size <= CHUNK_SIZE]

    def _laid_out(self, nodes: list[_Node], blocks: int) -> bytes:
        image = bytearray(self._metadata_blocks * BLOCK)
        root = nodes[0]
        _SUPER.pack_into(
            image,
            _SUPER_AT,
            *(_MAGIC, 0, 0, 12, 0, root.offset // _SLOT, len(nodes), 0, 0, blocks, 1, 0),
            *(root.entry.content[:16], b"", 0, 0, 0, 0, 0, 0, 0, 0, 0),
        )
        for number, node in enumerate(nodes, 1):
            self._inode(image, node, number)
            for at, names in enumerate(node.blocks):
                _write_names(image, (node.block + at) * BLOCK, names)
        return bytes(image)

    def _inode(self, image: bytearray, node: _Node, number: int) -> None:
        entry = node.entry
        tail = b""
        size, links, layout = entry.size, 1, _PLAIN
        if entry.kind == "dir":
            size, links = _directory_size(node), 2 + node.subfolders
        elif entry.held == "inline":
            size = len(entry.content)
            if 0 < size <= _MOST_INLINE:
                layout, tail = _INLINE, entry.content
            elif size:
                image[node.block * BLOCK : node.block * BLOCK + size] = entry.content
        seconds, rest = divmod(max(entry.mtime_ns, 0), 10**9)
        at = BLOCK + node.offset
        mode = _KINDS[entry.kind] | entry.mode & 0o1777
        block = 0xFFFFFFFF if tail else node.block
        _INODE.pack_into(
            image, at, layout, 0, mode, 0, size, block, number, *self._owner, seconds, rest, links
        )
        image[at + _INODE.size : at + _INODE.size + len(tail)] = tail


def _nodes(trees: Trees, root: Entry) -> list[_Node]:
    top = _Node(root, None)
    nodes = [top]
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        for entry in trees.entries(folder.entry.blob):
            node = _Node(entry, folder)
            folder.children.append(node)
            nodes.append(node)
            if entry.kind == "dir":
                folder.subfolders += 1
                waiting.append(node)
        if len(nodes) > MOST_ENTRIES:
            raise TooLargeError(f"A tree of over {MOST_ENTRIES:,} entries has no image.")
    return nodes


def _place_inodes(nodes: list[_Node]) -> int:
    """Where each is; returns where the last one ends."""
    at = 0
    for node in nodes:
        entry = node.entry
        inline = entry.kind != "dir" and entry.held == "inline" and len(entry.content) <= _MOST_INLINE
        size = _INODE.size + (len(entry.content) if inline else 0)
        if at % BLOCK + size > BLOCK:  # what is behind an inode is in its block
            at += -at % BLOCK
        node.offset = at
        at += size
        at += -at % _SLOT
    return at


def _packed(folder: _Node) -> list[list[tuple[bytes, _Node]]]:
    """The names of a directory, sorted, block by block."""
    names = [(b".", folder), (b"..", folder.parent)]
    names += [(child.entry.name, child) for child in folder.children]
    names.sort(key=lambda pair: pair[0])
    blocks: list[list[tuple[bytes, _Node]]] = []
    room = 0
    for pair in names:
        needed = _DIRENT.size + len(pair[0])
        if needed > room:
            blocks.append([])
            room = BLOCK
        blocks[-1].append(pair)
        room -= needed
    return blocks


def _directory_size(folder: _Node) -> int:
    last = sum(_DIRENT.size + len(name) for name, _ in folder.blocks[-1])
    return (len(folder.blocks) - 1) * BLOCK + last


def _write_names(image: bytearray, at: int, names: list[tuple[bytes, _Node]]) -> None:
    place = _DIRENT.size * len(names)
    for position, (name, node) in enumerate(names):
        _DIRENT.pack_into(
            image, at + position * _DIRENT.size, node.offset // _SLOT, place, _TYPES[node.entry.kind]
        )
        image[at + place : at + place + len(name)] = name
        place += len(name)
