"""A tree of a volume as an EROFS image that is never written down: its metadata is laid out in memory, and
the files' bytes are where they are, in the store.

A read of the image is a read of its metadata, or of a file. The same tree makes the same image.
"""

from __future__ import annotations

import stat
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from skylift.lazyfs import erofs_format as erofs
from skylift.lazyfs.chunked import CHUNK_SIZE
from skylift.lazyfs.store import StoreError
from skylift.lazyfs.trees import Entry, Trees

MOST_ENTRIES = 200_000
"""A larger tree would take seconds, and is shown without an image."""

_TYPES = {"file": erofs.FILE, "dir": erofs.DIRECTORY, "link": erofs.LINK}
_KINDS = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "link": stat.S_IFLNK}


class TooLargeError(StoreError):
    """A tree has too many files for an image."""


class Piece(NamedTuple):
    """A part of a read: bytes, or a range of a file."""

    data: bytes = b""
    entry: Entry | None = None
    offset: int = 0
    length: int = 0


class _Node:
    __slots__ = ("block", "children", "entry", "names", "offset", "parent", "subfolders")

    def __init__(self, entry: Entry, parent: _Node | None) -> None:
        self.entry = entry
        self.parent = parent or self
        self.children: list[_Node] = []
        self.subfolders = 0
        self.offset = 0
        """Of its inode, from the first one on."""
        self.block = 0
        self.names: erofs.Names | None = None


class TreeImage:
    """One image."""

    def __init__(self, trees: Trees, root: Entry, owner: tuple[int, int]) -> None:
        """Reads all directories of the tree. Raises `TooLargeError`, and what the store raises."""
        self._owner = owner
        nodes = _nodes(trees, root)
        end = _place_inodes(nodes)
        first_block = 1 + -(-end // erofs.BLOCK)
        block = first_block
        for node in nodes:
            if node.entry.kind == "dir":
                node.names = erofs.Names(
                    sorted([b".", b"..", *(child.entry.name for child in node.children)])
                )
                node.block, block = block, block + len(node.names.blocks)
            elif node.entry.held == "inline" and len(node.entry.content) > erofs.MOST_INLINE:
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
                block += -(-entry.size // erofs.BLOCK)
        if block > erofs.MOST_BLOCKS:
            raise TooLargeError(f"{block * erofs.BLOCK:,} bytes are more than an image can have.")
        self.size = block * erofs.BLOCK
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
            number = bisect_right(self._starts, offset // erofs.BLOCK) - 1
            entry = self._files[number]
            begin = self._starts[number] * erofs.BLOCK
            next_file = (
                self._starts[number + 1] * erofs.BLOCK if number + 1 < len(self._starts) else self.size
            )
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
        return bisect_right(self._starts, offset // erofs.BLOCK) - 1

    def small_files(self, begin: int, count: int) -> list[Entry]:
        """Those of the next files that are one chunk."""
        return [entry for entry in self._files[begin : begin + count] if entry.size <= CHUNK_SIZE]

    def _laid_out(self, nodes: list[_Node], blocks: int) -> bytes:
        image = bytearray(self._metadata_blocks * erofs.BLOCK)
        root = nodes[0]
        erofs.write_superblock(
            image, blocks=blocks, inodes=len(nodes), root=root.offset, uuid=root.entry.content[:16]
        )
        for number, node in enumerate(nodes, 1):
            self._inode(image, node, number)
            for at, packed in enumerate(_packed(node)):
                begin = (node.block + at) * erofs.BLOCK
                image[begin : begin + len(packed)] = packed
        return bytes(image)

    def _inode(self, image: bytearray, node: _Node, number: int) -> None:
        entry = node.entry
        tail = b""
        size, links = entry.size, 1
        if node.names is not None:
            size, links = node.names.size, 2 + node.subfolders
        elif entry.held == "inline":
            size = len(entry.content)
            if 0 < size <= erofs.MOST_INLINE:
                tail = entry.content
            elif size:
                begin = node.block * erofs.BLOCK
                image[begin : begin + size] = entry.content
        erofs.write_inode(
            image,
            node.offset,
            mode=_KINDS[entry.kind] | entry.mode & 0o1777,
            size=size,
            block=erofs.NO_BLOCK if tail else node.block,
            number=number,
            owner=self._owner,
            mtime_ns=entry.mtime_ns,
            links=links,
            tail=tail,
        )


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
        inline = entry.kind != "dir" and entry.held == "inline" and len(entry.content) <= erofs.MOST_INLINE
        tail = len(entry.content) if inline else 0
        node.offset = erofs.place_inode(at, tail=tail)
        at = node.offset + erofs.INODE_SIZE + tail
    return at


def _packed(folder: _Node) -> list[bytes]:
    """The blocks of a directory; of what is none, none."""
    if folder.names is None:
        return []
    named = [*((node.entry.name, node) for node in folder.children), (b".", folder), (b"..", folder.parent)]
    return folder.names.packed({name: (node.offset, _TYPES[node.entry.kind]) for name, node in named})
