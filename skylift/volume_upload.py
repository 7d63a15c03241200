"""Files that go to a volume together: all of them, or none."""

from __future__ import annotations

import io
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from skylift import exceptions
from skylift.exceptions import InvalidError
from skylift.tracebacks import hide_our_frames
from skylift.volume_access import ChunksMissing, VolumeAccess, VolumeVersion, path_bytes
from skylift.volume_progress import TransferProgress
from skylift.volume_sending import LocalSource, Planned, Sender, StreamSource
from skylift.waiting import ASYNCIO, BLOCKING, Waiter, run
from skylift.wire.volumes import SentEntry

if TYPE_CHECKING:
    from typing_extensions import Self

LocalPath: TypeAlias = str | os.PathLike[str]

_MOST_TRIES = 3
"""That a commit is tried where chunks are gone that the store had a moment before."""


class BatchUpload:
    """What `Volume.batch_upload` gives: ``with``, or ``async with``. At its end all is sent, then committed.

    Where its block raises, nothing is sent. Where sending fails, the volume is as it was, and what was sent
    by then is not sent again when the same is uploaded again within a day.
    """

    def __init__(
        self,
        access: Callable[[], VolumeAccess],
        name: str,
        force: bool,
        message: str = "",
        sub_path: str = "",
        progress: TransferProgress | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """`stop`: another thread may set it, and no more is sent then."""
        self._access = access
        self._name = name
        self._force = force
        self._message = message
        self._below = sub_path
        self._progress = progress
        self._stop = stop
        self._planned: dict[bytes, Planned] = {}
        self._open = False
        self.version: VolumeVersion | None = None
        """What was committed; None before the end of the block, or where there was nothing to send."""

    def put_file(self, local_file: LocalPath | BinaryIO, remote_path: str, mode: int | None = None) -> None:
        """Send a file, or what a file object has from where it stands.

        `remote_path` with a slash at its end is a directory to put it in. `mode` are its permissions, those
        of the local file by default. A symlink is followed. Raises `InvalidError` at once for what is no
        file.
        """
        self._check_open("put_file")
        remote = path_bytes(remote_path)
        mode = None if mode is None else _mode(mode)
        if isinstance(local_file, (str, os.PathLike)):
            path = Path(local_file)
            status = _status(path)
            if stat.S_ISDIR(status.st_mode):
                raise InvalidError(f"put_file({str(path)!r}): a directory; send it with put_directory()")
            if not stat.S_ISREG(status.st_mode):
                raise InvalidError(
                    f"put_file({str(path)!r}): not an ordinary file; pipes, sockets and devices cannot be in "
                    "a "
                    "volume"
                )
            if remote.endswith(b"/"):
                remote += os.fsencode(path.name)
            source: LocalSource | StreamSource = LocalSource(path.resolve(), status)
            entry = SentEntry(
                self._full(remote),
                "file",
                stat.S_IMODE(status.st_mode) if mode is None else mode,
                status.st_mtime_ns,
                status.st_size,
            )
        else:
            if isinstance(local_file, io.TextIOBase):
                raise InvalidError(
                    f"put_file(…, {remote_path!r}): a file object that gives bytes: open(…, 'rb'), io.BytesIO"
                )
            if not hasattr(local_file, "read"):
                raise InvalidError(f"put_file({local_file!r}): a path, or a file object that gives bytes")
            if remote.endswith(b"/"):
                raise InvalidError(f"put_file(…, {remote_path!r}): a file object needs the name of a file")
            source = StreamSource(local_file)
            entry = SentEntry(
                self._full(remote), "file", 0o644 if mode is None else mode, time.time_ns(), source.size
            )
        self._add(Planned(entry, source))

    def put_directory(self, local_path: LocalPath, remote_path: str = "/", recursive: bool = True) -> None:
        """Send what is in a directory. It and what it is sent over become one.

        Symlinks in it are sent as symlinks, wherever they lead; sockets, pipes and devices are left out.
        Raises `InvalidError` at once for what is no directory, or cannot be read.
        """
        self._check_open("put_directory")
        folder = Path(local_path)
        if not stat.S_ISDIR(_status(folder).st_mode):
            raise InvalidError(f"put_directory({str(folder)!r}): not a directory; send it with put_file()")
        try:
            self._walk(folder, self._full(path_bytes(remote_path)).strip(b"/"), recursive)
        except OSError as error:
            raise InvalidError(
                f"put_directory({str(folder)!r}): {error.filename}: {error.strerror}"
            ) from None

    def __enter__(self) -> Self:
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        if kind is None:
            try:
                run(self._finish(BLOCKING))
            except BaseException as failure:
                hide_our_frames(failure)
                raise

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        if kind is None:
            await self._finish(ASYNCIO)

    # --- how it is done --------------------------------------------------------------------------

    async def _finish(self, waiter: Waiter) -> None:
        if not self._planned:
            return
        stop = self._stop or threading.Event()
        try:
            self.version = await waiter.call(self._send, stop)
        finally:
            stop.set()  # who is cancelled while a thread sends

    def _send(self, stop: threading.Event) -> VolumeVersion:
        access = self._access()
        planned = list(self._planned.values())
        progress = self._progress or TransferProgress(f"upload to {self._name}")
        sender = Sender(access, progress, stop)
        try:
            if not self._force:
                self._check_free(access, planned)
            tries = _MOST_TRIES
            while (version := self._try(access, sender, planned)) is None:
                # Collected since they were found: what is missing is found out, and sent, once more.
                tries -= 1
                if not tries or any(isinstance(one.source, StreamSource) for one in planned):
                    raise exceptions.ConflictError(
                        f"volume {self._name!r}: chunks that were sent are not in the store any more. "
                        "Nothing "
                        "has changed in the volume; upload again"
                    )
            return version
        except (exceptions.ConnectionError, exceptions.ResourceExhaustedError) as error:
            raise type(error)(
                f"volume {self._name!r}: the upload was interrupted: {str(error).rstrip('.')}. Unless that "
                "was at "
                f"its very end (see history()), nothing has changed in the volume. {progress.resumable()}"
            ) from error
        finally:
            progress.close()

    def _try(self, access: VolumeAccess, sender: Sender, planned: list[Planned]) -> VolumeVersion | None:
        entries = sender.send(planned)
        try:
            return access.commit(entries, self._force, self._message)
        except ChunksMissing:
            return None

    def _check_free(self, access: VolumeAccess, planned: list[Planned]) -> None:
        """Before anything is sent: a few files that are there already are found at once. The commit checks
        all."""
        for one in planned[:3]:
            if one.entry.kind == "dir":
                continue
            try:
                access.stat(one.entry.path)
            except (exceptions.PathNotFoundError, exceptions.PathNotDirectoryError):
                continue
            shown = os.fsdecode(one.entry.path)
            raise exceptions.PathExistsError(
                f"Volume {self._name!r} has /{shown.lstrip('/')} already. Replace it with "
                "batch_upload(force=True), or send this one elsewhere."
            )

    def _walk(self, folder: Path, below: bytes, recursive: bool) -> None:
        waiting: list[tuple[Path, bytes]] = [(folder, below)]
        while waiting:
            at, remote = waiting.pop()
            if remote:
                self._add(Planned(SentEntry(remote, "dir", stat.S_IMODE(at.stat().st_mode)), None))
            with os.scandir(at) as listing:
                children = sorted(listing, key=lambda child: child.name)
            for child in children:
                there = remote + b"/" + os.fsencode(child.name) if remote else os.fsencode(child.name)
                status = child.stat(follow_symlinks=False)
                mode = stat.S_IMODE(status.st_mode)
                if stat.S_ISDIR(status.st_mode):
                    if recursive:
                        waiting.append((Path(child.path), there))
                elif stat.S_ISLNK(status.st_mode):
                    target = os.fsencode(os.readlink(child.path))
                    self._add(
                        Planned(SentEntry(there, "link", mode, status.st_mtime_ns, content=target), None)
                    )
                elif stat.S_ISREG(status.st_mode):
                    entry = SentEntry(there, "file", mode, status.st_mtime_ns, status.st_size)
                    self._add(Planned(entry, LocalSource(Path(child.path), status)))

    def _add(self, planned: Planned) -> None:
        self._planned[b"/".join(part for part in planned.entry.path.split(b"/") if part)] = planned

    def _full(self, remote: bytes) -> bytes:
        return os.fsencode(self._below) + b"/" + remote if self._below else remote

    def _check_open(self, what: str) -> None:
        if not self._open:
            raise InvalidError(
                f"{what}() is for the block of batch_upload(): with volume.batch_upload() as batch: "
                f"batch.{what}(…)"
            )


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise InvalidError(f"there is no {str(path)!r} here (in {os.getcwd()})") from None
    except OSError as error:
        raise InvalidError(f"{str(path)!r}: {error.strerror}") from None


def _mode(mode: Any) -> int:
    if isinstance(mode, bool) or not isinstance(mode, int) or not 0 <= mode <= 0o7777:
        raise InvalidError(f"mode={mode!r}: permission bits, such as 0o644")
    return mode
