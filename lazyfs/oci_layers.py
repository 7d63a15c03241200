"""Layers of OCI images, which are tar archives, as folders that overlayfs can put on top of each other.

What is in an archive comes from strangers. Nothing of it is written outside of the folder, whatever its paths
and links say, and what would mean something to overlayfs is taken out. Of each file its owner, rights (also
set-user-id: it gives no rights in containers, which have `no_new_privs`) and time are kept, of its extended
attributes those of users. Devices are left out: a container has its own.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard

from skylift.lazyfs.oci_errors import OciContentError
from skylift.lazyfs.overlay_marks import hide_by_name, make_whiteout

MAX_ENTRIES = 5_000_000
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_RESERVED = ".wh..wh."
_MAX_LINKS = 40
_WINDOW = 1 << 27
"""Bytes that a zstd frame may ask to have in memory."""
_PIECE = 1 << 20
_XATTRS = "SCHILY.xattr."
_NOBODY = 2**32 - 1
_OF_THE_NAME = frozenset({errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ})
_FOLDER_MODE = 0o755


class Below(NamedTuple):
    """What the layers below show, by paths relative to their root."""

    names: Callable[[str], list[str]]
    """What is in a folder; [] where there is none."""
    status: Callable[[str], os.stat_result | None]
    """Of a folder; None where there is none."""


class Unpacked(NamedTuple):
    """What became of an archive."""

    diff_id: str
    """The digest of the tar archive."""
    depends: bool
    """Whether the folder is as it is because of what is below: elsewhere it would be another."""
    empty: bool


class Limits(NamedTuple):
    """What an archive may take."""

    size: int
    """Bytes of all of its files."""
    free: Callable[[], int]
    """Bytes that are free now."""
    full: Callable[[int], Exception]
    """The error for so many bytes that do not fit."""


def unpack(
    source: BinaryIO,
    folder: Path,
    below: Below | None,
    limits: Limits,
    algorithm: str = "sha256",
    check_cancelled: Callable[[], None] = lambda: None,
) -> Unpacked:
    """Unpack an archive, compressed or not, into a folder that is there and empty.

    `below` is None for the lowest layer. Raises `OciContentError`, what `limits` and `check_cancelled` raise,
    and OSError.
    """
    stream = _Stream(decompressed(source), hashlib.new(algorithm), limits, check_cancelled)
    layer = _LayerFolder(os.fspath(folder))
    try:
        with tarfile.open(
            fileobj=stream,
            mode="r|",
            bufsize=_PIECE,
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive:
            number = 0
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
                number += 1
                if number > MAX_ENTRIES:
                    raise OciContentError(f"a layer has more than {MAX_ENTRIES:,} files.")
                stream.room_for(member.size if member.isreg() else 0)
                layer.add(archive, member)
        while stream.read(_PIECE):
            pass
    except (
        tarfile.TarError,
        EOFError,
        zlib.error,
        zstandard.ZstdError,
        gzip.BadGzipFile,
        OverflowError,
        ValueError,
    ) as error:
        raise OciContentError(f"a layer cannot be unpacked: {error}.") from error
    depends = layer.finish(folder, below)
    return Unpacked(f"{algorithm}:{stream.digest}", depends, not any(os.scandir(folder)))


def decompressed(source: BinaryIO) -> BinaryIO:
    """The archive in a file, which tells by its first bytes how it is compressed."""
    start = source.read(4)
    source.seek(0)
    if start[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=source, mode="rb")  # type: ignore[return-value]
    if start == b"\x28\xb5\x2f\xfd" or (start[1:] == b"\x2a\x4d\x18" and 0x50 <= start[0] <= 0x5F):
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        return io.BufferedReader(decompressor.stream_reader(source, read_across_frames=True), _PIECE)
    return source


class _Stream(io.RawIOBase):
    """The archive as it is read: counted and hashed."""

    def __init__(
        self, source: BinaryIO, hasher: hashlib._Hash, limits: Limits, check_cancelled: Callable[[], None]
    ) -> None:
        self._source = source
        self._hasher = hasher
        self._limits = limits
        self._check_cancelled = check_cancelled
        self._total = 0
        self._files = 0

    @property
    def digest(self) -> str:
        return self._hasher.hexdigest()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self._check_cancelled()
        data = self._source.read(size)
        self._hasher.update(data)
        self._total += len(data)
        if self._total > self._limits.size:
            raise OciContentError(f"the layers are more than {self._limits.size:,} bytes unpacked.")
        return data

    def room_for(self, size: int) -> None:
        """Before a file of this size is written; one with holes counts whole."""
        self._files += size
        if size < 0 or self._files > self._limits.size:
            raise OciContentError(f"the layers are more than {self._limits.size:,} bytes unpacked.")
        if size > _PIECE and size > self._limits.free():
            raise self._limits.full(size)


class _LayerFolder:
    """The folder that an archive is unpacked into."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._whiteouts: list[str] = []
        self._opaque: set[str] = set()
        self._folders: dict[str, tarfile.TarInfo | None] = {}
        """Those that were made, by their paths; None for what the archive does not name itself."""
        self._real: dict[str, str] = {"": ""}
        """Folders by what they are called in the archive: without links."""

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """One entry of the archive."""
        path = _clean(member.name)
        parent, _, name = path.rpartition("/")
        if name.startswith(_WHITEOUT):
            self._mark(self._folder(parent), name)
            return
        if not path:
            if member.isdir():
                self._folders[""] = member
            return
        kind = _kind(member)
        if not kind:
            return
        inner = self._folder(parent)
        inner = f"{inner}/{name}" if inner else name
        place = f"{self._root}/{inner}"
        try:
            self._write(archive, member, inner, place)
        except OSError as error:
            if error.errno in _OF_THE_NAME:
                raise OciContentError(
                    f"{member.name[:200]!r} cannot be a file here: {error.strerror}."
                ) from error
            raise

    def finish(self, folder: Path, below: Below | None) -> bool:
        """Write what can only be written when all is there; see `Unpacked.depends`."""
        depends = False
        for path, member in self._folders.items():
            if member is None and path:
                depends = True
        for path in self._whiteouts:
            place = f"{self._root}/{path}"
            if not os.path.lexists(place):
                make_whiteout(place)
            elif os.path.isdir(place) and not os.path.islink(place):
                self._opaque.add(path)
        for path in sorted(self._opaque):
            depends = True
            if below is not None:
                hide_by_name(folder, path, below.names)
        for path, member in sorted(self._folders.items(), reverse=True):
            self._settle(path, member, below)
        if "" not in self._folders:
            os.chmod(self._root, _FOLDER_MODE)
            os.utime(self._root, (0, 0))
        return depends

    # --- parts -----------------------------------------------------------------------------------

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, inner: str, place: str) -> None:
        there = _lstat(place)
        if member.isdir():
            if there is None or not stat.S_ISDIR(there.st_mode):
                self._remove(inner, place, there)
                os.mkdir(place, 0o700)
            self._folders[inner] = member
            return
        linked = self._linked(member, inner) if member.islnk() else ""
        if linked == place:
            return
        self._remove(inner, place, there)
        if member.islnk():
            os.link(linked, place, follow_symlinks=False)
            return
        if member.issym():
            os.symlink(member.linkname, place)
        elif member.isfifo():
            os.mkfifo(place, 0o600)
        else:
            content = archive.extractfile(member)
            descriptor = os.open(
                place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            with open(descriptor, "wb", buffering=0) as file:
                if content is not None:
                    shutil.copyfileobj(content, file, _PIECE)
                file.truncate(member.size)
        self._settle_file(place, member)

    def _remove(self, inner: str, place: str, there: os.stat_result | None) -> None:
        if there is None:
            return
        if not stat.S_ISDIR(there.st_mode):
            os.unlink(place)
            self._real = {"": ""}
            return
        shutil.rmtree(place)
        self._real = {"": ""}
        for path in list(self._folders):
            if path == inner or path.startswith(f"{inner}/"):
                del self._folders[path]
        self._opaque = {path for path in self._opaque if path != inner and not path.startswith(f"{inner}/")}
        self._whiteouts = [path for path in self._whiteouts if not path.startswith(f"{inner}/")]

    def _linked(self, member: tarfile.TarInfo, inner: str) -> str:
        target = _clean(member.linkname)
        parent, _, name = target.rpartition("/")
        folder = self._resolved(parent)
        place = f"{self._root}/{folder}/{name}" if folder else f"{self._root}/{name}"
        found = _lstat(place) if folder is not None and name else None
        if found is None or stat.S_ISDIR(found.st_mode):
            raise OciContentError(
                f"a layer has a link {inner[:200]!r} to {target[:200]!r}, which is no file of the same layer."
            )
        return place

    def _mark(self, folder: str, name: str) -> None:
        if name == _OPAQUE:
            self._opaque.add(folder)
            return
        if name.startswith(_RESERVED):
            return  # of older tools, for themselves
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in ("", ".", ".."):
            raise OciContentError(f"a layer removes {hidden!r}, which is no name.")
        self._whiteouts.append(f"{folder}/{hidden}" if folder else hidden)

    def _folder(self, path: str) -> str:
        """The folder of this name in the archive, made where it is missing. Links in it are followed."""
        known = self._real.get(path)
        if known is None:
            known = self._resolved(path, make=True)
            assert known is not None
            self._real[path] = known
        return known

    def _resolved(self, path: str, *, make: bool = False) -> str | None:
        """The same without links; None where that is no folder."""
        done: list[str] = []
        todo = list(reversed(path.split("/"))) if path else []
        links = 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del done[-1:]
                continue
            inner = "/".join([*done, part])
            place = f"{self._root}/{inner}"
            there = _lstat(place)
            if there is not None and stat.S_ISLNK(there.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    raise OciContentError(f"{path[:200]!r} goes through too many links.")
                target = os.readlink(place)
                if target.startswith("/"):
                    done.clear()
                todo += reversed(target.split("/"))
                continue
            if there is None or not stat.S_ISDIR(there.st_mode):
                if not make:
                    return None
                if there is not None:
                    raise OciContentError(f"a layer has {path[:200]!r} as a folder, where it has a file.")
                os.mkdir(place, 0o700)
                self._folders[inner] = None
            done.append(part)
        return "/".join(done)

    def _settle_file(self, place: str, member: tarfile.TarInfo) -> None:
        os.chown(place, _id(member.uid), _id(member.gid), follow_symlinks=False)
        if not member.issym():
            os.chmod(place, member.mode & 0o7777)
            self._attributes(place, member)
        os.utime(place, ns=_times(member), follow_symlinks=False)

    def _settle(self, path: str, member: tarfile.TarInfo | None, below: Below | None) -> None:
        place = f"{self._root}/{path}" if path else self._root
        if member is not None:
            self._settle_file(place, member)
            return
        # The archive has a file in it, and does not say what the folder is like: as it was.
        like = below.status(path) if below is not None else None
        if like is not None:
            os.chown(place, like.st_uid, like.st_gid)
            os.chmod(place, stat.S_IMODE(like.st_mode))
            os.utime(place, ns=(like.st_mtime_ns, like.st_mtime_ns))
        else:
            os.chmod(place, _FOLDER_MODE)
            os.utime(place, (0, 0))

    @staticmethod
    def _attributes(place: str, member: tarfile.TarInfo) -> None:
        for key, value in member.pax_headers.items():
            name = key.removeprefix(_XATTRS)
            # Others give rights, or tell overlayfs what to show.
            if name != key and name.startswith("user.") and not name.startswith("user.overlay."):
                with contextlib.suppress(OSError):
                    os.setxattr(place, name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)


def _kind(member: tarfile.TarInfo) -> bool:
    """Whether it is taken: devices are not."""
    if member.isreg() or member.isdir() or member.issym() or member.islnk() or member.isfifo():
        return True
    if member.ischr() or member.isblk():
        return False
    raise OciContentError(f"{member.name[:200]!r} is of a kind {member.type!r} that is not known.")


def _clean(name: str) -> str:
    """A path of an archive, relative to its root. Raises `OciContentError` where it leads out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise OciContentError(f"a layer has a file {name[:200]!r}, which would be outside of it.")
    return "/".join(parts)


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _id(number: int) -> int:
    return number if 0 <= number < _NOBODY else 0


def _times(member: tarfile.TarInfo) -> tuple[int, int]:
    nanoseconds = min(max(int(member.mtime * 1_000_000_000), 0), 2**62)
    return nanoseconds, nanoseconds
