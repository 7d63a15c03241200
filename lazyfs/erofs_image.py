"""A folder as an EROFS image whose parts lie in the order in which programs read them.

All names and attributes come first; tiny files are kept with theirs. Then the files: bytecode, libraries and
programs, sources, and what is left, each in the order of the tree. So what an ``import`` needs of an image of
many packages is close together, and a part of it is fetched with few requests (docs/adr/0017). Equal trees
make equal images.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from skylift.lazyfs import erofs_format as erofs
from skylift.lazyfs.positioned_io import write_at

_TINY = 512
"""Bytes: files up to this size are kept behind their inodes."""
_WORKERS = 4
_PIECE = 1 << 20
_SOURCES = (b".py", b".pth", b".json", b".txt", b".toml", b".cfg")
_TYPES = {
    stat.S_IFREG: erofs.FILE,
    stat.S_IFDIR: erofs.DIRECTORY,
    stat.S_IFCHR: erofs.CHARACTER,
    stat.S_IFBLK: erofs.BLOCK_DEVICE,
    stat.S_IFIFO: erofs.FIFO,
    stat.S_IFSOCK: erofs.SOCKET,
    stat.S_IFLNK: erofs.LINK,
}


class TreeError(Exception):
    """A folder of which no image can be made; says which file is at fault, and why."""


class _Node:
    """A file or directory; one with several names is one."""

    __slots__ = (
        "block",
        "children",
        "links",
        "names",
        "packed",
        "parent",
        "path",
        "place",
        "size",
        "stat",
        "tail",
        "xattrs",
    )

    def __init__(self, path: bytes, found: os.stat_result, parent: _Node | None) -> None:
        self.path = path
        self.stat = found
        self.parent = parent or self
        self.children: list[tuple[bytes, _Node]] = []
        self.names: erofs.Names | None = None
        self.packed: list[bytes] = []
        """Of a directory: its blocks of names, without what is kept behind the inode."""
        self.links = 1
        self.xattrs = b""
        self.tail = b""
        """What is kept behind the inode: a tiny file, a link's target, a directory's last names."""
        self.size = 0
        self.place = 0
        """Of the inode, from the first one on."""
        self.block = 0

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.stat.st_mode)


class FolderImage:
    """What an image of a folder will be; `write` writes it."""

    def __init__(self, folder: Path, *, all_root: bool = False) -> None:
        """Reads all directories, and tiny files. With `all_root` everything belongs to root.

        Raises `TreeError`, and OSError where something cannot be read.
        """
        self._all_root = all_root
        self._nodes = _scan(os.fsencode(folder))
        end = self._place_inodes()
        block = 1 + -(-end // erofs.BLOCK)
        for node in self._nodes:
            node.block, block = block, block + len(node.packed)
        self._metadata_blocks = block
        self._files = [
            node for node in self._nodes if node.kind == stat.S_IFREG and node.size and not node.tail
        ]
        self._files.sort(key=_rank)
        for node in self._files:
            node.block, block = block, block + -(-node.size // erofs.BLOCK)
        if block > erofs.MOST_BLOCKS:
            raise TreeError(f"{block * erofs.BLOCK:,} bytes are more than an image can have")
        self.size = block * erofs.BLOCK
        """Bytes, holes counted."""

    def write(self, image: Path) -> None:
        """Raises `TreeError` where a file has changed since the folder was looked at, and OSError."""
        descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, self.size)
            write_at(descriptor, self._metadata(), 0)
            with ThreadPoolExecutor(_WORKERS, thread_name_prefix="image") as pool:
                copies = [pool.submit(_copy, node, descriptor) for node in self._files]
                try:
                    for copy in copies:
                        copy.result()
                finally:
                    for copy in copies:
                        copy.cancel()
        finally:
            os.close(descriptor)

    def _place_inodes(self) -> int:
        at = 0
        for node in self._nodes:
            tail = len(node.tail)
            if node.names is not None and node.names.last <= erofs.MOST_INLINE:
                tail = node.names.last
            node.place = erofs.place_inode(at, len(node.xattrs), tail)
            at = node.place + erofs.INODE_SIZE + len(node.xattrs) + tail
        # Names can be written once it is known where all inodes are.
        for node in self._nodes:
            if node.names is not None:
                named = [*node.children, (b".", node), (b"..", node.parent)]
                node.packed = node.names.packed(
                    {name: (each.place, _TYPES[each.kind]) for name, each in named}
                )
                if node.names.last <= erofs.MOST_INLINE:
                    node.tail = node.packed.pop()
        return at

    def _metadata(self) -> bytes:
        image = bytearray(self._metadata_blocks * erofs.BLOCK)
        erofs.write_superblock(
            image, blocks=self.size // erofs.BLOCK, inodes=len(self._nodes), root=self._nodes[0].place
        )
        for number, node in enumerate(self._nodes, 1):
            for position, packed in enumerate(node.packed, node.block):
                at = position * erofs.BLOCK
                image[at : at + len(packed)] = packed
            found = node.stat
            block = node.block
            if node.kind in (stat.S_IFCHR, stat.S_IFBLK):
                block = erofs.pack_device(found.st_rdev)
            erofs.write_inode(
                image,
                node.place,
                mode=found.st_mode & 0xFFFF,
                size=node.size,
                block=erofs.NO_BLOCK if node.tail and not node.block else block,
                number=number,
                owner=(0, 0) if self._all_root else (found.st_uid, found.st_gid),
                mtime_ns=found.st_mtime_ns,
                links=node.links,
                xattrs=node.xattrs,
                tail=node.tail,
            )
        return bytes(image)


def _scan(folder: bytes) -> list[_Node]:
    """All there is, in the order of the tree: a directory's entries lie together, its own first."""
    top = _Node(folder, os.stat(folder), None)
    nodes = [top]
    linked: dict[tuple[int, int], _Node] = {}
    waiting = [top]
    while waiting:
        parent = waiting.pop()
        folders = []
        for entry in sorted(os.scandir(parent.path), key=lambda entry: entry.name):
            found = entry.stat(follow_symlinks=False)
            node = linked.get((found.st_dev, found.st_ino)) if found.st_nlink > 1 else None
            if node is not None and node.kind != stat.S_IFDIR:
                node.links += 1
            else:
                node = _Node(entry.path, found, parent)
                nodes.append(node)
                if node.kind == stat.S_IFDIR:
                    folders.append(node)
                elif found.st_nlink > 1:
                    linked[found.st_dev, found.st_ino] = node
            parent.children.append((entry.name, node))
        waiting += reversed(folders)
        names = sorted([b".", b"..", *(name for name, _ in parent.children)])
        parent.names = erofs.Names(names)
        parent.size = parent.names.size
        parent.links = 2 + len(folders)
    for node in nodes:
        _look_at(node)
    return nodes


def _look_at(node: _Node) -> None:
    try:
        node.xattrs = erofs.pack_xattrs(_xattrs(node.path))
    except ValueError as error:
        raise TreeError(f"{os.fsdecode(node.path)}: {error}") from error
    if node.kind == stat.S_IFREG:
        node.size = node.stat.st_size
        if 0 < node.size <= _TINY:
            node.tail = _tiny(node)
    elif node.kind == stat.S_IFLNK:
        node.tail = os.readlink(node.path)
        node.size = len(node.tail)
        if node.size > erofs.MOST_INLINE:
            raise TreeError(f"{os.fsdecode(node.path)} is a link to a path of {node.size:,} bytes")


def _xattrs(path: bytes) -> Iterator[tuple[bytes, bytes]]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return
        raise
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # was taken away meanwhile
            yield os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)


def _tiny(node: _Node) -> bytes:
    with open(node.path, "rb", buffering=0) as file:
        data = file.read(_TINY + 1)
        _check(node, os.fstat(file.fileno()))
    return data


def _rank(node: _Node) -> int:
    """What is read first lies first; within a rank the order is that of the tree."""
    name = node.path[node.path.rfind(b"/") + 1 :]
    if name.endswith(b".pyc"):
        return 0
    if name.endswith(b".so") or b".so." in name or node.stat.st_mode & 0o111:
        return 1
    return 2 if name.endswith(_SOURCES) else 3


def _copy(node: _Node, image: int) -> None:
    at = node.block * erofs.BLOCK
    with open(node.path, "rb", buffering=0) as file:
        descriptor = file.fileno()
        offset = 0
        while offset < node.size:
            try:
                offset = os.lseek(descriptor, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left
                    break
                raise
            data = os.pread(descriptor, min(_PIECE, node.size - offset), offset)
            if not data:
                break
            write_at(image, data, at + offset)
            offset += len(data)
        _check(node, os.fstat(descriptor))


def _check(node: _Node, now: os.stat_result) -> None:
    before = node.stat
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (now.st_ino, now.st_size, now.st_mtime_ns):
        raise TreeError(
            f"{os.fsdecode(node.path)} changed while it was being read; try again when nothing writes to it"
        )
