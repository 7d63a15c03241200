"""What the root of an image shows, without mounting it: file trees on top of each other, as overlayfs sees
them.

Paths here are those in the image. No link is followed unless its target is looked up in the image too, so
that none leads out of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from skylift.lazyfs.overlay_marks import is_opaque, is_whiteout

MAX_LINKS = 40


class TreePathError(Exception):
    """A path that leads nowhere in an image. The message says why, for people."""


class ImageTree:
    """Folders of this host, the lowest first, as one tree."""

    def __init__(self, layers: Sequence[Path]) -> None:
        self._layers = tuple(reversed(layers))

    def find(self, path: str | PurePosixPath) -> Path | None:
        """The file of this host that is shown at a path, a link as itself; None for nothing."""
        found = self._all(_parts(path))
        return found[0] if found else None

    def names(self, path: str | PurePosixPath) -> list[str]:
        """What is in a folder, sorted; [] where there is none."""
        shown: set[str] = set()
        hidden: set[str] = set()
        for folder in self._all(_parts(path)):
            if not _is_folder(folder.lstat()):
                break
            here = os.listdir(folder)
            shown.update(
                name for name in here if name not in hidden and not is_whiteout((folder / name).lstat())
            )
            hidden.update(here)
        return sorted(shown)

    def resolve(self, path: str | PurePosixPath, *, last: bool = True) -> PurePosixPath:
        """A path without links in it, where those lead in the image; what is not there stays as it is. With
        `last` false, the last part may be a link. Raises `TreePathError`."""
        done: list[str] = []
        todo = list(reversed(_parts(path)))
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            found = self._all([*done, part])
            if not found or (not todo and not last) or not found[0].is_symlink():
                done.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                raise TreePathError(f"{path} goes through too many links.")
            target = os.readlink(found[0])
            if target.startswith("/"):
                done.clear()
            todo += reversed([part for part in target.split("/") if part not in ("", ".")])
        return PurePosixPath("/", *done)

    def walk(self, path: str | PurePosixPath) -> Iterator[tuple[PurePosixPath, Path]]:
        """All that is at a path and below, folders before what is in them; no link is followed."""
        path = PurePosixPath(path)
        found = self.find(path)
        if found is None:
            return
        yield path, found
        if _is_folder(found.lstat()):
            for name in self.names(path):
                yield from self.walk(path / name)

    def _all(self, parts: Sequence[str]) -> list[Path]:
        """What of each layer counts at a path, the topmost first."""
        shown = [layer for layer in self._layers if os.path.lexists(layer)]
        for part in parts:
            below: list[Path] = []
            if not shown or not _is_folder(shown[0].lstat()):
                return []
            for folder in shown:
                try:
                    status = (folder / part).lstat()
                except (FileNotFoundError, NotADirectoryError):
                    status = None
                if status is not None:
                    if is_whiteout(status):
                        break
                    if not _is_folder(status):
                        if not below:
                            below.append(folder / part)
                        break
                    below.append(folder / part)
                    if is_opaque(folder / part):
                        break
            shown = below
        return shown


def _parts(path: str | PurePosixPath) -> list[str]:
    return [part for part in str(path).split("/") if part not in ("", ".")]


def _is_folder(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode)
