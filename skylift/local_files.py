"""Files of this machine that go into an image: what there is in a folder, and whether it has changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from skylift.exceptions import InvalidError
from skylift.file_patterns import FilePatternMatcher

MAX_FILES = 500_000
"""In one folder that is added."""


class LocalFile(NamedTuple):
    """One file, link or folder, and where it goes."""

    path: str
    """In what it is added to, with slashes; never leads out of it."""
    source: Path | None = None
    """Where it is here. A link is taken as a link; of a folder only that it is there."""
    content: bytes | None = None
    """In place of a source."""
    mode: int | None = None
    """None: its own."""
    link: str | None = None
    """What it is a link to, in place of what `source` is one to."""


def listed(
    root: Path, ignore: Callable[[Path], bool], where: str, *, skip_special: bool = False
) -> list[LocalFile]:
    """All that is in a folder, or a single file as itself (with an empty path), in a fixed order.

    Links that lead to something in the folder stay links, and so do those that lead nowhere; of others, what
    they lead to is taken. Raises `InvalidError`, beginning with `where`, for what cannot be read or copied;
    with `skip_special` that is left out.
    """
    try:
        real = root.resolve(strict=True)
        if not stat.S_ISDIR(real.stat().st_mode):
            return [LocalFile("", _plain(real, where))]
    except FileNotFoundError:
        raise InvalidError(f"{where}: there is no {str(root)!r} here (in {os.getcwd()})") from None
    except (OSError, RuntimeError) as error:
        raise InvalidError(f"{where}: {error}") from None
    lister = _Lister(real, ignore, where, skip_special)
    try:
        lister.folder(real, "", (os.path.realpath(real),))
    except OSError as error:
        raise InvalidError(f"{where}: {error}") from None
    return lister.found


def stamp(files: Iterable[LocalFile]) -> tuple[object, ...]:
    """Changes when one of the files does (or its time, or its rights). Reads none."""
    found: list[object] = []
    for file in files:
        found.append((file.path, file.content, file.mode, file.link))
        if file.source is not None and file.link is None:
            try:
                status = os.lstat(file.source)
            except OSError:
                found.append(None)
                continue
            if not stat.S_ISDIR(status.st_mode):
                found.append((status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)


class _Lister:
    def __init__(self, root: Path, ignore: Callable[[Path], bool], where: str, skip_special: bool) -> None:
        self._root = str(root)
        self._ignore = ignore
        self._where = where
        self._skip_special = skip_special
        self.found: list[LocalFile] = []

    def folder(self, folder: Path, prefix: str, above: tuple[str, ...]) -> None:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            self._entry(Path(entry.path), prefix + entry.name, above)

    def _entry(self, source: Path, path: str, above: tuple[str, ...]) -> None:
        if isinstance(self._ignore, FilePatternMatcher) and self._ignore.matches_all_below(path):
            return
        mode = source.lstat().st_mode
        if stat.S_ISLNK(mode):
            target = self._target(source)
            if target is None:
                self._take(LocalFile(path, source))
                return
            inside = os.path.relpath(target, self._root)
            if inside != ".." and not inside.startswith("../"):
                # (Also where the link itself names it from outside.)
                here = os.path.dirname(path)
                self._take(LocalFile(path, source, link=os.path.relpath(inside, here or ".")))
                return
            source = Path(target)
            mode = source.stat().st_mode
        if stat.S_ISDIR(mode):
            self._folder(source, path, above)
        elif not self._ignore(Path(path)):
            if self._skip_special and not (stat.S_ISREG(mode) and os.access(source, os.R_OK)):
                return
            self._take(LocalFile(path, _plain(source, self._where)))

    def _folder(self, source: Path, path: str, above: tuple[str, ...]) -> None:
        real = os.path.realpath(source)
        if real in above:
            raise InvalidError(
                f"{self._where}: a link in it leads in a circle: {path} is {real}, in which it is. Leave it "
                f"out with ignore=[{path!r}]"
            )
        if not isinstance(self._ignore, FilePatternMatcher) or not self._ignore(path):
            self._take(LocalFile(path, source), is_folder=True)
        self.folder(source, path + "/", (*above, real))

    def _target(self, link: Path) -> str | None:
        """What a link leads to; None where that is nothing."""
        try:
            return os.path.realpath(link, strict=True)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidError(
                f"{self._where}: the link {str(link)!r} cannot be followed: {error.strerror}"
            ) from None

    def _take(self, file: LocalFile, *, is_folder: bool = False) -> None:
        if not is_folder and self._ignore(Path(file.path)):
            return
        self.found.append(file)
        if len(self.found) > MAX_FILES:
            raise InvalidError(
                f"{self._where}: over {MAX_FILES:,} files. Leave some out with ignore=[…], or put them into "
                "a Volume"
            )


def _plain(source: Path, where: str) -> Path:
    """Raises `InvalidError` for what is no file, or cannot be read."""
    mode = source.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a socket" if stat.S_ISSOCK(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device"
        raise InvalidError(
            f"{where}: {str(source)!r} is {kind}, which cannot be in an image. Leave it out with ignore="
        )
    if not os.access(source, os.R_OK):
        raise InvalidError(f"{where}: {str(source)!r} must not be read by this user")
    return source
