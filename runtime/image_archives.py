"""Archives of files that are put into an image.

What is in an archive comes from a user. So nothing of it is written through a link on this host: each path
is looked up in the image, and what is written is in a new folder that has only folders and files of ours.
"""

from __future__ import annotations

import fnmatch
import io
import os
import re
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from skylift.lazyfs.store import Store
from skylift.runtime.build_error import BuildError
from skylift.runtime.image_tree import ImageTree, TreePathError
from skylift.wire.images import Archive

MAX_ENTRIES = 2_000_000
_PIECE = 1 << 20


def extract(archive: Archive, store: Store, target: str, layer: Path, image: Sequence[Path]) -> None:
    """Write the files of an archive, below `target`, to the folder of a new layer on top of an image.

    All belong to root. Raises `BuildError`, `StoreError` and OSError.
    """
    with io.BufferedReader(_Blobs(archive, store), _PIECE) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                total = 0
                for number, member in enumerate(tar):
                    total += member.size if member.isreg() else 0
                    if number >= MAX_ENTRIES or total > archive.size:
                        raise BuildError("The archive has more in it than an archive of its size can have.")
                    _extract(tar, member, PurePosixPath(target), LayerFolder(layer, image))
        except tarfile.TarError as error:
            raise BuildError(f"The archive cannot be read: {error}.") from error


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: PurePosixPath, new: LayerFolder) -> None:
    path = target / inside(member.name)
    if member.isdir():
        made = new.folder(path)
        if path == target:
            return  # it may be there already, and not as the archive's own
        made.chmod(member.mode & 0o1777)
        os.utime(made, (member.mtime, member.mtime))
        return
    place = new.place(path)
    if member.issym():
        place.symlink_to(member.linkname)
        os.utime(place, (member.mtime, member.mtime), follow_symlinks=False)
    elif member.islnk():
        source = new.find(target / inside(member.linkname))
        if source is None or not stat.S_ISREG(source.lstat().st_mode):
            raise BuildError(f"{member.name} is a link to {member.linkname}, which is not in the archive.")
        os.link(source, place, follow_symlinks=False)
    elif member.isreg():
        content = tar.extractfile(member)
        assert content is not None
        with content, place.open("xb") as file:
            shutil.copyfileobj(content, file, _PIECE)
        place.chmod(member.mode & 0o777)
        os.utime(place, (member.mtime, member.mtime))
    else:
        raise BuildError(
            f"{member.name} is a device or a pipe, which an image does not take from an archive."
        )


def make_folder(path: str, layer: Path, image: Sequence[Path]) -> None:
    """Make a folder of the image in a new layer, where it is not there. Raises `BuildError` and OSError."""
    tree = ImageTree(image)
    try:
        found = tree.find(tree.resolve(path))
    except TreePathError as error:
        raise BuildError(str(error)) from error
    if found is None or not found.is_dir():
        LayerFolder(layer, image).folder(PurePosixPath(path))


class LayerFolder:
    """A folder that becomes a layer on top of an image."""

    def __init__(self, folder: Path, image: Sequence[Path]) -> None:
        """`image` are its layers, lowest first."""
        self._folder = folder
        self._tree = ImageTree((*image, folder))
        self._below = ImageTree(image)

    def folder(self, path: PurePosixPath) -> Path:
        """The folder at a path of the image; made here where it is missing, and those that it is in. A link
        there is followed, in the image."""
        try:
            path = self._tree.resolve(path)
        except TreePathError as error:
            raise BuildError(str(error)) from error
        here = self._folder
        for number, part in enumerate(path.parts[1:], 2):
            here = here / part
            if os.path.lexists(here):
                if here.is_dir() and not here.is_symlink():
                    continue
                here.unlink()
            here.mkdir()
            like = self._below.find(PurePosixPath(*path.parts[:number]))
            if like is not None and like.is_dir() and not like.is_symlink():
                status = like.lstat()
                here.chmod(stat.S_IMODE(status.st_mode))
                os.utime(here, ns=(status.st_mtime_ns, status.st_mtime_ns))
            else:
                here.chmod(0o755)
        return here

    def place(self, path: PurePosixPath) -> Path:
        """Where a file is to be written that is at this path of the image; nothing of this layer is there."""
        below = self._below.find(path)
        if below is not None and stat.S_ISDIR(below.lstat().st_mode):
            raise BuildError(
                f"{path} is a folder in the image, and would be replaced by a file. Where the file is to go "
                f"into it, write {path}/."
            )
        place = self.folder(path.parent) / path.name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        elif os.path.lexists(place):
            place.unlink()
        return place

    def find(self, path: PurePosixPath) -> Path | None:
        """What this layer has at a path of the image."""
        try:
            found = self._folder / self._tree.resolve(path, last=False).relative_to("/")
        except TreePathError:
            return None
        return found if os.path.lexists(found) else None


def inside(name: str) -> PurePosixPath:
    """The name of an archive's member as a path below its target. Raises `BuildError` where it leads out."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise BuildError(f"The archive has a file named {name!r}, which would be outside of its target.")
    return path


class _Blobs(io.RawIOBase):
    """The pieces of an archive as one stream."""

    def __init__(self, archive: Archive, store: Store) -> None:
        self._pieces = self._read(archive, store)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    @staticmethod
    def _read(archive: Archive, store: Store) -> Iterator[memoryview]:
        for blob in archive.blobs:
            yield store.view(blob)


Copied = Callable[[int], int]


def copy_from(
    source: ImageTree, path: str, target: str, layer: Path, image: Sequence[Path], own_id: Copied
) -> None:
    """Copy files or folders' content of another image into a new layer, as ``COPY --from=`` does.

    Owners are kept (`own_id` gives the image's for this host's). Raises `BuildError` and OSError.
    """
    new = LayerFolder(layer, image)
    try:
        paths = _matches(source, path)
        for each in paths:
            if len(paths) > 1 and not target.endswith("/"):
                raise BuildError(f"{path} is several files, so the target is a folder: write {target}/.")
            _copy_one(source, each, target, new, own_id)
    except TreePathError as error:
        raise BuildError(str(error)) from error
    if not paths:
        raise BuildError(f"The other image has no {path}.")


def _matches(source: ImageTree, path: str) -> list[PurePosixPath]:
    """What a path with wildcards means in an image."""
    found = [PurePosixPath("/")]
    for part in PurePosixPath(path).parts[1:]:
        if re.search(r"[*?\[]", part):
            pattern = part.replace("[^", "[!")
            found = [
                folder / name
                for folder in found
                for name in source.names(source.resolve(folder))
                if fnmatch.fnmatchcase(name, pattern)
            ]
        else:
            found = [folder / part for folder in found]
    return [each for each in found if source.find(source.resolve(each)) is not None]


def _copy_one(source: ImageTree, path: PurePosixPath, target: str, new: LayerFolder, own_id: Copied) -> None:
    start = source.resolve(path)
    found = source.find(start)
    assert found is not None
    if not found.is_dir():
        end = PurePosixPath(target, path.name) if target.endswith("/") else PurePosixPath(target)
        _copy(found, new.place(end), own_id)
        return
    new.folder(PurePosixPath(target))
    for inner, file in source.walk(start):
        end = PurePosixPath(target) / inner.relative_to(start)
        if file.is_dir() and not file.is_symlink():
            made = new.folder(end)
            if inner != start:
                _own(made, file.lstat(), own_id)
        else:
            _copy(file, new.place(end), own_id)


def _copy(file: Path, place: Path, own_id: Copied) -> None:
    status = file.lstat()
    if stat.S_ISLNK(status.st_mode):
        place.symlink_to(os.readlink(file))
    elif stat.S_ISREG(status.st_mode):
        shutil.copyfile(file, place, follow_symlinks=False)
    else:
        raise BuildError(f"{file.name} is a device or a pipe, which cannot be copied.")
    _own(place, status, own_id)


def _own(place: Path, status: os.stat_result, own_id: Copied) -> None:
    os.chown(place, own_id(status.st_uid), own_id(status.st_gid), follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        place.chmod(stat.S_IMODE(status.st_mode))
    os.utime(place, ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)
