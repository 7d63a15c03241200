"""Changes to a tree, collected in memory and then written at once."""

from __future__ import annotations

import msgspec

from skylift.lazyfs.trees import Entry, Trees, Written, dir_entry
from skylift.lazyfs.volume_errors import PathIsDirectoryError, PathNotDirectoryError, PathNotFoundError
from skylift.lazyfs.volume_paths import Parts, check_length, text

DIRECTORY_MODE = 0o755
"""Of directories that are made because a file is put into them."""


class _Directory:
    """A directory that is being changed."""

    def __init__(self, base: str, mode: int, mtime_ns: int) -> None:
        self.base = base
        """The blob that it is like, but for the changes; "" for a new one."""
        self.mode = mode
        self.mtime_ns = mtime_ns
        self.changes: dict[bytes, Entry | _Directory | None] = {}


class TreeEditor:
    """Changes one tree. Not thread-safe."""

    def __init__(self, trees: Trees, root: str, where: str, now_ns: int) -> None:
        """`where` names the volume in messages; `now_ns` becomes the time of directories that change."""
        self._trees = trees
        self._where = where
        self._now_ns = now_ns
        self._root = _Directory(root, DIRECTORY_MODE, now_ns)

    def find(self, parts: Parts) -> Entry | None:
        """What is there now; None where there is nothing. Symlinks are not followed.

        Of a directory that has changed, `size`, `files` and `content` are those from before.
        """
        here: Entry | _Directory | None = self._root
        for part in parts:
            if isinstance(here, Entry):
                here = self._trees.find(here.blob, part) if here.kind == "dir" else None
            elif here is not None:
                here = self._child(here, part)
        if isinstance(here, _Directory):
            written = self._trees.written(here.base) if here.base else Written("", 0, 0, True)
            return dir_entry(parts[-1] if parts else b"", written, here.mode, here.mtime_ns)
        return here

    def put(self, parts: Parts, entry: Entry) -> None:
        """Put a file, a symlink or a whole directory there, in place of what is there.

        Directories above it are made where they are missing. Raises `PathNotDirectoryError` where one of them
        is a file, `PathIsDirectoryError` where a file would take the place of a directory, and
        `PathInvalidError`.
        """
        check_length(self._where, parts)
        if not parts:
            raise PathIsDirectoryError(self._where, "/", "Name the file in it.")
        parent = self._open(parts[:-1], make=True)
        old = self._child(parent, parts[-1])
        if entry.kind != "dir" and _is_directory(old):
            raise PathIsDirectoryError(
                self._where, text(parts), "Remove it first (remove_file(…, recursive=True))."
            )
        if old is None:
            parent.mtime_ns = self._now_ns
        parent.changes[parts[-1]] = msgspec.structs.replace(entry, name=parts[-1])

    def make_directory(self, parts: Parts, mode: int, mtime_ns: int | None = None) -> None:
        """Make a directory, or give the one that is there this mode (and time). Raises as `put` does."""
        check_length(self._where, parts)
        directory = self._open(parts, make=True)
        directory.mode = mode
        if mtime_ns is not None:
            directory.mtime_ns = mtime_ns

    def remove(self, parts: Parts, *, missing_ok: bool = False) -> None:
        """Remove a file or a whole directory. Raises `PathNotFoundError`."""
        if self.find(parts) is None:
            if missing_ok:
                return
            raise PathNotFoundError(self._where, text(parts))
        if not parts:
            for entry in list(self._trees.entries(self._root.base)):
                self._root.changes[entry.name] = None
            self._root.changes = dict.fromkeys(self._root.changes)
            return
        parent = self._open(parts[:-1], make=False)
        parent.changes[parts[-1]] = None
        parent.mtime_ns = self._now_ns

    def write(self) -> str:
        """Write every directory that has changed; the root's blob. Raises what the store raises."""
        return self._write(self._root).blob

    def _open(self, parts: Parts, make: bool) -> _Directory:
        here = self._root
        for depth, part in enumerate(parts):
            child = self._child(here, part)
            if isinstance(child, Entry):
                if child.kind != "dir":
                    raise PathNotDirectoryError(
                        self._where, text(parts[: depth + 1]), "Remove it first, or take another path."
                    )
                child = _Directory(child.blob, child.mode, child.mtime_ns)
                here.changes[part] = child
            elif child is None:
                if not make:
                    raise PathNotFoundError(self._where, text(parts[: depth + 1]))
                child = _Directory("", DIRECTORY_MODE, self._now_ns)
                here.changes[part] = child
                here.mtime_ns = self._now_ns
            here = child
        return here

    def _child(self, directory: _Directory, name: bytes) -> Entry | _Directory | None:
        if name in directory.changes:
            return directory.changes[name]
        return self._trees.find(directory.base, name) if directory.base else None

    def _write(self, directory: _Directory) -> Written:
        changes: dict[bytes, Entry | None] = {}
        for name, change in directory.changes.items():
            if isinstance(change, _Directory):
                changes[name] = dir_entry(name, self._write(change), change.mode, change.mtime_ns)
            else:
                changes[name] = change
        if not directory.base:
            return self._trees.put(entry for entry in changes.values() if entry)
        return self._trees.change(directory.base, changes)


def _is_directory(what: Entry | _Directory | None) -> bool:
    return isinstance(what, _Directory) or (what is not None and what.kind == "dir")
