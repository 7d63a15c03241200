"""One version of a volume, to be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from skylift.lazyfs import chunked
from skylift.lazyfs.trees import Entry, Trees, chunks_of, dir_entry
from skylift.lazyfs.volume_commits import Version
from skylift.lazyfs.volume_edits import DIRECTORY_MODE
from skylift.lazyfs.volume_errors import (
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    ReadOnlyVersionError,
    explaining,
)
from skylift.lazyfs.volume_paths import Parts, parts_of, show, text

_MOST_LINKS = 40
"""As Linux has it."""


class FileInfo(msgspec.Struct, frozen=True):
    """A file, directory or symlink of a volume."""

    path: str
    """From the volume's root, without a slash before it; "" is the root."""
    kind: Literal["file", "dir", "link"]
    size: int
    """Bytes; of a directory those of all files below it."""
    mtime: float
    """Seconds since 1970."""
    mode: int
    """Permission bits."""
    files: int
    """1; of a directory how many there are below it."""
    target: str = ""
    """Where a symlink leads."""


class VolumeView:
    """A tree of a volume, to be read. Thread-safe.

    Symlinks on the way are followed, as long as they stay in the volume. Every method raises
    `PathNotFoundError`, `PathNotDirectoryError`, `PathInvalidError`, `VolumeDamagedError` and
    `VolumeUnreachableError`.
    """

    def __init__(self, trees: Trees, root: str, where: str) -> None:
        """`where` names the volume in messages."""
        self.trees = trees
        self.root = root
        self.where = where

    def stat(self, path: str | bytes) -> FileInfo:
        """What is there. Of a symlink, what that is and not what it leads to."""
        with explaining(self.where, f"looking for {_shown(path)}"):
            return _info(*self.find(path, follow=False))

    def listdir(self, path: str | bytes = "/", *, recursive: bool = False) -> list[FileInfo]:
        """What is in a directory, by name; with `recursive`, in those in it too. Of a file, that file."""
        return list(self.iterdir(path, recursive=recursive))

    def iterdir(self, path: str | bytes = "/", *, recursive: bool = False) -> Iterator[FileInfo]:
        """As `listdir`, one by one. What is wrong with the path is raised at once."""
        doing = f"listing {_shown(path)}"
        with explaining(self.where, doing):
            parts, entry = self.find(path)
        return self._iterate(parts, entry, recursive, doing)

    def read_file(self, path: str | bytes) -> Iterator[bytes]:
        """A file's bytes, in chunks of at most 1 MiB. What is wrong with the path is raised at once.

        Raises `PathIsDirectoryError` too.
        """
        entry = self._file(path)
        return self._chunks(entry, f"reading {_shown(path)}")

    def read_range(self, path: str | bytes, offset: int, length: int) -> bytes:
        """Bytes of a file; fewer where it ends before. Raises as `read_file` does."""
        entry = self._file(path)
        with explaining(self.where, f"reading {_shown(path)}"):
            if entry.held == "inline":
                return entry.content[offset : offset + length]
            return chunked.read_range(chunks_of(entry, self.trees.store), self.trees.store, offset, length)

    def find(self, path: str | bytes, *, follow: bool = True) -> tuple[Parts, Entry]:
        """Where a path leads, and what is there; with `follow`, the last part may be a symlink too."""
        todo = list(reversed(parts_of(self.where, path)))
        asked = _shown(path)
        entries = [self._root_entry()]
        names: list[bytes] = []
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":  # from a symlink
                if not names:
                    raise PathNotFoundError(self.where, asked, "a symlink in it leads out of the volume")
                names.pop()
                entries.pop()
                continue
            if entries[-1].kind != "dir":
                raise PathNotDirectoryError(self.where, text(tuple(names)), f"So there is no {asked}.")
            entry = self.trees.find(entries[-1].blob, name)
            if entry is None:
                here = text((*names, name))
                why = "" if here == asked else f"there is no {here}"
                raise PathNotFoundError(self.where, asked, why)
            if entry.kind == "link" and (todo or follow):
                links += 1
                if links > _MOST_LINKS:
                    raise PathNotFoundError(self.where, asked, "its symlinks go round in circles")
                if entry.content.startswith(b"/"):
                    why = f"{text((*names, name))} leads to {show(entry.content)}, which is not in the volume"
                    raise PathNotFoundError(self.where, asked, why)
                todo += [part for part in reversed(entry.content.split(b"/")) if part not in (b"", b".")]
                continue
            names.append(name)
            entries.append(entry)
        return tuple(names), entries[-1]

    def _root_entry(self) -> Entry:
        return dir_entry(b"", self.trees.written(self.root), DIRECTORY_MODE, 0)

    def _file(self, path: str | bytes) -> Entry:
        with explaining(self.where, f"reading {_shown(path)}"):
            parts, entry = self.find(path)
            if entry.kind == "dir":
                raise PathIsDirectoryError(self.where, text(parts), "Read the files in it: see listdir().")
            return entry

    def _iterate(self, parts: Parts, entry: Entry, recursive: bool, doing: str) -> Iterator[FileInfo]:
        if entry.kind != "dir":
            yield _info(parts, entry)
            return
        waiting = [(parts, entry.blob)]
        while waiting:
            at, blob = waiting.pop()
            below = []
            before = show(b"/".join(at)) + "/" if at else ""
            with explaining(self.where, doing):
                entries = list(self.trees.entries(blob))
            for child in entries:
                yield _described(before + show(child.name), child)
                if recursive and child.kind == "dir":
                    below.append(((*at, child.name), child.blob))
            waiting += reversed(below)

    def _chunks(self, entry: Entry, doing: str) -> Iterator[bytes]:
        if entry.held == "inline":
            if entry.content:
                yield entry.content
            return
        with explaining(self.where, doing):
            file = chunks_of(entry, self.trees.store)
        reader = chunked.ChunkedReader(file, self.trees.store, kept=0)
        for number in range(len(file.chunks)):
            with explaining(self.where, doing):
                data = bytes(reader.chunk(number))
            yield data


class VolumeVersion(VolumeView):
    """A version of a volume, to be read. What would change it raises `ReadOnlyVersionError`."""

    def __init__(self, trees: Trees, version: Version, name: str) -> None:
        super().__init__(trees, version.root, f"Version {version.number} of volume {name!r}")
        self.version = version
        self._name = name

    def batch_upload(self, *_: object, **__: object) -> None:
        """Refused."""
        raise ReadOnlyVersionError(self._name, self.version.number, "batch_upload")

    def copy_files(self, *_: object, **__: object) -> None:
        """Refused."""
        raise ReadOnlyVersionError(self._name, self.version.number, "copy_files")

    def remove_file(self, *_: object, **__: object) -> None:
        """Refused."""
        raise ReadOnlyVersionError(self._name, self.version.number, "remove_file")

    def rename(self, *_: object, **__: object) -> None:
        """Refused."""
        raise ReadOnlyVersionError(self._name, self.version.number, "rename")

    def commit(self, *_: object, **__: object) -> None:
        """Refused."""
        raise ReadOnlyVersionError(self._name, self.version.number, "commit")


def _shown(path: str | bytes) -> str:
    shown = path if isinstance(path, str) else show(path)
    return "/" + "/".join(part for part in shown.split("/") if part not in ("", "."))


def _info(parts: Parts, entry: Entry) -> FileInfo:
    return _described(show(b"/".join(parts)), entry)


def _described(path: str, entry: Entry) -> FileInfo:
    target = show(entry.content) if entry.kind == "link" else ""
    return FileInfo(path, entry.kind, entry.size, entry.mtime_ns / 1e9, entry.mode, entry.files, target)
