"""A folder of this machine becomes what another version of a volume is."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable

from skylift.lazyfs.chunked import ChunkedReader
from skylift.lazyfs.trees import Entry, Trees, chunks_of
from skylift.lazyfs.volume_paths import Parts

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Wanted = Callable[[Parts, int], bool]
"""Called with a path and the open directory that it is in, before what is there is replaced or removed:
whether it may be. Else it stays."""


class Checkout:
    """Writes into one folder. No symlink in it is followed."""

    def __init__(
        self,
        trees: Trees,
        folder: str | os.PathLike[str],
        may_replace: Wanted,
        wrote: Callable[[Parts, int, Entry], None],
    ) -> None:
        """`wrote` is called with each file that was written, and the open directory that it is in."""
        self._trees = trees
        self._may_replace = may_replace
        self._wrote = wrote
        self._empty = trees.put(()).blob
        self._root = folder
        self._owner = os.stat(folder)

    def run(self, old: str, new: str) -> None:
        """Write what differs between two trees, of which the folder has the old one.

        Each file is there as it was or as it is to be, never in between. May be run again where it was cut
        off. Raises OSError and what the store raises.
        """
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._directory(descriptor, old, new, ())
        finally:
            os.close(descriptor)

    def _directory(self, folder: int, old: str, new: str, at: Parts) -> None:
        for name, (before, after) in sorted(self._trees.differences(old, new).items()):
            parts = (*at, name)
            was = before.blob if before is not None and before.kind == "dir" else self._empty
            if after is not None and after.kind == "dir":
                if before is not None and before.kind != "dir" and not self._remove(folder, parts):
                    continue
                self._into(folder, parts, was, after)
                continue
            if before is not None and before.kind == "dir":
                self._leave(folder, parts, was)
            if after is None:
                if before is not None and before.kind != "dir":
                    self._remove(folder, parts)
            elif self._may_replace(parts, folder):
                with contextlib.suppress(IsADirectoryError):  # somebody keeps something of their own there
                    self._write(folder, parts, after)

    def _into(self, folder: int, parts: Parts, was: str, entry: Entry) -> None:
        name = parts[-1]
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
            made = True
        except FileExistsError:
            made = False
        try:
            child = os.open(name, _DIRECTORY, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                return  # somebody has put something else there meanwhile: it is theirs
            raise
        try:
            if made:
                os.fchown(child, self._owner.st_uid, self._owner.st_gid)
            self._directory(child, was, entry.blob, parts)
            os.fchmod(child, entry.mode)
            os.utime(child, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(child)

    def _leave(self, folder: int, parts: Parts, was: str) -> None:
        """Remove a directory with what the old tree had in it."""
        try:
            child = os.open(parts[-1], _DIRECTORY, dir_fd=folder)
        except OSError:
            return
        try:
            self._directory(child, was, self._empty, parts)
        finally:
            os.close(child)
        with contextlib.suppress(OSError):  # what is in it has come meanwhile
            os.rmdir(parts[-1], dir_fd=folder)

    def _remove(self, folder: int, parts: Parts) -> bool:
        if not self._may_replace(parts, folder):
            return False
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(parts[-1], dir_fd=folder)
        return True

    def _write(self, folder: int, parts: Parts, entry: Entry) -> None:
        temporary = f".skylift-{secrets.token_hex(8)}.part"
        try:
            if entry.kind == "link":
                os.symlink(entry.content, temporary.encode(), dir_fd=folder)
                os.chown(
                    temporary, self._owner.st_uid, self._owner.st_gid, dir_fd=folder, follow_symlinks=False
                )
            else:
                self._write_file(folder, temporary, entry)
            times = (entry.mtime_ns, entry.mtime_ns)
            os.utime(temporary, ns=times, dir_fd=folder, follow_symlinks=False)
            os.rename(temporary, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            raise
        self._wrote(parts, folder, entry)

    def _write_file(self, folder: int, name: str, entry: Entry) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=folder)
        with os.fdopen(descriptor, "wb") as file:
            os.fchown(descriptor, self._owner.st_uid, self._owner.st_gid)
            if entry.held == "inline":
                file.write(entry.content)
            else:
                chunks = chunks_of(entry, self._trees.store)
                reader = ChunkedReader(chunks, self._trees.store, kept=0)
                for number, chunk in enumerate(chunks.chunks):
                    if chunk.blob:
                        file.write(reader.chunk(number))
                    else:
                        file.seek(chunk.length, os.SEEK_CUR)
                file.truncate(chunks.size)
            file.flush()
            os.fchmod(descriptor, entry.mode)
