"""Paths of volumes: in them, and of containers where they are mounted."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from dataclasses import replace

from skylift.exceptions import InvalidError
from skylift.volume_access import FileEntry, Path, path_bytes

_TAKEN = ("/", "/root", "/tmp")  # noqa: S108
_SYSTEM = ("/proc", "/sys", "/dev", "/run", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64")


class SubPath:
    """Paths below one folder of a volume; "" is all of it."""

    def __init__(self, folder: str) -> None:
        self._folder = os.fsencode(folder)

    def full(self, path: Path) -> bytes:
        """From the volume's root. Raises `InvalidError` for what leads out of the folder."""
        given = path_bytes(path)
        if b".." in given.split(b"/"):
            raise InvalidError(f"{os.fsdecode(given)!r} is no path in a volume: '..' could lead out of it")
        return self._folder + b"/" + given if self._folder else given

    def out(self, entry: FileEntry) -> FileEntry:
        """The same, its path from the folder on."""
        folder = os.fsdecode(self._folder)
        if not folder:
            return entry
        return replace(entry, path=entry.path.removeprefix(folder).lstrip("/"))


def sub_path_of(what: str, path: object) -> str:
    """A folder of a volume, without slashes around it; "" for all of it. Raises `InvalidError`, naming
    `what`."""
    if path is None:
        return ""
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidError(f"{what}: a folder of the volume, such as 'run-7', not {path!r}")
    parts = [part for part in os.fspath(path).split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in "".join(parts):
        raise InvalidError(f"{what}: {path!r} is no folder in a volume: '..' could lead out of it")
    return "/".join(parts)


def mount_path(path: object) -> str:
    """Where a volume is mounted in containers. Raises `InvalidError` that says what is wrong with it."""
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidError(f"volumes={{{path!r}: …}}: a volume is mounted at a path, such as '/data'")
    text = os.fspath(path)
    if not text.startswith("/"):
        raise InvalidError(f"volumes={{{text!r}: …}}: an absolute path: '/{text.lstrip('./')}'")
    if "\0" in text or ".." in text.split("/"):
        raise InvalidError(f"volumes={{{text!r}: …}}: a path without '..'")
    clean = posixpath.normpath("/" + text.lstrip("/"))
    if clean in _TAKEN:
        raise InvalidError(
            f"volumes={{{text!r}: …}}: a volume cannot be mounted at {clean}, which containers need for "
            "themselves; mount it at /data, say"
        )
    for folder in _SYSTEM:
        if clean == folder or (
            clean.startswith(folder + "/") and folder in ("/proc", "/sys", "/dev", "/run")
        ):
            raise InvalidError(
                f"volumes={{{text!r}: …}}: a volume cannot be mounted at {clean}, which is the system's; "
                "mount it "
                "at /data, say"
            )
    if len(clean.encode()) > 1024:
        raise InvalidError(f"volumes={{{text[:40]!r}…: …}}: a shorter path")
    return clean


def check_mount_paths(paths: Iterable[str]) -> None:
    """Raises `InvalidError` where two are the same, or one is in another."""
    seen: list[str] = []
    for path in paths:
        for other in seen:
            if path == other:
                raise InvalidError(f"volumes=…: two volumes at {path}")
            inner, outer = (path, other) if path.startswith(other + "/") else (other, path)
            if inner.startswith(outer + "/"):
                raise InvalidError(
                    f"volumes=…: {inner} is in {outer}, where another volume is mounted; mount them beside "
                    "each other"
                )
        seen.append(path)
