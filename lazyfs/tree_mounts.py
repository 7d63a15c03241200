"""The trees of volumes that are in use on a host: each mounted once, for all containers that have it."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from pathlib import Path

from skylift.lazyfs import mount_calls
from skylift.lazyfs.mounts import MountError, mount_image
from skylift.lazyfs.tree_daemon import TreeDaemon

log = logging.getLogger(__name__)

READ_AHEAD_KB = 2048


class TreeMounts:
    """Thread-safe. A tree that has no image, or where images cannot be mounted, is shown by FUSE alone."""

    def __init__(self, folder: Path, daemon: TreeDaemon) -> None:
        """Mounts in `folder` what `daemon` (which was started) shows."""
        self._folder = folder
        self._daemon = daemon
        self._lock = threading.Lock()
        self._users: dict[str, int] = {}
        self._places: dict[str, Path] = {}
        self._why_not = ""

    def acquire(self, root: str) -> Path:
        """A folder with the tree, for one more user. Blocks. Raises OSError."""
        with self._lock:
            if root not in self._places:
                self._places[root] = self._mounted(root) or self._daemon.tree(root)
            self._users[root] = self._users.get(root, 0) + 1
            return self._places[root]

    def release(self, root: str) -> None:
        """One user less; the last one unmounts. Who still sees it goes on seeing it."""
        with self._lock:
            left = self._users.get(root, 0) - 1
            if left > 0:
                self._users[root] = left
                return
            self._users.pop(root, None)
            place = self._places.pop(root, None)
        if place is not None:
            self._unmount(place)

    def close(self) -> None:
        """Unmount all."""
        with self._lock:
            places, self._places, self._users = self._places, {}, {}
        for place in places.values():
            self._unmount(place)

    def _mounted(self, root: str) -> Path | None:
        image = self._daemon.image(root)
        if self._why_not or not image.exists():
            return None
        target = self._folder / root
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            try:
                # Else the kernel keeps the same bytes twice: as pages of the image, and of the files in it.
                flags = mount_calls.MS_RDONLY | mount_calls.MS_NODEV
                mount_calls.mount(str(image), target, "erofs", flags, "directio")
            except OSError:
                mount_image(image, target)
        except (MountError, OSError) as error:
            self._why_not = str(error)
            log.warning("Volumes are shown by FUSE alone, which is slower: %s", error)
            return None
        read_ahead(target)
        return target

    def _unmount(self, place: Path) -> None:
        if place.parent == self._folder:
            with contextlib.suppress(OSError):
                mount_calls.unmount(place, lazily=True)
            with contextlib.suppress(OSError):
                place.rmdir()


def read_ahead(mounted: Path) -> None:
    """More at once where files are read from their beginning to their end. Not all machines allow it."""
    with contextlib.suppress(OSError):
        device = os.stat(mounted).st_dev
        ahead = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        ahead.write_text(str(READ_AHEAD_KB))
