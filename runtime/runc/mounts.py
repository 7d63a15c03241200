"""What of the machine's files a container sees, and what it may never see."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from skylift.runtime.image_tree import ImageTree
from skylift.runtime.isolation import Bind, StartError
from skylift.runtime.runc.skeleton import SYSTEM_LINKS
from skylift.wire import ImageSpec

REFUSED_TREES = ("/proc", "/sys", "/dev", "/run", "/var/run", "/etc", "/boot")
"""Neither these nor anything in them."""

REFUSED_FOLDERS = (
    "/",
    "/home",
    "/root",
    "/tmp",  # noqa: S108  (refused, not used)
    "/var",
    "/var/lib",
    "/var/tmp",  # noqa: S108
    "/mnt",
    "/media",
    "/srv",
    "/opt",
)
"""Not these as a whole; a folder in them may be mounted."""

SECRET_NAMES = (".aws", ".azure", ".config/gcloud", ".docker", ".gnupg", ".kube", ".oci", ".ssh")
"""Folders of credentials in a home: nothing in them."""

BIND_OPTIONS = ("rbind", "nosuid", "nodev")


def system_binds(root: Path = Path("/")) -> list[Bind]:
    """The machine's programs and libraries."""
    names = [
        "usr",
        *(name for name in SYSTEM_LINKS if (root / name).is_dir() and not (root / name).is_symlink()),
    ]
    return [Bind(root / name, f"/{name}") for name in names]


def image_binds(image: ImageSpec, forbidden: Sequence[Path]) -> list[Bind]:
    """The folders of an image, each at its own path and, where links lead there, at its real one too.

    `forbidden` are folders that no mount may have in it, nor be in (the host's own). Raises `StartError`.
    """
    paths: dict[str, None] = {}
    for mount in image.mounts:
        given = os.path.normpath(mount.path)
        if not os.path.isabs(given):
            raise _refusal(mount.path, "is not an absolute path", "Give the folder's full path.")
        try:
            real = os.path.realpath(given, strict=True)
        except OSError as error:
            raise StartError(
                f"The image needs {mount.path}, which this machine cannot open: {error.strerror}. "
                "Restart the notebook's kernel if its environment was moved.",
                "InvalidError",
            ) from error
        for path in (given, real):
            check_mount(path, forbidden)
            if not _through_system_link(path):
                paths[path] = None
    binds = [Bind(Path(os.path.realpath(path)), path) for path in paths]
    return without_covered(binds, system_binds())


def check_mount(path: str, forbidden: Iterable[Path] = ()) -> None:
    """Raise `StartError` where a container may not see this folder."""
    folder = PurePosixPath(path)
    for tree in REFUSED_TREES:
        if folder == PurePosixPath(tree) or PurePosixPath(tree) in folder.parents:
            raise _refusal(
                path, f"belongs to the system ({tree})", "Copy what the code needs somewhere else."
            )
    if path in REFUSED_FOLDERS or path == os.path.expanduser("~") or folder.parent == PurePosixPath("/home"):
        raise _refusal(
            path,
            "would show everything in it to the container",
            "Put the notebook and its modules into a folder of their own.",
        )
    for own in forbidden:
        if own == Path(path) or own in Path(path).parents or Path(path) in own.parents:
            raise _refusal(
                path,
                f"would show {own}, where Skylift keeps its tokens",
                "Put the notebook and its modules into a folder of their own.",
            )
    for name in SECRET_NAMES:
        parts = PurePosixPath(name).parts
        if any(folder.parts[at : at + len(parts)] == parts for at in range(len(folder.parts))):
            raise _refusal(
                path, f"is in a folder of credentials (~/{name})", "Copy what the code needs elsewhere."
            )


def without_covered(binds: Iterable[Bind], outer: Iterable[Bind] = ()) -> list[Bind]:
    """`binds`, outer folders first, without those that an outer one shows at the same path already."""
    kept = list(outer)
    given = len(kept)
    for bind in sorted(binds, key=lambda bind: (bind.target.count("/"), bind.target)):
        if not any(_shows(each, bind) for each in kept):
            kept.append(bind)
    return kept[given:]


def oci_mount(bind: Bind) -> dict[str, object]:
    """A bind in the form of the OCI configuration."""
    return {
        "destination": bind.target,
        "type": "bind",
        "source": str(bind.source),
        "options": [*BIND_OPTIONS, "rw" if bind.writable else "rro"],
    }


def make_mount_points(binds: Iterable[Bind], upper: Path, image: ImageTree, owner: tuple[int, int]) -> None:
    """Make the folders and files that binds are mounted on, in a container's own layer on top of `image`.

    runc would make them too, but as root of the host: then ``/root/.local`` could not be written in a
    container that has something mounted on ``/root/.local/lib``.
    """
    made: list[PurePosixPath] = []
    for bind in binds:
        target = PurePosixPath(bind.target)
        if any(outer == target or outer in target.parents for outer in made):
            continue  # inside another mount: what is there, is there
        made.append(target)
        folder = not bind.source.exists() or bind.source.is_dir()
        *parents, last = target.parts[1:]
        path = upper
        for name in [*parents, last] if folder else parents:
            path = path / name
            below = image.find(str(path.relative_to(upper)))
            if below is not None and not stat.S_ISDIR(below.lstat().st_mode):
                what = "link" if below.is_symlink() else "file"
                raise StartError(
                    f"Cannot mount {bind.target}: /{path.relative_to(upper)} is a {what}.", "InvalidError"
                )
            if not path.exists():
                path.mkdir()
                path.chmod(stat.S_IMODE(below.stat().st_mode) if below is not None else 0o755)
                _give(path, owner)
        if not folder and not (path / last).exists() and image.find(target) is None:
            (path / last).touch()
            _give(path / last, owner)


def private_folders(binds: Iterable[Bind]) -> list[str]:
    """Sources of read-only binds that only their owner may enter, where the host is root.

    A container's root is somebody else on the machine, so it would find nothing there (see `idmapped`).
    """
    if os.geteuid() != 0:
        return []
    found = []
    for bind in binds:
        with contextlib.suppress(OSError):
            if not bind.writable and bind.source.is_dir() and not bind.source.stat().st_mode & stat.S_IXOTH:
                found.append(str(bind.source))
    return found


def give_writable(bind: Bind, owner: tuple[int, int]) -> None:
    """Let a container's root write to a bind's source: it itself and what lies directly in it (a socket)."""
    if bind.writable and os.geteuid() == 0:
        paths = [bind.source, *(bind.source.iterdir() if bind.source.is_dir() else ())]
        for path in paths:
            os.chown(path, *owner, follow_symlinks=False)


def _give(path: Path, owner: tuple[int, int]) -> None:
    if os.geteuid() == 0:
        os.chown(path, *owner)


def _through_system_link(path: str) -> bool:
    """Whether a path begins with ``/lib`` or the like, where that is a link: the skeleton has it too."""
    first = PurePosixPath(path).parts[1]
    return first in SYSTEM_LINKS and os.path.islink(f"/{first}")


def _shows(outer: Bind, bind: Bind) -> bool:
    """Whether `outer` shows the source of `bind` at its target."""
    try:
        within = PurePosixPath(bind.target).relative_to(outer.target)
    except ValueError:
        return False
    return outer.source / within == bind.source and not bind.writable


def _refusal(path: str, why: str, what_to_do: str) -> StartError:
    return StartError(f"A container cannot mount {path}: it {why}. {what_to_do}", "InvalidError")
