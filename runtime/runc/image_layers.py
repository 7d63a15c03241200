"""The layers of images as folders of this host, from which the roots of containers are made.

Each is mounted lazily (`skylift.lazyfs.mounts`) and shown a second time with the user ids of containers, so
that what belongs to root in the image belongs to root in the container. Where the one or the other cannot be
done, a layer is fetched whole and unpacked, and its files are given to the container's users.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

from skylift.lazyfs import mount_calls
from skylift.lazyfs.daemon_link import DaemonError, LayerDaemon
from skylift.lazyfs.daemon_worker import COPIES
from skylift.lazyfs.image_records import read_trace, write_trace
from skylift.lazyfs.mounts import LayerMounts, unpack_layer, why_not
from skylift.lazyfs.names import Names
from skylift.lazyfs.open_store import open_store
from skylift.lazyfs.store import Store, StoreError
from skylift.runtime.runc.commands import CommandError
from skylift.runtime.runc.idmapped import show_mapped
from skylift.runtime.runc.layer_room import surplus, used
from skylift.runtime.start_error import StartError
from skylift.wire import ImageSpec

log = logging.getLogger(__name__)

_END_SECONDS = 10.0
_END_PAUSE = 0.05


class ImageLayers:
    """The layers that are in use on this host. Thread-safe; its methods block on disks and the store."""

    def __init__(
        self, folder: Path, home: Path, store: str = "", *, first_id: int = 0, budget: int = sys.maxsize
    ) -> None:
        """`folder` is the host's own for layers; `store` a store's URL as for `open_store`. `first_id` is the
        user and group of the host that are root in containers; 0 where these see the host's own ids.
        `budget` is how many bytes of the disk layers may take of which nothing runs."""
        self._budget = budget
        self._folder = folder
        self._home = home
        self._url = store
        self._first_id = first_id
        self._lock = threading.RLock()
        self._layer_locks: dict[str, threading.Lock] = {}
        self._users: dict[str, int] = {}
        self._unpacked_users: dict[str, int] = {}
        self._sizes: dict[Path, int] = {}
        """Bytes of those that are unpacked."""
        self._daemon: LayerDaemon | None = None
        self._mounts: LayerMounts | None = None
        self._opened: tuple[Store, Names] | None = None
        self.shifts = bool(first_id)
        """Whether containers see other ids than the host."""
        self.why_unpacked = why_not()
        """Why layers are unpacked here; "" where they are mounted."""

    def clean(self) -> None:
        """Unmount and end what a host before this one has left. Raises OSError."""
        daemon = self._folder / "daemon"
        _unmount_all(self._folder / "shown")
        if (daemon / "control.sock").exists():
            with contextlib.suppress(DaemonError):
                LayerDaemon(daemon, self._url).stop()
            _wait_for_lock(daemon / "lock")
        _unmount_all(self._folder)
        for unfinished in (self._folder / "unpacked").glob(".*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def acquire(self, layers: Sequence[str], user_namespace: str = "") -> tuple[Path, ...]:
        """Folders with the layers' files as containers are to see them, for one more user of each.

        `user_namespace` is the path of one with the containers' ids; "" shows the ids as they are in the
        image, where layers are mounted. Raises `StoreError` and OSError; nothing is acquired then.
        """
        acquired: list[str] = []
        folders = []
        try:
            for layer in layers:
                folders.append(self._acquire(layer, user_namespace))
                acquired.append(layer)
        except BaseException:
            self.release(acquired, mapped=bool(user_namespace))
            raise
        return tuple(folders)

    def release(self, layers: Iterable[str], *, mapped: bool) -> None:
        """One user less of each; `mapped` where they were acquired with a user namespace."""
        for layer in layers:
            try:
                self._release(layer, mapped=mapped)
            except (OSError, DaemonError):  # noqa: PERF203  # the others are released
                log.exception("Layer %s could not be released.", layer)
        with contextlib.suppress(OSError):
            self.make_room()

    def make_room(self) -> None:
        """Remove what there is no room for, of layers that nothing runs of. Raises OSError."""
        with self._lock:
            daemon, mounts = self._daemon, self._mounts
            in_use = {layer for layer in self._layer_locks if mounts is not None and mounts.users(layer)}
            in_use |= self._unpacked_users.keys()
        for path in surplus(self._copies, self._folder / "unpacked", self._sizes, in_use, self._budget):
            with self._lock_of(path.name):
                if self._unpacked_users.get(path.name) or (mounts is not None and mounts.users(path.name)):
                    continue
                if daemon is not None and path.parent == self._copies:
                    with contextlib.suppress(DaemonError):
                        daemon.remove(path.name, forget=True)
                shutil.rmtree(path, ignore_errors=True)

    def own_id(self, number: int) -> int:
        """The user or group id in the image, of a file with this one in a folder that `acquire` gave."""
        return number - self._first_id if number >= self._first_id else number

    def keep_traces(self, layers: Iterable[str]) -> None:
        """Keep in which order the chunks of layers were first read here, where nobody has yet. Raises
        `StoreError` and OSError."""
        _, names = self._open()
        for layer in layers:
            if self._daemon is not None and self._users.get(layer) and not read_trace(names, layer):
                chunks = self._daemon.trace(layer)
                if chunks:
                    write_trace(names, layer, chunks)

    def close(self) -> None:
        """Unmount all, and end the daemon."""
        with self._lock:
            users, self._users = self._users, {}
            for layer in users:
                with contextlib.suppress(OSError):
                    mount_calls.unmount(self._folder / "shown" / layer, lazily=True)
            if self._mounts is not None:
                self._mounts.close()
                self._mounts = None
            if self._daemon is not None:
                self._daemon.stop()
                self._daemon = None

    @property
    def _copies(self) -> Path:
        """Where the daemon has what was read of each layer."""
        return self._folder / "daemon" / COPIES

    def _acquire(self, layer: str, user_namespace: str) -> Path:
        with self._lock_of(layer):
            if not self.why_unpacked:
                try:
                    return self._mounted(layer, user_namespace)
                except OSError as error:
                    if isinstance(error, _NotMappedError):
                        log.warning("%s Layers are fetched whole and unpacked.", error)
                        self.why_unpacked = str(error)
                    else:
                        raise
            folder = self._unpacked(layer)
            used(folder)
            self._unpacked_users[layer] = self._unpacked_users.get(layer, 0) + 1
            return folder

    def _mounted(self, layer: str, user_namespace: str) -> Path:
        mounts = self._started()
        folder = mounts.acquire(layer)
        try:
            if not mounts.users(layer) > 1:
                self._prefetch(layer)
            if not user_namespace:
                return folder
            shown = self._folder / "shown" / layer
            if not self._users.get(layer):
                shown.mkdir(mode=0o700, parents=True, exist_ok=True)
                _show(folder, user_namespace, shown)
            self._users[layer] = self._users.get(layer, 0) + 1
        except BaseException:
            mounts.release(layer)
            raise
        return shown

    def _prefetch(self, layer: str) -> None:
        """What the first container of the image has read on another host is likely to be read here."""
        _, names = self._open()
        with contextlib.suppress(DaemonError, OSError):
            chunks = read_trace(names, layer)
            if chunks and self._daemon is not None:
                self._daemon.prefetch(layer, chunks)

    def _unpacked(self, layer: str) -> Path:
        target = self._folder / "unpacked" / layer
        if not target.exists():
            store, _ = self._open()
            staged = target.with_name(f".{layer}")
            shutil.rmtree(staged, ignore_errors=True)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            unpack_layer(layer, store, staged, scratch=self._folder)
            if os.geteuid() == 0 and self._first_id:
                shift_owners(staged, lambda number: number + self._first_id)
            staged.rename(target)
        return target

    def _release(self, layer: str, *, mapped: bool) -> None:
        with self._lock_of(layer):
            if self._mounts is None or not self._mounts.users(layer):
                left = self._unpacked_users.pop(layer, 0) - 1
                if left > 0:
                    self._unpacked_users[layer] = left
                return
            if mapped:
                users = self._users.get(layer, 0)
                if users > 1:
                    self._users[layer] = users - 1
                elif users == 1:
                    del self._users[layer]
                    shown = self._folder / "shown" / layer
                    mount_calls.unmount(shown, lazily=True)
                    shown.rmdir()
            self._mounts.release(layer)
            if not self._mounts.users(layer):
                used(self._copies / layer)

    def _started(self) -> LayerMounts:
        with self._lock:
            if self._mounts is None:
                daemon = LayerDaemon(self._folder / "daemon", self._url, home=self._home)
                daemon.start()
                self._daemon = daemon
                self._mounts = LayerMounts(self._folder / "mounts", daemon)
            return self._mounts

    def _open(self) -> tuple[Store, Names]:
        with self._lock:
            if self._opened is None:
                self._opened = open_store(self._url, self._home, cache=self._folder / "store-cache")
            return self._opened

    def _lock_of(self, layer: str) -> threading.Lock:
        with self._lock:
            return self._layer_locks.setdefault(layer, threading.Lock())


class HeldLayers:
    """What the root of one container is made of, until it is let go."""

    def __init__(
        self, layers: ImageLayers | None, image: ImageSpec, folders: tuple[Path, ...], traced: bool
    ) -> None:
        self._layers = layers
        self._traced = traced
        self._image = image
        self.folders = folders
        """The image's layers, lowest first; () where the container stands on what all containers share."""

    @classmethod
    async def of(
        cls,
        layers: ImageLayers | None,
        image: ImageSpec,
        user_namespace: Callable[[], Awaitable[str]],
        *,
        traced: bool = False,
    ) -> HeldLayers:
        """Acquire the layers of an image, if it has some. With `traced`, what was read of them is remembered,
        for hosts that have nothing of them yet. Raises `StartError`."""
        if image.kind != "layers":
            return cls(None, image, (), False)
        if not image.layers or layers is None:
            raise StartError("The image has no layers, so nothing can be run in it.", "InvalidError")
        try:
            namespace = await user_namespace()
            acquiring = asyncio.ensure_future(asyncio.to_thread(layers.acquire, image.layers, namespace))
            try:
                folders = await asyncio.shield(acquiring)
            except asyncio.CancelledError:
                await asyncio.wait([acquiring])
                if acquiring.exception() is None:
                    await asyncio.to_thread(layers.release, image.layers, mapped=bool(namespace))
                raise
        except (StoreError, CommandError, OSError) as error:
            raise StartError(f"The image's layers cannot be had on this host: {error}") from error
        return cls(layers, image, folders, traced)

    async def let_go(self) -> None:
        """Once. The container must have ended."""
        layers, self._layers = self._layers, None
        if layers is not None:
            if self._traced:
                with contextlib.suppress(StoreError, OSError):
                    await asyncio.to_thread(layers.keep_traces, self._image.layers)
            await asyncio.to_thread(layers.release, self._image.layers, mapped=layers.shifts)


def _unmount_all(folder: Path) -> None:
    for left in mount_calls.mounted_under(folder):
        with contextlib.suppress(OSError):  # its daemon may be about to do it
            mount_calls.unmount(left.target, lazily=True)


def _wait_for_lock(file: Path) -> None:
    """Until the daemon that holds it has ended, or for some seconds."""
    until = time.monotonic() + _END_SECONDS
    with contextlib.suppress(FileNotFoundError), file.open("rb") as lock:
        while time.monotonic() < until:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:  # noqa: PERF203
                time.sleep(_END_PAUSE)


class _NotMappedError(OSError):
    """This kernel does not show a layer with other ids."""


def _show(folder: Path, user_namespace: str, shown: Path) -> None:
    descriptor = os.open(user_namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        show_mapped(str(folder), descriptor, str(shown))
    except OSError as error:
        raise _NotMappedError(
            error.errno, f"This kernel cannot show layers with the containers' user ids ({error.strerror})."
        ) from error
    finally:
        os.close(descriptor)


def shift_owners(folder: Path, shifted: Callable[[int], int]) -> None:
    """Give all files of a tree to other users and groups; hard links once. Raises OSError."""
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder):
        for name in ("", *folders, *files) if parent == str(folder) else (*folders, *files):
            path = os.path.join(parent, name) if name else parent
            status = os.lstat(path)
            if status.st_nlink > 1 and name in files:
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            os.chown(path, shifted(status.st_uid), shifted(status.st_gid), follow_symlinks=False)
            if status.st_mode & 0o6000 and not os.path.islink(path):
                os.chmod(path, status.st_mode & 0o7777)  # the kernel takes set-user-id away
