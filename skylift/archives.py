"""Archives of local files in the store: tar, the same bytes for the same files, in pieces sent once."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence

from skylift.exceptions import ConflictError, InvalidError
from skylift.http import Http
from skylift.local_files import LocalFile, stamp
from skylift.wire import AddFiles, Archive

PIECE = 32 * 1024 * 1024
"""Bytes of one blob."""

OWN_ARCHIVE = 8 * 1024 * 1024
"""Bytes. A larger file has an archive to itself, so that it need not be sent again when others change."""

SAME_TIME = 315_532_800
"""1980-01-01: the time that files have where their own does not matter."""

_READ = 1024 * 1024
_BLOCK = 512
_ATTEMPTS = 3


class Packer:
    """Puts what an image needs of this machine into the store of one gateway."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._packed: dict[tuple[object, ...], Archive] = {}
        self.progress: Callable[[int, int], None] = lambda done, total: None
        """Told how many bytes have been read of how many, of the step that is being packed."""

    def blob(self, data: bytes) -> str:
        """Puts bytes into the store."""
        return self._http.put_blob(data)

    def forget(self) -> None:
        """Send everything again: the store has lost something."""
        self._packed.clear()
        self._http.forget_blobs()

    def pack(
        self, files: Sequence[LocalFile], *, target: str, label: str, keep_times: bool = False
    ) -> AddFiles:
        """The step that adds files to an image.

        With `keep_times` files keep their modification times, else all have the same one, so that the same
        files make the same image wherever they were checked out. Raises `InvalidError` where one cannot be
        read, and `ConflictError` where one changes again and again meanwhile.
        """
        groups = _groups(files)
        total = sum(_size(file) for group in groups for file in group)
        done = 0
        archives: list[Archive] = []
        for group in groups:

            def read(count: int) -> None:
                nonlocal done
                done += count
                self.progress(done, total)

            archives.append(self._archive(group, keep_times, label, read))
        return AddFiles(target=target, archives=tuple(archives), label=label)

    def _archive(
        self, files: Sequence[LocalFile], keep_times: bool, label: str, read: Callable[[int], None]
    ) -> Archive:
        for _ in range(_ATTEMPTS):
            key = (keep_times, *stamp(files))
            known = self._packed.get(key)
            if known is not None:
                read(sum(_size(file) for file in files))
                return known
            try:
                blobs: list[str] = []
                size = 0
                for piece in _pieces(_tar(files, keep_times, read)):
                    blobs.append(self._http.put_blob(piece))
                    size += len(piece)
            except _ChangedError as error:
                changed = str(error)
                continue
            except OSError as error:
                if isinstance(error, FileNotFoundError):
                    changed = str(error.filename)
                    continue
                raise InvalidError(f"{label}: {error}") from None
            archive = self._packed[key] = Archive(blobs=tuple(blobs), size=size)
            return archive
        raise ConflictError(
            f"{label}: {changed} changed while it was read, {_ATTEMPTS} times. Run it again when nobody "
            "writes to it, or leave it out with ignore="
        )


class _ChangedError(Exception):
    """A file changed while it was read; the text is its path."""


def _groups(files: Sequence[LocalFile]) -> list[list[LocalFile]]:
    """What goes into one archive: files of one folder at the top; a large one by itself."""
    groups: dict[tuple[str, str], list[LocalFile]] = {}
    folders = {file.path.partition("/")[0] for file in files if "/" in file.path}
    for file in files:
        top = file.path.partition("/")[0]
        key = ("folder", top if top in folders else "")
        key = ("file", file.path) if _size(file) > OWN_ARCHIVE else key
        groups.setdefault(key, []).append(file)
    return list(groups.values())


def _size(file: LocalFile) -> int:
    if file.content is not None:
        return len(file.content)
    if file.source is None or file.link is not None:
        return 0
    try:
        status = os.lstat(file.source)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _tar(files: Iterable[LocalFile], keep_times: bool, read: Callable[[int], None]) -> Iterator[bytes]:
    for file in files:
        info = tarfile.TarInfo(file.path)
        info.mtime = SAME_TIME
        info.mode = 0o644
        if file.link is not None:
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, file.link, 0o777
            yield _header(info)
        elif file.content is not None:
            info.mode = file.mode if file.mode is not None else 0o644
            info.size = len(file.content)
            yield _header(info)
            yield file.content + _padding(info.size)
            read(info.size)
        else:
            assert file.source is not None
            yield from _from_disk(info, file, keep_times, read)
    yield bytes(2 * _BLOCK)


def _from_disk(
    info: tarfile.TarInfo, file: LocalFile, keep_times: bool, read: Callable[[int], None]
) -> Iterator[bytes]:
    source = str(file.source)
    status = os.lstat(source)
    if keep_times:
        info.mtime = int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
        info.mode = file.mode if file.mode is not None else 0o755
        yield _header(info)
        return
    if stat.S_ISLNK(status.st_mode):
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, os.readlink(source), 0o777
        yield _header(info)
        return
    with open(source, "rb", buffering=0) as opened:
        status = os.fstat(opened.fileno())
        # As git has it: the umask of who checked it out makes no other image.
        info.mode = file.mode if file.mode is not None else 0o755 if status.st_mode & 0o100 else 0o644
        info.size = status.st_size
        yield _header(info)
        left = info.size
        while left:
            data = opened.read(min(left, _READ))
            if not data:
                raise _ChangedError(source)
            left -= len(data)
            yield data
            read(len(data))
        after = os.fstat(opened.fileno())
        if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise _ChangedError(source)
        yield _padding(info.size)


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _pieces(data: Iterator[bytes]) -> Iterator[bytes]:
    piece = bytearray()
    for part in data:
        piece += part
        while len(piece) >= PIECE:
            yield bytes(piece[:PIECE])
            del piece[:PIECE]
    yield bytes(piece)
