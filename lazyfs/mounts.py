"""Layers as folders of this host, each mounted once for all containers that have it.

A layer is an EROFS image that a `LayerDaemon` serves as one file, and the kernel mounts that file: as it is
where it can (Linux 6.12), else through a loop device. Where it can do neither, `why_not` says so, and the
layer is fetched whole and unpacked: slower to begin with, and the same to look at.

::

    StoreError
    ├── DaemonError      the daemon does not answer
    └── MountError       a layer that could not be mounted or unpacked
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from skylift.lazyfs import mount_calls
from skylift.lazyfs.chunked import ChunkedReader, Progress
from skylift.lazyfs.daemon_link import LayerDaemon
from skylift.lazyfs.layers import open_layer
from skylift.lazyfs.store import Store, StoreError

log = logging.getLogger(__name__)


class MountError(StoreError):
    """A layer that could not be mounted or unpacked."""


def why_not() -> str:
    """Why layers cannot be mounted here, in words for the doctor; "" where they can.

    Mounts nothing; what only a mount can tell comes as `MountError`.
    """
    if os.geteuid() != 0:
        return (
            "only root can mount EROFS images. Layers are fetched whole and unpacked for this user; run the "
            "host as root for lazy loading."
        )
    if not _has_mount_right():
        return "this process may not mount (CAP_SYS_ADMIN is missing, as in most containers)."
    if not os.path.exists("/dev/fuse"):
        return "/dev/fuse is missing: load the kernel's fuse module (modprobe fuse)."
    if not _kernel_has("erofs"):
        return "this kernel has no EROFS: load its module (modprobe erofs), or use Linux 5.4 or newer."
    return ""


class LayerMounts:
    """The layers that are mounted on this host. Thread-safe; one for each folder at a time."""

    def __init__(self, folder: Path, daemon: LayerDaemon) -> None:
        """Mounts in `folder`, what `daemon` (which was started) serves. What another has left there, is
        unmounted."""
        self._folder = folder.absolute()
        self._daemon = daemon
        self._lock = threading.Lock()
        self._users: dict[str, int] = {}
        self._locks: dict[str, threading.Lock] = {}
        for left in mount_calls.mounted_under(self._folder):
            mount_calls.unmount(left.target, lazily=True)

    def acquire(self, layer: str) -> Path:
        """A folder with the layer's files, for one more user. Raises `MountError` and `DaemonError`.

        Reads only what the root of the tree is in: tens of milliseconds from a store that is near.
        """
        target = self._folder / layer
        with self._lock_of(layer):
            if not self._users.get(layer):
                image = self._daemon.add(layer)
                target.mkdir(mode=0o700, parents=True, exist_ok=True)
                mount_image(image, target)
                self._users[layer] = 0
            self._users[layer] += 1
        return target

    def release(self, layer: str) -> None:
        """One user less; the last one unmounts, but what is here of the layer stays. Raises `DaemonError`."""
        with self._lock_of(layer):
            users = self._users.get(layer, 0)
            if users > 1:
                self._users[layer] = users - 1
            elif users == 1:
                del self._users[layer]
                self._unmount(layer)
                self._daemon.remove(layer)

    def users(self, layer: str) -> int:
        """How many have acquired and not released it."""
        return self._users.get(layer, 0)

    def close(self) -> None:
        """Unmount all, whoever uses it; who does keeps seeing it until the daemon ends."""
        with self._lock:
            layers = list(self._users)
        for layer in layers:
            with self._lock_of(layer):
                if self._users.pop(layer, 0):
                    self._unmount(layer)

    def _unmount(self, layer: str) -> None:
        target = self._folder / layer
        try:
            mount_calls.unmount(target)
        except OSError as error:
            if error.errno == errno.EBUSY:
                # A process of the last container that is still ending; it sees the files until then.
                log.warning("Layer %s is still used while it is unmounted", layer)
                mount_calls.unmount(target, lazily=True)
            elif error.errno != errno.EINVAL:  # not mounted any more
                raise
        with contextlib.suppress(OSError):
            target.rmdir()

    def _lock_of(self, layer: str) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(layer, threading.Lock())


def mount_image(image: Path, target: Path) -> None:
    """Mount an EROFS image read-only, without a loop device where the kernel can. Raises `MountError`."""
    flags = mount_calls.MS_RDONLY | mount_calls.MS_NODEV
    try:
        mount_calls.mount(str(image), target, "erofs", flags)
        return
    except OSError as error:
        if error.errno != errno.ENOTBLK:
            raise _mount_error(image, target, str(error)) from error
    done = subprocess.run(
        ["mount", "-t", "erofs", "-o", "loop,ro,nodev", str(image), str(target)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise _mount_error(image, target, done.stderr.decode(errors="replace").strip())


def unpack_layer(
    layer: str, store: Store, target: Path, *, scratch: Path | None = None, progress: Progress | None = None
) -> None:
    """Fetch a layer whole and write its files to `target`, which must not be there; for where `why_not` has
    something to say. Owners are kept where root does it; hard links become files of their own, and extended
    attributes and set-user-id bits are lost, since ``fsck.erofs`` does not bring them.

    Its image lies under `scratch` meanwhile (by default in the system's temporary folder). `target` appears
    when it is whole. Raises `MountError`, and what `ChunkedReader.copy_to` raises.
    """
    file = open_layer(layer, store)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=target.parent))
    try:
        with tempfile.TemporaryDirectory(prefix="layer-", dir=scratch) as folder:
            image = Path(folder) / "image.erofs"
            ChunkedReader(file, store).copy_to(image, progress=progress)
            done = subprocess.run(
                # It makes the last folder itself.
                ["fsck.erofs", f"--extract={unfinished / 'tree'}", "--preserve-perms", str(image)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise MountError(
                f"Layer {layer} could not be unpacked to {target}: "
                f"{said[-1] if said else f'fsck.erofs ended with {done.returncode}'}"
            )
        (unfinished / "tree").rename(target)
    except FileNotFoundError as error:
        if error.filename != "fsck.erofs":
            raise
        raise MountError(
            "fsck.erofs is missing, with which layers are unpacked: install erofs-utils (apt-get install "
            "erofs-utils)."
        ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _mount_error(image: Path, target: Path, why: str) -> MountError:
    return MountError(
        f"{image} could not be mounted on {target}: {why}. The daemon's log says more where a chunk is "
        "missing; the kernel's (dmesg) where the image is not one that this kernel understands."
    )


def _has_mount_right() -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> 21 & 1)
    return False


def _kernel_has(kind: str) -> bool:
    """Now, or as a module that mount(2) would load."""
    with open("/proc/filesystems", encoding="ascii") as lines:
        if any(line.split()[-1] == kind for line in lines):
            return True
    modules = Path("/lib/modules") / os.uname().release
    for name in ("modules.dep", "modules.builtin"):
        with contextlib.suppress(OSError):
            if f"/{kind}.ko" in (modules / name).read_text(errors="replace"):
                return True
    return False
