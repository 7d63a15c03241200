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

from skylift.runtime.image_tree import ImageTree
from skylift.runtime.isolation import Bind, StartError
from skylift.runtime.runc.commands import CommandError, run
from skylift.runtime.runc.container import remove_tree
from skylift.runtime.runc.id_map import IdMaps
from skylift.runtime.runc.mounts import make_mount_points
from skylift.runtime.runc.skeleton import TEXTS

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
LOWER = "lower"
"""With a number, highest first: links to what is below; one without a number where that is the skeleton."""

FOLDERS = {"dev": 0o755, "proc": 0o555, "sys": 0o555, "run": 0o755, "tmp": 0o1777, "root": 0o700}
"""What a container needs that an image may lack."""


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

    def prepare_layers(self, folder: Path, count: int, image: Sequence[Path] = ()) -> list[Path]:
        """Make `count` empty layers in `folder`, the last one the container's own. `image` are the layers of
        its image, lowest first; without them it stands on what all containers share. Raises OSError."""
        upper = self._make_folders(folder, image)
        lower = [folder / f"{LAYER}{number}" for number in range(count - 1)]
        for path in lower:
            path.mkdir()
        return [*lower, upper]

    def prepare(
        self,
        folder: Path,
        hostname: str,
        address: str,
        binds: Iterable[Bind],
        image: Sequence[Path] = (),
        *,
        apart: bool = False,
    ) -> None:
        """Make a container's own layer in `folder`; `image` are the layers of its image, lowest first.

        With `apart`, what every container gets of the host is in a layer of its own below, so that its own
        has only what its processes write. Raises OSError, `StartError`.
        """
        if image and not self._overlay:
            raise StartError(
                f"Images need a disk that can hold the layers of an overlay, and {folder} is on none: set "
                "SKYLIFT_HOME to a folder on ext4, XFS or Btrfs."
            )
        layer, *_ = self.prepare_layers(folder, 2 if apart and self._overlay else 1, image)
        below = ImageTree(image or (self.skeleton,))
        if not self._overlay:
            subprocess.run(["cp", "-a", f"{self.skeleton}/.", str(layer)], check=True)
        texts = {"etc/hosts": host_names(address, hostname), "etc/hostname": f"{hostname}\n"}
        folders = {"etc": 0o755}
        if image:
            folders |= FOLDERS
            texts["etc/resolv.conf"] = (self.skeleton / "etc/resolv.conf").read_text(encoding="utf-8")
            texts |= {path: TEXTS[path] for path in ("etc/passwd", "etc/group") if below.find(path) is None}
        for path, mode in folders.items():
            if path == "etc" or below.find(path) is None:
                self._own(layer / path, below.find(path), mode)
        for path, text in texts.items():
            (layer / path).write_text(text, encoding="utf-8")
            self._give(layer / path)
        for each in {layer, self.own_layer(folder)}:
            self._like(each, below.find("/"))
        make_mount_points(binds, layer, below, self._maps.owner)

    def _own(self, path: Path, like: Path | None, mode: int) -> None:
        path.mkdir(exist_ok=True)
        path.chmod(stat.S_IMODE(like.stat().st_mode) if like is not None and like.is_dir() else mode)
        self._give(path)

    def _like(self, layer: Path, root: Path | None) -> None:
        """What the root of an overlay's own layer says is true of all of it."""
        layer.chmod(stat.S_IMODE(root.stat().st_mode) | 0o555 if root is not None else 0o755)
        self._give(layer)

    def _give(self, path: Path) -> None:
        if not self._prefix:
            os.chown(path, *self._maps.owner)

    def command(self, folder: Path, command: Sequence[str], before: Sequence[str] = ()) -> list[str]:
        """`command`, to be run in `folder` with the container's root mounted, after the command `before`."""
        image = _numbered(folder, LOWER)
        lower = ":".join(path.name for path in [*_lower_layers(folder), *(image or [folder / LOWER])])
        options = f"lowerdir={lower},upperdir=upper,workdir=work" + (",userxattr" if self._prefix else "")
        if image:
            # What its layers call devices are none, and what it writes must be whole without what is below.
            options += ",nodev,redirect_dir=nofollow,metacopy=off" if not self._prefix else ",nodev"
        script = OVERLAY if self._overlay else COPY
        arguments = [str(folder), str(self.mount_point(folder)), options, *command]
        if before:
            script = f"{shlex.join(before)} && {script}"
        return [*self._prefix, "unshare", "--mount", "sh", "-c", script, "sh", *arguments]

    def _make_folders(self, folder: Path, image: Sequence[Path] = ()) -> Path:
        """What the overlay is made of; its upper layer, or the root itself where there is none."""
        for name in ("root", "upper", "work"):
            (folder / name).mkdir(parents=True)
        (folder / LOWER).symlink_to(self.skeleton)
        for number, layer in enumerate(reversed(image)):
            (folder / f"{LOWER}{number}").symlink_to(layer)
        return self.own_layer(folder)


def _lower_layers(folder: Path) -> list[Path]:
    """Those between what all share and the container's own, the highest first."""
    return _numbered(folder, LAYER)[::-1]


def _numbered(folder: Path, name: str) -> list[Path]:
    found = folder.glob(f"{name}[0-9]*")
    return sorted(found, key=lambda path: int(path.name.removeprefix(name)))


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
