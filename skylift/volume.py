"""Volumes: directories that containers share, and that keep every version of themselves."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeVar

from skylift.client import Client
from skylift.context import is_local
from skylift.dual import Blocking, Iterating
from skylift.exceptions import InvalidError
from skylift.volume_access import (
    FileEntry,
    FileEntryType,
    Path,
    VolumeAccess,
    VolumeInfo,
    VolumeVersion,
    create_volume,
    delete_volume,
    find_volume,
    list_volumes,
    rename_volume,
)
from skylift.volume_here import commit_here, reload_here
from skylift.volume_ids import forget_volume, known_volume
from skylift.volume_paths import SubPath, sub_path_of
from skylift.volume_progress import TransferProgress
from skylift.volume_upload import BatchUpload, LocalPath
from skylift.waiting import Waiter
from skylift.wire import VolumeMount

if TYPE_CHECKING:
    from skylift.http import Http

__all__ = ["FileEntry", "FileEntryType", "Volume", "VolumeInfo", "VolumeVersion"]

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class _Rename:
    """``Volume.rename(old_name, new_name)`` renames a volume, ``volume.rename(path, new_path)`` a file in
    one."""

    def __get__(self, instance: Volume | None, owner: type[Volume]) -> Blocking[..., Any]:
        if instance is None:
            return Blocking(_rename_volume)
        return Blocking(instance._rename)


class Volume:
    """A directory that containers share, by its name.

    ``Volume.from_name("data", create_if_missing=True)`` describes one and asks nobody. Containers have it
    where ``volumes={"/data": volume}`` says. Each commit is a version: `history`, `at`, `restore`. What is
    read here is the newest version. Methods that wait have ``.aio``.
    """

    _skylift_handle = True
    _skylift_travels = None

    def __init__(self) -> None:
        raise InvalidError(
            "Volume() makes no volume; use Volume.from_name(name, create_if_missing=True) or "
            "Volume.ephemeral()"
        )

    @classmethod
    def _made(cls, **state: Any) -> Volume:
        made = cls.__new__(cls)
        made.__setstate__(state)
        return made

    @staticmethod
    def from_name(name: str, *, create_if_missing: bool = False, version: int | None = None) -> Volume:
        """The volume of that name. Whether it is there is found out when it is first used: then
        `NotFoundError`, or it is made with `create_if_missing`.

        `version`: see `at`. Raises `InvalidError` for what cannot be a name.
        """
        _check_name(name, "Volume.from_name")
        if version is not None:
            _check_version(version, "Volume.from_name(version=…)")
        return Volume._made(name=name, create=bool(create_if_missing), version=version)

    @staticmethod
    def ephemeral() -> _Ephemeral:
        """A volume that is deleted at the end of its block: ``with`` or ``async with Volume.ephemeral() as
        volume:``"""
        return _Ephemeral()

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    # --- in containers ---------------------------------------------------------------------------

    def with_mount_options(self, *, read_only: bool = False, sub_path: str | None = None) -> Volume:
        """The same volume, as containers are to have it: `read_only`, or only the folder `sub_path` of it.

        Paths of its other methods then begin in that folder too.
        """
        if not isinstance(read_only, bool):
            raise InvalidError(f"with_mount_options(read_only={read_only!r}): True or False")
        below = sub_path_of("with_mount_options(sub_path=…)", sub_path)
        return self._with(
            read_only=read_only or self._read_only, below="/".join(filter(None, (self._below, below)))
        )

    def read_only(self) -> Volume:
        """The same as ``with_mount_options(read_only=True)``."""
        return self.with_mount_options(read_only=True)

    @property
    def commit(self) -> Blocking[[], None]:
        """In a container that has the volume: what it has written becomes a version, which others see.

        That happens by itself too, while it runs and at its end. Raises `ConflictError` naming files that
        could not be committed, since something writes to them.
        """
        return Blocking(self._commit)

    @property
    def reload(self) -> Blocking[[], None]:
        """In a container that has the volume: commits, and shows what others have committed since.

        Elsewhere it does nothing, for there what is read is always the newest version.
        """
        return Blocking(self._reload)

    # --- reading ---------------------------------------------------------------------------------

    @property
    def listdir(self) -> Blocking[..., list[FileEntry]]:
        """What is in a directory, by name: ``listdir("/data")``; with ``recursive=True`` in those in it too.

        Raises `PathNotFoundError`.
        """
        return Blocking(self._listdir)

    @property
    def iterdir(self) -> Iterating[..., FileEntry]:
        """The same one by one, as they come; ``recursive`` is True unless said otherwise."""
        return Iterating(self._iterdir)

    @property
    def stat(self) -> Blocking[[Path], FileEntry]:
        """What is at a path; a symlink is not followed. Raises `PathNotFoundError`."""
        return Blocking(self._stat)

    @property
    def read_file(self) -> Iterating[[Path], bytes]:
        """A file's bytes, in pieces: ``b"".join(volume.read_file("/data/train.csv"))``.

        Raises `PathNotFoundError` and `PathIsDirectoryError`.
        """
        return Iterating(self._read_file)

    @property
    def read_file_into_fileobj(self) -> Blocking[..., int]:
        """Writes a file's bytes to a file object: ``read_file_into_fileobj(path, fileobj)``; how many there
        were."""
        return Blocking(self._read_file_into)

    @property
    def info(self) -> Blocking[[], VolumeInfo]:
        """How large it is, and which version is newest."""
        return Blocking(self._info)

    # --- changing --------------------------------------------------------------------------------

    def batch_upload(self, force: bool = False, *, message: str = "") -> BatchUpload:
        """Send files, which are committed together at the end of the block::

            with volume.batch_upload() as batch:
                batch.put_file("train.csv", "/train.csv")
                batch.put_directory("images", "/images")

        Where one is there already that is `PathExistsError`, and nothing is changed; `force` replaces it. An
        upload that broke off is made again from where it was: what is in the store is not sent twice.
        """
        self._check_writable("batch_upload")
        return BatchUpload(self._access, self._name, bool(force), message, self._below)

    @property
    def put_file(self) -> Blocking[..., None]:
        """Sends one file, or what a file object or bytes have: ``put_file(local, remote_path,
        force=False)``."""
        return Blocking(self._put_file)

    @property
    def copy_files(self) -> Blocking[..., None]:
        """Copies files within the volume, as ``cp`` does: ``copy_files([source, …], target,
        recursive=False)``.

        Nothing is read or sent for it.
        """
        return Blocking(self._copy_files)

    @property
    def remove_file(self) -> Blocking[..., None]:
        """Removes a file, or with ``recursive=True`` a directory. Earlier versions still have it."""
        return Blocking(self._remove_file)

    rename = _Rename()

    # --- versions --------------------------------------------------------------------------------

    @property
    def history(self) -> Blocking[..., list[VolumeVersion]]:
        """Its versions, the newest first; ``limit=10`` gives ten."""
        return Blocking(self._history)

    def at(self, version: int) -> Volume:
        """One of its versions, as a volume that is only read, here and in containers."""
        _check_version(version, "Volume.at")
        return self._with(version=version)

    @property
    def restore(self) -> Blocking[..., VolumeVersion]:
        """Makes it what it was in a version: ``restore(3)``. That is a new version, so nothing is lost."""
        return Blocking(self._restore)

    @staticmethod
    def delete(name: str) -> None:
        """Deletes a volume with all its versions. Raises `NotFoundError`. See `Volume.objects` for
        ``.aio``."""
        VolumeManager().delete(name)

    objects: VolumeManager

    # --- how it is done --------------------------------------------------------------------------

    def _access(self) -> VolumeAccess:
        http = Client.current().http
        if self._create and not self._ephemeral:
            # Made where it is not; known for a while then.
            known_volume(http, self._name, create=True)
        return VolumeAccess(http, self._name, self._version)

    def _mount(self, http: Http, path: str) -> VolumeMount:
        """As it is part of what a container is made of. Blocks. Raises `NotFoundError`."""
        known = known_volume(http, self._name, create=self._create)
        return VolumeMount(
            path=path,
            volume_id=known.volume_id,
            name=self._name,
            read_only=self._read_only or self._version is not None,
            sub_path=self._below,
            version=self._version or 0,
        )

    async def _commit(self, waiter: Waiter) -> None:
        if is_local():
            raise InvalidError(
                f"volume {self._name!r}: commit() is for code in a container that has it. What is sent from "
                "here "
                "is committed at the end of its batch_upload() block"
            )
        self._check_writable("commit")
        await waiter.call(commit_here, self._name)

    async def _reload(self, waiter: Waiter) -> None:
        if not is_local():
            await waiter.call(reload_here, self._name)

    async def _listdir(self, waiter: Waiter, path: Path = "/", recursive: bool = False) -> list[FileEntry]:
        def listed() -> list[FileEntry]:
            below = SubPath(self._below)
            return [below.out(entry) for entry in self._access().entries(below.full(path), recursive)]

        return await waiter.call(listed)

    async def _iterdir(
        self, waiter: Waiter, path: Path = "/", recursive: bool = True
    ) -> AsyncGenerator[FileEntry, None]:
        below = SubPath(self._below)
        access = await waiter.call(self._access)
        entries = access.entries(below.full(path), recursive)
        async for entry in _each(waiter, entries, entries.close if isinstance(entries, Generator) else None):
            yield below.out(entry)

    async def _stat(self, waiter: Waiter, path: Path) -> FileEntry:
        below = SubPath(self._below)
        return below.out(await waiter.call(lambda: self._access().stat(below.full(path))))

    async def _read_file(self, waiter: Waiter, path: Path) -> AsyncGenerator[bytes, None]:
        full = SubPath(self._below).full(path)
        download = await waiter.call(lambda: self._access().read(full))
        async for piece in _each(waiter, iter(download), download.close):
            yield piece

    async def _read_file_into(
        self, waiter: Waiter, path: Path, fileobj: IO[bytes], progress_cb: Callable[..., Any] | None = None
    ) -> int:
        full = SubPath(self._below).full(path)

        def copy() -> int:
            download = self._access().read(full)
            progress = TransferProgress(f"download from {self._name}")
            progress.expect(1, download.size)
            count = 0
            try:
                for piece in download:
                    fileobj.write(piece)
                    count += len(piece)
                    progress.advance(len(piece))
                    progress.tick()
                    if progress_cb is not None:
                        progress_cb(advance=len(piece))
                return count
            finally:
                download.close()
                progress.close()

        return await waiter.call(copy)

    async def _info(self, waiter: Waiter) -> VolumeInfo:
        return await waiter.call(lambda: find_volume(Client.current().http, self._name, self._create))

    async def _put_file(
        self,
        waiter: Waiter,
        local_file: LocalPath | BinaryIO | bytes,
        remote_path: str,
        force: bool = False,
        mode: int | None = None,
    ) -> None:
        if isinstance(local_file, (bytes, bytearray, memoryview)):
            import io

            local_file = io.BytesIO(local_file)
        batch = self.batch_upload(force)
        batch._open = True
        batch.put_file(local_file, remote_path, mode)
        await batch._finish(waiter)

    async def _copy_files(
        self, waiter: Waiter, src_paths: Sequence[Path], dst_path: Path, recursive: bool = False
    ) -> None:
        self._check_writable("copy_files")
        if isinstance(src_paths, (str, bytes, os.PathLike)) or not src_paths:
            raise InvalidError(f"copy_files({src_paths!r}, …): a list of paths, such as ['/a.csv', '/b.csv']")
        below = SubPath(self._below)
        sources = [below.full(path) for path in src_paths]
        await waiter.call(lambda: self._access().copy(sources, below.full(dst_path), recursive))

    async def _remove_file(self, waiter: Waiter, path: Path, recursive: bool = False) -> None:
        self._check_writable("remove_file")
        full = SubPath(self._below).full(path)
        await waiter.call(lambda: self._access().remove(full, recursive))

    async def _rename(self, waiter: Waiter, old_path: Path, new_path: Path, force: bool = False) -> None:
        """Gives a file or a directory another path. Raises `PathExistsError` where something is there, unless
        `force`. (``Volume.rename(old_name, new_name)`` renames a volume.)"""
        self._check_writable("rename")
        below = SubPath(self._below)
        await waiter.call(lambda: self._access().rename(below.full(old_path), below.full(new_path), force))

    async def _history(self, waiter: Waiter, limit: int | None = None) -> list[VolumeVersion]:
        return await waiter.call(lambda: self._access().history(limit))

    async def _restore(self, waiter: Waiter, version: int, message: str = "") -> VolumeVersion:
        _check_version(version, "Volume.restore")
        self._check_writable("restore")
        return await waiter.call(lambda: self._access().restore(version, message))

    def _check_writable(self, what: str) -> None:
        if self._version is not None:
            raise InvalidError(
                f"version {self._version} of volume {self._name!r} cannot be changed ({what}): versions stay "
                "as "
                f"they were committed. Change the volume itself, or bring this version back with "
                f"restore({self._version})"
            )
        if self._read_only:
            raise InvalidError(
                f"this handle of volume {self._name!r} is read-only ({what}): use the volume that "
                "with_mount_options(read_only=True) was called on"
            )

    def _with(self, **changed: Any) -> Volume:
        return Volume._made(**{**self.__getstate__(), **changed})

    # --- as a value ------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "create": self._create,
            "version": self._version,
            "read_only": self._read_only,
            "below": self._below,
            "ephemeral": self._ephemeral,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._name: str = state["name"]
        self._create: bool = state.get("create", False)
        self._version: int | None = state.get("version")
        self._read_only: bool = state.get("read_only", False)
        self._below: str = state.get("below", "")
        self._ephemeral: bool = state.get("ephemeral", False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Volume) and self.__getstate__() == other.__getstate__()

    def __hash__(self) -> int:
        return hash((self._name, self._version, self._read_only, self._below))

    def __repr__(self) -> str:
        parts = [f"<skylift.Volume {self._name}"]
        parts += [f"version {self._version}"] if self._version is not None else []
        parts += [f"folder {self._below}"] if self._below else []
        parts += ["read-only"] if self._read_only else []
        return ", ".join(parts) + ">"


class VolumeManager:
    """``Volume.objects``: all volumes."""

    @property
    def create(self) -> Blocking[..., None]:
        """Makes an empty volume: ``create("data", allow_existing=False)``. Raises `AlreadyExistsError`."""
        return Blocking(_create)

    @property
    def list(self) -> Blocking[[], list[VolumeInfo]]:
        """All volumes, by name."""
        return Blocking(_list)

    @property
    def delete(self) -> Blocking[..., None]:
        """Deletes a volume with all its versions: ``delete("data", allow_missing=False)``. Raises
        `NotFoundError`."""
        return Blocking(_delete)


Volume.objects = VolumeManager()


class _Ephemeral:
    """What `Volume.ephemeral` gives."""

    def __enter__(self) -> Volume:
        self._name = f"ephemeral-{secrets.token_hex(8)}"
        create_volume(Client.current().http, self._name)
        return Volume._made(name=self._name, ephemeral=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        forget_volume(self._name)
        delete_volume(Client.current().http, self._name)

    async def __aenter__(self) -> Volume:
        import asyncio

        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.__exit__, kind, error, traceback)


async def _create(waiter: Waiter, name: str, *, allow_existing: bool = False) -> None:
    _check_name(name, "Volume.objects.create")
    http = Client.current().http
    if allow_existing:
        await waiter.call(find_volume, http, name, True)
    else:
        await waiter.call(create_volume, http, name)


async def _list(waiter: Waiter) -> list[VolumeInfo]:
    return await waiter.call(lambda: list_volumes(Client.current().http))


async def _delete(waiter: Waiter, name: str, *, allow_missing: bool = False) -> None:
    from skylift.exceptions import NotFoundError

    _check_name(name, "Volume.objects.delete")
    forget_volume(name)
    if not await waiter.call(lambda: delete_volume(Client.current().http, name)) and not allow_missing:
        raise NotFoundError(f"there is no volume {name!r}; see which ones there are with %skylift volumes")


async def _rename_volume(waiter: Waiter, old_name: str, new_name: str) -> None:
    """Gives a volume another name. Raises `NotFoundError` and `AlreadyExistsError`.

    (``volume.rename(path, new_path)`` renames a file in it.)
    """
    _check_name(old_name, "Volume.rename")
    _check_name(new_name, "Volume.rename")
    forget_volume(old_name)
    forget_volume(new_name)
    await waiter.call(lambda: rename_volume(Client.current().http, old_name, new_name))


async def _each(
    waiter: Waiter, items: Iterator[T], close: Callable[[], None] | None = None
) -> AsyncIterator[T]:
    """Items that it takes a while to get."""
    nothing: Any = object()
    try:
        while True:
            item = await waiter.call(next, items, nothing)
            if item is nothing:
                return
            yield item
    finally:
        if close is not None:
            with contextlib.suppress(ValueError):  # it is running in a thread whose waiter was cancelled
                close()


def _check_name(name: object, what: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidError(
            f"{what}({name!r}): a volume's name is 1 to 64 letters, digits, '.', '_' and '-', and begins "
            "with a "
            "letter or a digit"
        )


def _check_version(version: object, what: str) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise InvalidError(f"{what}: a version's number is a whole one, not {version!r}; see history()")
