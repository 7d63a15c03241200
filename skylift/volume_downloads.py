"""Files of a volume that come to this machine, in files that go on where they were broken off."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from skylift.exceptions import InvalidError
from skylift.volume import Volume
from skylift.volume_access import Download, FileEntry, FileEntryType
from skylift.volume_progress import TransferProgress


class Fetched(NamedTuple):
    """What came of it."""

    files: int
    size: int
    """Bytes."""
    resumed: int
    """Bytes of these that were here from before."""


class Downloads:
    """Fetches from one volume. What is there already is not touched, unless it is the same, or with
    `force`."""

    def __init__(self, volume: Volume, *, force: bool = False) -> None:
        self._volume = volume
        self._access = volume._access()
        self._force = force
        self._resumed = 0
        self._progress = TransferProgress(f"download from {volume.name}")

    def get(self, remote: str, local: Path) -> Fetched:
        """Fetch a file, or a directory with all that is in it. `local` is a directory to put it in, where
        that is there, else what it becomes.

        A file is written beside its place, and put there when it is whole. Raises `InvalidError` where
        something is there, and `PathNotFoundError`.
        """
        entry = self._access.stat(remote)
        if local.is_dir():
            name = os.path.basename(entry.path)
            local = local / name if name else local
        try:
            if entry.type == FileEntryType.DIRECTORY:
                return self._directory(entry, local)
            self._progress.expect(1, entry.size)
            if entry.type == FileEntryType.SYMLINK and not self._leads_to_file(remote):
                raise InvalidError(f"{remote} is a symlink, and leads to no file of the volume")
            size = self._file(remote, local, None)
            return Fetched(1, size, self._resumed)
        finally:
            self._progress.close()

    def _leads_to_file(self, remote: str) -> bool:
        try:
            self._access.read(remote).close()
        except OSError:  # of ours: nothing there, or a directory
            return False
        return True

    def _directory(self, entry: FileEntry, local: Path) -> Fetched:
        entries = list(self._access.entries("/" + entry.path, recursive=True))
        files = [one for one in entries if one.type != FileEntryType.DIRECTORY]
        self._progress.expect(len(files), sum(one.size for one in files))
        start = len(entry.path) + 1 if entry.path else 0
        _make(local)
        folders: list[tuple[Path, FileEntry]] = []
        for one in entries:
            target = local / one.path[start:]
            if one.type == FileEntryType.DIRECTORY:
                _make(target)
                folders.append((target, one))
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if one.type == FileEntryType.SYMLINK:
                self._link(target, one)
            else:
                self._file("/" + one.path, target, one)
        for folder, one in reversed(folders):
            with contextlib.suppress(OSError):
                folder.chmod(one.mode)
        return Fetched(len(files), sum(one.size for one in files), self._resumed)

    def _link(self, target: Path, entry: FileEntry) -> None:
        if target.is_symlink() and os.readlink(target) == entry.target:
            return
        if os.path.lexists(target):
            self._check_free(target)
            target.unlink()
        target.symlink_to(entry.target)
        self._progress.advance(entry.size, 1)

    def _file(self, remote: str, local: Path, entry: FileEntry | None) -> int:
        if entry is not None and _same(local, entry):
            self._resumed += entry.size
            self._progress.advance(entry.size, 1)
            return entry.size
        if os.path.lexists(local):
            self._check_free(local)
        download = self._access.read(remote)
        part = local.with_name(f".{local.name}.{download.tag.strip(chr(34))[:12]}.part")
        there = part.stat().st_size if part.is_file() else 0
        if there and there <= download.size:
            tag = download.tag
            download.close()
            download = self._access.read(remote, there, tag)
        self._write(download, part)
        os.utime(part, ns=(download.mtime_ns, download.mtime_ns))
        part.chmod(download.mode)
        part.replace(local)
        self._progress.advance(0, 1)
        return download.size

    def _write(self, download: Download, part: Path) -> None:
        self._resumed += download.begin
        self._progress.advance(download.begin)
        try:
            with part.open("r+b" if download.begin else "wb") as file:
                file.truncate(download.begin)
                file.seek(download.begin)
                for piece in download:
                    file.write(piece)
                    self._progress.advance(len(piece))
                    self._progress.tick()
        except OSError as error:
            raise InvalidError(f"{part} cannot be written: {error.strerror or error}") from error
        finally:
            download.close()

    def _check_free(self, local: Path) -> None:
        if local.is_dir() and not local.is_symlink():
            raise InvalidError(f"{local} is a directory here, and a file in the volume")
        if not self._force:
            raise InvalidError(f"there is {local} already; replace it with --force, or fetch it elsewhere")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InvalidError(f"{folder} is a file here, and a directory in the volume") from None
    except OSError as error:
        raise InvalidError(f"{folder} cannot be made: {error.strerror}") from None


def _same(local: Path, entry: FileEntry) -> bool:
    """Fetched before: then it has the size and the time that it has in the volume."""
    try:
        status = local.lstat()
    except OSError:
        return False
    return status.st_size == entry.size and abs(status.st_mtime - entry.mtime) < 1e-5 and local.is_file()
