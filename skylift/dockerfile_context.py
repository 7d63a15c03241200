"""The folder that a Dockerfile copies from: ``.dockerignore``, wildcards, and what a source comes down to."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_MAGIC = re.compile(r"[*?\[]")


class ContextError(Exception):
    """What cannot be copied. The message says why, for people."""


class Found(NamedTuple):
    """Something of a context."""

    path: str
    """Relative to the source that it is of; "" for a source that is no folder."""
    file: Path


class Source(NamedTuple):
    """One source of a ``COPY``."""

    name: str
    """Its last part: what it is called where it is copied into a folder."""
    folder: bool
    content: tuple[Found, ...]


class BuildContext:
    """The files that may be copied."""

    def __init__(self, folder: Path, dockerfile: str = "Dockerfile") -> None:
        """Raises `ContextError` where there is no such folder, and OSError."""
        self.folder = folder.resolve()
        if not self.folder.is_dir():
            raise ContextError(f"the context {folder} is not a folder")
        self.ignore_file = self.folder / f"{posixpath.basename(dockerfile)}.dockerignore"
        if not self.ignore_file.is_file():
            self.ignore_file = self.folder / ".dockerignore"
        text = self.ignore_file.read_text("utf-8") if self.ignore_file.is_file() else ""
        self._ignored = Ignored(text)

    def sources(self, pattern: str) -> list[Source]:
        """What a source names; a link at its end is followed. Raises `ContextError` and OSError."""
        clean = posixpath.normpath(pattern.lstrip("/") or ".")
        if clean == ".." or clean.startswith("../"):
            raise ContextError(f"{pattern} is outside of the context {self.folder}")
        found = [self._source(path) for path in self._matches(clean)]
        there = [source for source in found if source is not None]
        if there:
            return there
        if found:
            raise ContextError(f"{pattern} is left out by {self.ignore_file}")
        raise ContextError(f"{self.folder} has no {pattern}")

    def _matches(self, pattern: str) -> list[str]:
        if pattern == ".":
            return [""]
        found = [""]
        for part in pattern.split("/"):
            inner: list[str] = []
            for path in found:
                folder = self.folder / path
                if not _MAGIC.search(part):
                    name = re.sub(r"\\(.)", r"\1", part)
                    inner += [posixpath.join(path, name)] if os.path.lexists(folder / name) else []
                elif folder.is_dir():
                    fits = compiled(part)
                    inner += [
                        posixpath.join(path, name)
                        for name in sorted(os.listdir(folder))
                        if fits.fullmatch(name)
                    ]
            found = inner
        return found

    def _source(self, path: str) -> Source | None:
        """None for what is ignored."""
        file = self.folder / path
        real = file.resolve()
        if real != self.folder and self.folder not in real.parents:
            raise ContextError(f"{path} leads to {real}, outside of the context {self.folder}")
        if not real.exists():
            raise ContextError(f"{path} is a link that leads nowhere")
        inner = real.relative_to(self.folder).as_posix()
        inner = "" if inner == "." else inner
        name = PurePosixPath(path).name
        if real.is_dir():
            content = tuple(self._walk(real, inner, ""))
            if not content and inner and self._ignored.matches(inner):
                return None
            return Source(name, True, content)
        if self._ignored.matches(inner):
            return None
        return Source(name, False, (Found("", real),))

    def _walk(self, folder: Path, path: str, within: str) -> Iterator[Found]:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                inner, shown = posixpath.join(path, entry.name), posixpath.join(within, entry.name)
                ignored = self._ignored.matches(inner)
                if entry.is_dir(follow_symlinks=False):
                    if not ignored:
                        yield Found(shown, Path(entry.path))
                    if not ignored or self._ignored.has_exceptions:
                        yield from self._walk(Path(entry.path), inner, shown)
                elif not ignored:
                    yield Found(shown, Path(entry.path))


class Ignored:
    """What a ``.dockerignore`` says: of the lines that fit a path, or a folder it is in, the last counts."""

    def __init__(self, text: str) -> None:
        self._rules: list[tuple[re.Pattern[str], bool]] = []
        for line in text.removeprefix("\ufeff").splitlines():
            pattern = line.strip()
            if not pattern or line.startswith("#"):
                continue
            excepted = pattern.startswith("!")
            pattern = pattern[1:].strip() if excepted else pattern
            clean = posixpath.normpath(pattern).lstrip("/")
            if clean in ("", "."):
                continue
            self._rules.append((compiled(clean, "(?:/.*)?"), not excepted))
        self.has_exceptions = any(not ignore for _, ignore in self._rules)

    def matches(self, path: str) -> bool:
        """Whether a path of the context is left out."""
        ignored = False
        for pattern, ignore in self._rules:
            if ignore != ignored and pattern.fullmatch(path):
                ignored = ignore
        return ignored


def compiled(pattern: str, after: str = "") -> re.Pattern[str]:
    """A pattern as a regular expression: ``*``, ``?`` and ``[a-z]`` stay within a name, ``**`` does not.

    Raises `ContextError`.
    """
    try:
        return re.compile(_translated(pattern) + after, re.DOTALL)
    except re.error as error:
        raise ContextError(f"{pattern} is no pattern: {error}") from error


def _translated(pattern: str) -> str:
    done = ""
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at):
            at += 2
            if pattern.startswith("/", at):
                at += 1
                done += "(?:.*/)?"
            else:
                done += ".*"
            continue
        at += 1
        if char == "*":
            done += "[^/]*"
        elif char == "?":
            done += "[^/]"
        elif char == "\\" and at < len(pattern):
            done += re.escape(pattern[at])
            at += 1
        elif char == "[" and (end := pattern.find("]", at + 1)) > 0:
            inner = pattern[at:end]
            negated = inner.startswith("^")
            inner = inner.removeprefix("^").replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
            done += f"[{'^/' if negated else ''}{inner}]"
            at = end + 1
        else:
            done += re.escape(char)
    return done
