"""Files on their way from a page into volumes: gathered in a folder, then sent by the SDK's own upload.

What is there of a file stays until it is in its volume, for a day: a page that was closed goes on with it,
when it is given the very same file (its volume, path, size and time) again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from blake3 import blake3

from skylift import exceptions
from skylift.outputs import Line
from skylift.volume_access import VolumeAccess
from skylift.volume_progress import TransferProgress
from skylift.volume_upload import BatchUpload

if TYPE_CHECKING:
    from collections.abc import Callable

    from skylift.lab.gateway_link import GatewayLink

KEPT_SECONDS = 86400.0
"""As long as the gateway keeps chunks that nothing needs yet."""
_SPARE = 64 * 1024 * 1024
"""Bytes that are left on the disk."""


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST skylift/uploads``."""

    volume: str
    path: str
    size: int
    """Bytes."""
    modified: float
    """Unix time."""


class WrongOffsetError(Exception):
    """Those are not the next bytes."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"The next byte is {offset}.")
        self.offset = offset


class Progress(TransferProgress):
    """Counts, and shows nothing."""

    def __init__(self) -> None:
        super().__init__("", line=Line())

    @property
    def done(self) -> int:
        """Bytes of the file that are in the store."""
        return self._bytes

    def tick(self, *, now: bool = False) -> None:
        """Nobody looks here."""

    def close(self) -> None:
        """It is over."""


class Upload:
    """One file."""

    def __init__(self, folder: Path, upload_id: str, wanted: Wanted) -> None:
        self.upload_id = upload_id
        self.wanted = wanted
        self.lock = asyncio.Lock()
        self.progress = Progress()
        self.sending: asyncio.Task[None] | None = None
        self.stop = threading.Event()
        self.file = folder / f"{upload_id}.part"
        self.note = folder / f"{upload_id}.json"

    def offset(self) -> int:
        """How much of it is here."""
        try:
            return self.file.stat().st_size
        except OSError:
            return 0

    def forget(self) -> None:
        """Delete what is here of it."""
        for path in (self.file, self.note):
            path.unlink(missing_ok=True)


class UploadSpool:
    """All of them, of one user's Jupyter servers."""

    def __init__(self, folder: Path, link: GatewayLink) -> None:
        self.folder = folder
        self.link = link
        self._uploads: dict[str, Upload] = {}

    async def begin(self, wanted: Wanted) -> Upload:
        """Make one, or go on with what is there of that very file.

        Raises `InvalidError`, and `ResourceExhaustedError` where the disk has no room for it.
        """
        _check(wanted)
        upload_id = blake3(msgspec.msgpack.encode(wanted)).hexdigest(16)
        upload = self._uploads.get(upload_id)
        if upload is None:
            made = Upload(self.folder, upload_id, wanted)
            await self.link.run(lambda: self._prepare(made))
            upload = self._uploads.setdefault(upload_id, made)
        return upload

    async def find(self, upload_id: str) -> Upload:
        """One that was begun, perhaps before this server was started. Raises `NotFoundError`."""
        upload = self._uploads.get(upload_id)
        if upload is None:
            wanted = await self.link.run(lambda: self._read_note(upload_id))
            if wanted is None:
                raise exceptions.NotFoundError(
                    f"There is no upload {upload_id}: it is over, was cancelled, or is older than a day. "
                    "Begin again."
                )
            upload = self._uploads.setdefault(upload_id, Upload(self.folder, upload_id, wanted))
        return upload

    async def put(self, upload: Upload, offset: int, data: bytes) -> int:
        """Add the next bytes; how much is here then. Raises `WrongOffsetError`, `InvalidError` and
        `ResourceExhaustedError`."""
        async with upload.lock:
            return await self.link.run(lambda: self._append(upload, offset, data))

    async def finish(self, upload: Upload) -> None:
        """Put it into its volume, which takes the place of what is there; then forget it. Also where nobody
        waits for it any more. Raises `WrongOffsetError` and what the SDK raises; then it is still here."""
        if upload.sending is None:
            offset = await self.link.run(upload.offset)
            if offset != upload.wanted.size:
                raise WrongOffsetError(offset)
            if upload.sending is None:
                upload.stop = threading.Event()
                upload.sending = asyncio.get_running_loop().create_task(self._send(upload))
        await asyncio.shield(upload.sending)

    async def cancel(self, upload: Upload) -> None:
        """Stop it, and forget it."""
        upload.stop.set()
        if upload.sending is not None:
            with contextlib.suppress(exceptions.Error):
                await asyncio.shield(upload.sending)
        self._uploads.pop(upload.upload_id, None)
        async with upload.lock:
            await self.link.run(upload.forget)

    # --- how it is done ----------------------------------------------------------------------------

    async def _send(self, upload: Upload) -> None:
        try:
            await _in_thread(lambda: self._upload(upload))
            self._uploads.pop(upload.upload_id, None)
            await self.link.run(upload.forget)
        finally:
            upload.sending = None

    def _upload(self, upload: Upload) -> None:
        wanted = upload.wanted
        os.utime(upload.file, (wanted.modified, wanted.modified))
        access = VolumeAccess(self.link.http(), wanted.volume)
        upload.progress = Progress()
        batch = BatchUpload(lambda: access, wanted.volume, True, progress=upload.progress, stop=upload.stop)
        with batch:
            batch.put_file(upload.file, wanted.path, 0o644)

    def _prepare(self, upload: Upload) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            here = upload.offset()
            if here > upload.wanted.size:
                upload.forget()
                here = 0
            free = shutil.disk_usage(self.folder).free
            if upload.wanted.size - here > free - _SPARE:
                raise exceptions.ResourceExhaustedError(
                    f"{upload.wanted.path} has {upload.wanted.size:,} bytes, and {self.folder} on the "
                    f"Jupyter server's machine has room for {max(0, free - _SPARE):,}. Make room "
                    "there, or send it with skylift volume put"
                )
            upload.file.touch(mode=0o600)
            upload.note.write_bytes(msgspec.json.encode(upload.wanted))
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def _append(self, upload: Upload, offset: int, data: bytes) -> int:
        here = upload.offset()
        if offset != here:
            raise WrongOffsetError(here)
        if here + len(data) > upload.wanted.size:
            raise exceptions.InvalidError(
                f"{upload.wanted.path} has {upload.wanted.size:,} bytes, and these would make "
                f"{here + len(data):,}: was it changed? Begin again"
            )
        try:
            with upload.file.open("ab") as file:
                try:
                    file.write(data)
                    file.flush()
                except OSError:
                    file.truncate(here)
                    raise
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        return here + len(data)

    def _read_note(self, upload_id: str) -> Wanted | None:
        try:
            return msgspec.json.decode((self.folder / f"{upload_id}.json").read_bytes(), type=Wanted)
        except (OSError, msgspec.DecodeError):
            return None

    def _sweep(self) -> None:
        """Delete what nobody went on with."""
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                old = time.time() - path.stat().st_ctime > KEPT_SECONDS
                if old and path.stem not in self._uploads and path.suffix in (".part", ".json"):
                    path.unlink()


async def _in_thread(work: Callable[[], None]) -> None:
    """Do it in a thread of its own: it takes long, and must not keep the server from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if done.done():
            return  # nobody waits any more
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as failure:
            error = failure
        with contextlib.suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, name="skylift-upload", daemon=True).start()
    await done


def _check(wanted: Wanted) -> None:
    if not wanted.volume or not wanted.path.strip("/") or wanted.path.endswith("/"):
        raise exceptions.InvalidError("an upload needs a volume, and the path of a file in it")
    if wanted.size < 0:
        raise exceptions.InvalidError(f"size={wanted.size}: no file has that")


def _unwritable(folder: Path, error: OSError) -> exceptions.Error:
    return exceptions.ResourceExhaustedError(
        f"{folder} on the Jupyter server's machine cannot be written to ({error.strerror or error})"
    )
