"""Patterns for files to leave out, as in a ``.dockerignore``.

======  ==============================================================
``*``   any part of a name, ``?`` one letter of it, ``[a-c]`` one of these
``**``  any number of folders, also none
``!p``  what an earlier pattern leaves out and `p` matches is kept all the same
======  ==============================================================

A pattern is relative to the folder that is copied; one that matches a folder matches all that is in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import TypeAlias

from skylift.exceptions import InvalidError

Ignore: TypeAlias = "Sequence[str] | Callable[[Path], bool]"
"""What to leave out: patterns, or a function that is given each file's path relative to the folder."""


class FilePatternMatcher:
    """Whether a path matches patterns; the last pattern that says something about it decides.

    ``~FilePatternMatcher("**/*.py")`` matches what it does not.
    """

    def __init__(self, *patterns: str) -> None:
        """Raises `InvalidError` for what is no pattern."""
        self.patterns = tuple(patterns)
        self._inverted = False
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise InvalidError(f"{pattern!r} is no pattern for files: it is text, such as '**/*.log'")
            text = pattern.strip()
            keep = text.startswith("!")
            text = text[keep:].strip().strip("/").removeprefix("./")
            if text and text != ".":
                self._rules.append((keep, _compiled(text, pattern)))

    @classmethod
    def from_file(cls, path: str | Path) -> FilePatternMatcher:
        """The patterns in a file such as ``.dockerignore``: one a line, ``#`` begins a comment.

        Raises `InvalidError` where it cannot be read.
        """
        try:
            lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidError(f"FilePatternMatcher.from_file({str(path)!r}): {error}") from None
        return cls(*[line for line in lines if line.strip() and not line.startswith("#")])

    def __call__(self, path: PurePath | str) -> bool:
        """Whether a path, relative to the folder that the patterns are for, matches."""
        text = path.as_posix() if isinstance(path, PurePath) else path
        found = False
        for keep, rule in self._rules:
            if found == keep and rule.fullmatch(text):
                found = not keep
        return found != self._inverted

    def matches_all_below(self, folder: str) -> bool:
        """Whether everything in a folder matches, so that one need not look."""
        return not self._inverted and self(folder) and not any(keep for keep, _ in self._rules)

    def __invert__(self) -> FilePatternMatcher:
        other = FilePatternMatcher(*self.patterns)
        other._inverted = not self._inverted
        return other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FilePatternMatcher) and (self.patterns, self._inverted) == (
            other.patterns,
            other._inverted,
        )

    def __hash__(self) -> int:
        return hash((self.patterns, self._inverted))

    def __repr__(self) -> str:
        return f"{'~' if self._inverted else ''}FilePatternMatcher({', '.join(map(repr, self.patterns))})"


def matcher(ignore: object, where: str) -> Callable[[Path], bool]:
    """What ``ignore=`` means. Raises `InvalidError` beginning with `where`."""
    if callable(ignore):
        return ignore
    if isinstance(ignore, str) or not isinstance(ignore, Sequence):
        raise InvalidError(
            f"{where}: ignore={ignore!r}: a list of patterns, such as ['**/*.log'], or a function"
        )
    return FilePatternMatcher(*ignore)


def _compiled(text: str, pattern: str) -> re.Pattern[str]:
    out = ""
    position = 0
    while position < len(text):
        rest = text[position:]
        if rest.startswith("**/"):
            out += "(?:.*/)?"
            position += 3
        elif rest.startswith("**"):
            out += ".*"
            position += 2
        elif rest[0] == "*":
            out += "[^/]*"
            position += 1
        elif rest[0] == "?":
            out += "[^/]"
            position += 1
        elif rest[0] == "[":
            end = rest.find("]", 2)
            if end < 0:
                raise InvalidError(f"{pattern!r} is no pattern for files: its [ has no ]")
            inner = rest[1:end]
            negated = inner.startswith(("^", "!"))
            inner = inner[negated:].replace("\\", "\\\\").replace("[", "\\[")
            out += f"[{'^' if negated else ''}{inner}]"
            position += end + 1
        elif rest[0] == "\\" and len(rest) > 1:
            out += re.escape(rest[1])
            position += 2
        else:
            out += re.escape(rest[0])
            position += 1
    try:
        return re.compile(out + "(?:/.*)?", re.DOTALL)
    except re.error as error:
        raise InvalidError(f"{pattern!r} is no pattern for files: {error}") from None
