"""The root file system of a container: what all containers share below, its own files above, as one
overlay.

It is mounted in a mount namespace made for the one ``runc`` that starts the container, and so nowhere else:
when the container ends, however it does, there is nothing to unmount.
"""

from __future__ import annotations

import os
import shlex
import stat
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

STAGE = Path("/run/skylift/sources")
"""Where `reachable` shows what lies behind folders that only root may enter."""
LAYER = "layer"
"""With a number, lowest first: layers between what all containers share and the container's own."""


class Roots:
    """Makes the roots of a host's containers."""

    def __init__(self, skeleton: Path, maps: IdMaps, prefix: Sequence[str]) -> None:
        """`prefix` runs a command in the keeper's user namespace; empty where the host is root."""
        self.skeleton = skeleton
        self._maps = maps
        self._prefix = list(prefix)
        self._overlay = True

    def mount_point(self, folder: Path) -> Path:
        """Where the root of the container with this folder is mounted."""
        return folder / "root" if self._prefix else MOUNT_POINT

    async def choose(self, scratch: Path) -> None:
        """See whether an overlay can be made here (not on another overlay or NFS); else roots are copies."""
        if not self._prefix:
            for path in (MOUNT_POINT, STAGE):
                path.mkdir(parents=True, exist_ok=True)
        self._make_folders(scratch)
        try:
            await run(self.command(scratch, ["test", "-d", str(self.mount_point(scratch) / "etc")]))
        except CommandError:
            self._overlay = False
        finally:
            await remove_tree(scratch, self._prefix)

    @property
    def layered(self) -> bool:
        """Whether roots are overlays."""
        return self._overlay

    def own_layer(self, folder: Path) -> Path:
        """What the container with this folder writes to."""
        return folder / ("upper" if self._overlay else "root")

    def layers(self, folder: Path) -> tuple[Path, ...]:
        """The layers of the container with this folder that not all share, lowest first."""
        return (*reversed(_lower_layers(folder)), self.own_layer(folder))

    def prepare_layers(self, folder: Path, count: int) -> list[Path]:
        """Make `count` empty layers in `folder`, the last one the container's own. Raises OSError."""
        upper = self._make_folders(folder)
        lower = [folder / f"{LAYER}{number}" for number in range(count - 1)]
        for path in lower:
            path.mkdir()
        return [*lower, upper]

    def prepare(self, folder: Path, hostname: str, address: str, binds: Iterable[Bind]) -> None:
        """Make a container's own layer in `folder`. Raises OSError."""
        (upper,) = self.prepare_layers(folder, 1)
        if not self._overlay:
            subprocess.run(["cp", "-a", f"{self.skeleton}/.", str(upper)], check=True)
        (upper / "etc").mkdir(exist_ok=True)
        for path, text in (("etc/hosts", host_names(address, hostname)), ("etc/hostname", f"{hostname}\n")):
            (upper / path).write_text(text, encoding="utf-8")
        if not self._prefix:
            for path in ("", "etc", "etc/hosts", "etc/hostname"):
                os.chown(upper / path, *self._maps.owner)
        make_mount_points(binds, upper, self.skeleton, self._maps.owner)

    def command(self, folder: Path, command: Sequence[str], before: Sequence[str] = ()) -> list[str]:
        """`command`, to be run in `folder` with the container's root mounted, after the command `before`."""
        lower = ":".join([*(path.name for path in _lower_layers(folder)), "lower"])
        options = f"lowerdir={lower},upperdir=upper,workdir=work" + (",userxattr" if self._prefix else "")
        script = OVERLAY if self._overlay else COPY
        arguments = [str(folder), str(self.mount_point(folder)), options, *command]
        if before:
            script = f"{shlex.join(before)} && {script}"
        return [*self._prefix, "unshare", "--mount", "sh", "-c", script, "sh", *arguments]

    def _make_folders(self, folder: Path) -> Path:
        """What the overlay is made of; its upper layer, or the root itself where there is none."""
        for name in ("root", "upper", "work"):
            (folder / name).mkdir(parents=True)
        (folder / "lower").symlink_to(self.skeleton)
        return self.own_layer(folder)


def _lower_layers(folder: Path) -> list[Path]:
    """Those between what all share and the container's own, the highest first."""
    found = folder.glob(f"{LAYER}*")
    return sorted(found, key=lambda path: int(path.name.removeprefix(LAYER)), reverse=True)


def host_names(address: str, hostname: str) -> str:
    """The content of a container's ``/etc/hosts``."""
    return f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{address} {hostname}\n"


def reachable(sources: Iterable[Path]) -> tuple[dict[Path, Path], list[str]]:
    """Where a container's root finds each of `sources`, and the command that makes it so, in the container's
    mount namespace; empty where nothing has to be done.

    CRIU mounts a restored container's files as its root, who is nobody on the host, and cannot pass through
    folders that only their owner may enter.
    """
    places: dict[Path, Path] = {}
    steps: list[str] = []
    for source in sources:
        if source in places or all(_may_pass(folder) for folder in source.parents):
            continue
        place = STAGE / str(len(places))
        places[source] = place
        made = "mkdir" if source.is_dir() else "touch"
        steps += [f"{made} {place}", f"mount --bind {shlex.quote(str(source))} {place}"]
    if not steps:
        return {}, []
    return places, ["sh", "-ec", "\n".join([f"mount -t tmpfs -o mode=755 tmpfs {STAGE}", *steps])]


def _may_pass(folder: Path) -> bool:
    try:
        return bool(folder.stat().st_mode & stat.S_IXOTH)
    except OSError:
        return True  # what is missing is said by who needs it
