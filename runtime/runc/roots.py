"""The root file system of a container: what all containers share below, its own files above, as one
overlay.

It is mounted in a mount namespace made for the one ``runc`` that starts the container, and so nowhere else:
when the container ends, however it does, there is nothing to unmount.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from skylift.runtime.isolation import Bind
from skylift.runtime.runc.commands import CommandError, run
from skylift.runtime.runc.container import remove_tree
from skylift.runtime.runc.id_map import IdMaps
from skylift.runtime.runc.mounts import make_mount_points

MOUNT_POINT = Path("/run/skylift/root")
"""Where root mounts it: a container's user cannot pass through the host's own folders, which are private."""

OVERLAY = 'cd "$1" && mount -t overlay overlay -o "$3" "$2" && shift 3 && exec "$@"'
COPY = 'cd "$1" && mount --bind root "$2" && shift 3 && exec "$@"'
"""Run with the container's folder, the mount point, the overlay's options and a command. The folders of the
overlay are named relative to the container's, so that no character of a path is taken for one of the
options'."""


class Roots:
    """Makes the roots of a host's containers."""

    def __init__(self, skeleton: Path, maps: IdMaps, prefix: Sequence[str]) -> None:
        """`prefix` runs a command in the keeper's user namespace; empty where the host is root."""
        self._skeleton = skeleton
        self._maps = maps
        self._prefix = list(prefix)
        self._overlay = True

    def mount_point(self, folder: Path) -> Path:
        """Where the root of the container with this folder is mounted."""
        return folder / "root" if self._prefix else MOUNT_POINT

    async def choose(self, scratch: Path) -> None:
        """See whether an overlay can be made here (not on another overlay or NFS); else roots are copies."""
        if not self._prefix:
            MOUNT_POINT.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
        self._make_folders(scratch)
        try:
            await run(self.command(scratch, ["test", "-d", str(self.mount_point(scratch) / "etc")]))
        except CommandError:
            self._overlay = False
        finally:
            await remove_tree(scratch, self._prefix)

    def prepare(self, folder: Path, hostname: str, address: str, binds: Iterable[Bind]) -> None:
        """Make a container's own layer in `folder`. Raises OSError."""
        upper = self._make_folders(folder)
        if not self._overlay:
            subprocess.run(["cp", "-a", f"{self._skeleton}/.", str(upper)], check=True)
        (upper / "etc").mkdir(exist_ok=True)
        names = f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{address} {hostname}\n"
        for path, text in (("etc/hosts", names), ("etc/hostname", f"{hostname}\n")):
            (upper / path).write_text(text, encoding="utf-8")
        if not self._prefix:
            for path in ("", "etc", "etc/hosts", "etc/hostname"):
                os.chown(upper / path, *self._maps.owner)
        make_mount_points(binds, upper, self._skeleton, self._maps.owner)

    def command(self, folder: Path, command: Sequence[str], before: Sequence[str] = ()) -> list[str]:
        """`command`, to be run in `folder` with the container's root mounted, after the command `before`."""
        options = "lowerdir=lower,upperdir=upper,workdir=work" + (",userxattr" if self._prefix else "")
        script = OVERLAY if self._overlay else COPY
        arguments = [str(folder), str(self.mount_point(folder)), options, *command]
        if before:
            script = f"{shlex.join(before)} && {script}"
        return [*self._prefix, "unshare", "--mount", "sh", "-c", script, "sh", *arguments]

    def _make_folders(self, folder: Path) -> Path:
        """What the overlay is made of; its upper layer, or the root itself where there is none."""
        for name in ("root", "upper", "work"):
            (folder / name).mkdir(parents=True)
        (folder / "lower").symlink_to(self._skeleton)
        return folder / ("upper" if self._overlay else "root")
