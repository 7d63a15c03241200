"""The volumes of a host's containers: mounted when a container starts, committed while it runs and at its
end.

What a container sees is an overlay: below, the volume's version, read as it is used (`lazyfs.tree_files`);
above, an ordinary folder with what it has written. Commits are made by the host, which reads that folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

from skylift.lazyfs.names import Names
from skylift.lazyfs.store import Store, StoreError
from skylift.lazyfs.tree_daemon import TreeDaemon, end_left
from skylift.lazyfs.tree_mounts import TreeMounts
from skylift.lazyfs.trees import Trees
from skylift.lazyfs.volume_errors import VolumeError, VolumeNotFoundError
from skylift.runtime.mounted_bucket import MountedBucket
from skylift.runtime.mounted_volume import NOTE, Left, MountedVolume, recovered
from skylift.runtime.start_error import StartError
from skylift.runtime.volume_errors import error_name
from skylift.wire import VolumeMount

COMMIT_SECONDS = 15.0
"""Between two commits of a container that runs."""
_RENEW_SECONDS = 120.0
_TRIES = 3
_TRY_AGAIN_SECONDS = 2.0
_PROGRAM = Path(__file__).parent / "runc" / "volume_mount.py"
UNSAVED = "unsaved-volumes"
"""In the host's folder: what containers had written and could not commit."""

log = logging.getLogger(__name__)


class MountFailedError(Exception):
    """A volume could not be mounted in a container, or taken out of it."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.busy = number == errno.EBUSY


class HostVolumes:
    """What the containers of a host have in common. Thread-safe."""

    def __init__(self, folder: Path, url: str, home: Path, store: Store, names: Names) -> None:
        """`folder` is the host's own; `store` and `names` are those at `url`. Touches nothing."""
        self._folder = folder
        self._url = url
        self._home = home
        self.trees = Trees(store)
        self.names = names
        self.owner = (0, 0)
        """The user and group of this machine that are root in containers."""
        self.why_not = "this host has not been set up"
        """Why containers here cannot have volumes; "" where they can."""
        self._daemon: TreeDaemon | None = None
        self._mounts: TreeMounts | None = None
        self._lock = threading.Lock()

    def set_up(self, owner: tuple[int, int], why_not: str) -> None:
        """Known once containers can be made. Unmounts what a host before this one has left. Raises
        OSError."""
        self.owner = owner
        self.why_not = why_not
        if not why_not:
            end_left(self._folder)

    def mounts(self) -> TreeMounts:
        """The trees that are mounted on this host. Blocks. Raises `DaemonError`."""
        with self._lock:
            if self._mounts is None:
                daemon = self._new_daemon()
                daemon.start()
                self._daemon = daemon
                self._mounts = TreeMounts(self._folder / "mounts", daemon)
            return self._mounts

    def open(
        self, mounts: tuple[VolumeMount, ...], folder: Path, container_id: str, who: str
    ) -> ContainerVolumes:
        """The volumes of one container; `folder` is made for them. Blocks.

        Raises `StartError` naming the volume; nothing of them is left then.
        """
        opened: list[MountedVolume | MountedBucket] = []
        try:
            if self.why_not:
                raise StartError(f"Volumes cannot be mounted on this host: {self.why_not}.", "InvalidError")
            for number, mount in enumerate(mounts):
                place = folder / str(number)
                if mount.bucket:
                    opened.append(MountedBucket(mount, place, self.owner))
                    continue
                opened.append(
                    MountedVolume(mount, place, self.trees, self.names, self.mounts(), self.owner, who)
                )
        except BaseException as error:
            for volume in opened:
                volume.close()
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, VolumeError | StoreError | OSError):
                name = error_name(error)
                raise StartError(f"{error}", name) from error
            raise
        return ContainerVolumes(opened, container_id, folder, self._folder.parent / UNSAVED / container_id)

    def recover(self, containers: list[Path]) -> None:
        """Commit what containers had written whose host was killed; those folders are about to be removed.
        What cannot be committed now is kept, and tried again by the next host. Blocks."""
        unsaved = self._folder.parent / UNSAVED
        for folder in containers:
            if (folder / "volumes").is_dir():
                with contextlib.suppress(OSError):
                    unsaved.mkdir(mode=0o700, exist_ok=True)
                    (folder / "volumes").rename(unsaved / folder.name)
        for left in sorted(unsaved.glob("*/*")) if unsaved.is_dir() else []:
            self._recover(left)
            with contextlib.suppress(OSError):
                left.parent.rmdir()

    def _recover(self, folder: Path) -> None:
        if not (folder / NOTE).exists():  # it could only be read
            shutil.rmtree(folder, ignore_errors=True)
            return
        try:
            said = recovered(folder, self.trees, self.names)
            log.warning("What container %s had not committed: %s.", folder.parent.name, said)
        except VolumeNotFoundError as error:
            log.error("What container %s had written is gone: %s", folder.parent.name, error)
        except Exception as error:
            log.error("What container %s had written stays in %s: %s", folder.parent.name, folder, error)
            return
        shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """No container has a volume any more. Blocks."""
        with self._lock:
            if self._mounts is not None:
                self._mounts.close()
                self._mounts = None
            if self._daemon is not None:
                self._daemon.stop()
                self._daemon = None

    def _new_daemon(self) -> TreeDaemon:
        return TreeDaemon(self._folder, self._url, home=self._home, owner=self.owner)


def why_no_volumes() -> str:
    """Why trees cannot be shown on this machine; "" where they can."""
    if os.geteuid() != 0:
        return "only a host that runs as root can mount them"
    if not os.path.exists("/dev/fuse"):
        return "/dev/fuse is missing (modprobe fuse)"
    return ""


class ContainerVolumes:
    """The volumes of one container. Methods are called from the event loop; one works at a time."""

    def __init__(
        self,
        volumes: list[MountedVolume | MountedBucket],
        container_id: str,
        folder: Path,
        unsaved: Path,
    ) -> None:
        self._volumes = volumes
        self._container_id = container_id
        self._folder = folder
        self._unsaved = unsaved
        self._pid = 0
        self._turn = asyncio.Lock()
        self._background: asyncio.Task[None] | None = None
        self._closed = False

    async def attach(self, pid: int) -> None:
        """Mount them in the container that this process is in. Raises `StartError`."""
        async with self._turn:
            try:
                for volume in self._volumes:
                    await _run(volume.wish(pid))
            except MountFailedError as error:
                raise StartError(
                    f"Volume {volume.mount.name!r} cannot be mounted at {volume.mount.path}: {error}.",
                    "InvalidError",
                ) from error
            self._pid = pid
        if self._background is None:
            self._background = asyncio.create_task(self._commit_now_and_then())

    async def detach(self) -> None:
        """Commit, and take them out of the container. Raises `MountFailedError`; they are all there then."""
        async with self._turn:
            for volume in self._volumes:
                for left in await self._commit(volume, force=True):
                    if left.pending:
                        raise MountFailedError(left.text, 0)
            gone: list[MountedVolume | MountedBucket] = []
            try:
                for volume in self._volumes:
                    await self._take_out(volume)
                    gone.append(volume)
            except MountFailedError:
                for volume in gone:
                    await _run(volume.wish(self._pid))
                raise

    async def commit(self, name: str = "") -> list[Left]:
        """Commit one, or all; what was left out. Raises `VolumeError`."""
        said: list[Left] = []
        async with self._turn:
            for volume in self._volumes:
                if name in ("", volume.mount.name):
                    said += await self._commit(volume)
        return said

    async def reload(self, name: str) -> None:
        """Commit one, and show what others have committed. Raises `VolumeError` and `MountFailedError`."""
        async with self._turn:
            for volume in self._volumes:
                if volume.mount.name == name:
                    await self._reload(volume)

    async def close(self) -> list[str]:
        """The container has ended: commit, and let go of all. What was lost or left, in words."""
        if self._background is not None:
            self._background.cancel()
            await asyncio.gather(self._background, return_exceptions=True)
        said: list[str] = []
        async with self._turn:
            if self._closed:
                return []
            self._closed = True
            for volume in self._volumes:
                said += await self._last_commit(volume)
                await asyncio.to_thread(volume.close)
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        return said

    async def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """What code in the container asks for (see docs/volumes.md)."""
        what, name = question.get("do"), str(question.get("volume", ""))
        try:
            if what == "commit":
                pending = [left.text for left in await self.commit(name) if left.pending]
                if pending:
                    return {"error": "ConflictError", "message": "; ".join(pending[:10])}
                return {}
            if what == "commit all":
                return {"left": [left.text for left in await self.commit()][:100]}
            if what == "reload":
                await self.reload(name)
                return {}
        except (VolumeError, StoreError, OSError) as error:
            return {"error": error_name(error), "message": str(error)}
        except MountFailedError as error:
            return {"error": "ConflictError", "message": str(error)}
        return {"error": "InvalidError", "message": f"{what!r} cannot be asked of a container's host"}

    async def _commit(self, volume: MountedVolume | MountedBucket, *, force: bool = False) -> list[Left]:
        return await asyncio.to_thread(volume.commit, force=force)

    async def _reload(self, volume: MountedVolume | MountedBucket) -> None:
        for left in await self._commit(volume):
            if left.pending:
                raise MountFailedError(f"It is not reloaded, for that would lose it: {left.text}", 0)
        await self._take_out(volume)
        try:
            await asyncio.to_thread(volume.reload)
        finally:
            await _run(volume.wish(self._pid))

    async def _take_out(self, volume: MountedVolume | MountedBucket) -> None:
        try:
            await _run({"do": "unmount", "pid": self._pid, "target": volume.mount.path})
        except MountFailedError as error:
            if error.busy:
                raise MountFailedError(
                    f"Files of volume {volume.mount.name!r} are open in the container, or a process has its "
                    f"working folder in {volume.mount.path}: close them first",
                    errno.EBUSY,
                ) from None
            raise

    async def _last_commit(self, volume: MountedVolume | MountedBucket) -> list[str]:
        for attempt in range(_TRIES):
            try:
                said = await self._commit(volume, force=True)
            except VolumeNotFoundError as error:
                return [f"what it wrote to volume {volume.mount.name} is gone: {error}"]
            except Exception as error:
                log.warning("Container %s: %s", self._container_id, error)
                if attempt + 1 < _TRIES:
                    await asyncio.sleep(_TRY_AGAIN_SECONDS)
                    continue
                return [await asyncio.to_thread(self._keep, volume, error)]
            return [left.text for left in said]
        raise AssertionError

    def _keep(self, volume: MountedVolume | MountedBucket, error: Exception) -> str:
        place = self._unsaved / volume.folder.name
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            volume.folder.rename(place)
        except OSError as failure:
            return f"what it wrote to volume {volume.mount.name} is lost: {error} ({failure})"
        return (
            f"what it wrote to volume {volume.mount.name} is not committed: {error} It is kept in {place}, "
            "and "
            "committed when the host starts again"
        )

    async def _commit_now_and_then(self) -> None:
        renewed = time.monotonic()
        told = ""
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            try:
                await self.commit()
                if time.monotonic() - renewed > _RENEW_SECONDS:
                    renewed = time.monotonic()
                    for volume in self._volumes:
                        await asyncio.to_thread(volume.renew)
                told = ""
            except Exception as error:
                if str(error) != told:
                    log.warning("Container %s: a commit failed: %s", self._container_id, error)
                told = str(error)


class VolumeSocket:
    """Where code in a container asks its host for commits: lines of JSON, one question each."""

    def __init__(self, volumes: ContainerVolumes) -> None:
        self._volumes = volumes
        self._server: asyncio.Server | None = None

    async def listen(self, sock: Any) -> None:
        """At a listening socket."""
        self._server = await asyncio.start_unix_server(self._talk, sock=sock)

    def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), 60)
            answer = await self._volumes.answer(json.loads(line))
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (ValueError, OSError, asyncio.TimeoutError, AttributeError):
            pass
        finally:
            writer.close()


async def _run(wish: dict[str, Any]) -> None:
    """See `runc/volume_mount.py`. Raises `MountFailedError`."""
    folder = wish.pop("folder", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-IS",
        str(_PROGRAM),
        json.dumps(wish),
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    if process.returncode:
        raise MountFailedError(said.decode(errors="replace").strip() or "it failed", process.returncode)
