"""Shows the trees of volumes on this host: ``python -m skylift.lazyfs.tree_daemon``.

Holds the FUSE connection, as `skylift.lazyfs.daemon` does for layers; `skylift.lazyfs.tree_worker` answers.
Every tree in the store is there, below ``files/`` of its folder, under the name of its root: nothing has to
be added.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import sys
import time
from pathlib import Path

from skylift.lazyfs import mount_calls
from skylift.lazyfs.daemon import CONTROL, Holder
from skylift.lazyfs.daemon_link import DaemonError, LayerDaemon
from skylift.lazyfs.daemon_worker import FILES

log = logging.getLogger(__name__)

_END_SECONDS = 10.0
_END_PAUSE = 0.05


class TreeDaemon(LayerDaemon):
    """The other side: starts it, and asks it for things. Thread-safe."""

    module = "skylift.lazyfs.tree_daemon"
    what = "volumes"

    def __init__(
        self,
        folder: Path,
        store: str,
        *,
        home: Path | None = None,
        patience: float = 60,
        owner: tuple[int, int] = (0, 0),
    ) -> None:
        """As `LayerDaemon`; all files belong to `owner`, a user and a group of this machine."""
        super().__init__(folder, store, home=home, patience=patience)
        self._owner = owner

    def arguments(self) -> list[str]:
        """See `LayerDaemon.arguments`."""
        return ["--owner", f"{self._owner[0]}:{self._owner[1]}"]

    def tree(self, root: str) -> Path:
        """Where a tree is seen."""
        return self.folder / FILES / root

    def image(self, root: str) -> Path:
        """Where its image is; nothing is there where the tree is too large for one."""
        return self.folder / FILES / f"{root}.erofs"


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m skylift.lazyfs.tree_daemon")
    parser.add_argument("--folder", type=Path, required=True, help="for what it keeps, and its socket")
    parser.add_argument("--store", required=True, help="a store's URL")
    parser.add_argument("--home", type=Path, help="where the store of an empty URL is")
    parser.add_argument("--patience", type=float, default=60, help="seconds that a read waits for the store")
    parser.add_argument("--owner", default="0:0", help="user and group that the files belong to")
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    folder = options.folder.absolute()
    try:
        holder = Holder(
            folder,
            options.store,
            options.patience,
            options.home or folder,
            worker="skylift.lazyfs.tree_worker",
            more=["--owner", options.owner],
        )
    except BlockingIOError:
        log.error("Another daemon serves volumes in %s already", folder)
        return 2
    except OSError as error:
        log.error("Volumes cannot be served in %s: %s", folder, error)
        return 1
    return holder.run()


def end_left(folder: Path) -> None:
    """End the daemon that a host before this one has left in a folder, and unmount what it showed. Raises
    OSError."""
    for left in mount_calls.mounted_under(folder):
        if left.target != folder / FILES:
            mount_calls.unmount(left.target, lazily=True)
    if (folder / CONTROL).exists():
        with contextlib.suppress(DaemonError):
            TreeDaemon(folder, "").stop()
    until = time.monotonic() + _END_SECONDS
    with contextlib.suppress(FileNotFoundError), (folder / "lock").open("rb") as lock:
        while time.monotonic() < until:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_END_PAUSE)
    for left in mount_calls.mounted_under(folder):
        with contextlib.suppress(OSError):  # it is just being done
            mount_calls.unmount(left.target, lazily=True)


if __name__ == "__main__":
    sys.exit(main())
