"""Paths in a volume.

A path is given as in a shell, ``/data/train.csv`` or ``data/train.csv``: both begin at the volume's root, and
nothing leads out of it. Within, a path is a tuple of names; a name is any bytes but ``/`` and NUL.
"""

from __future__ import annotations

import os
from typing import TypeAlias

from skylift.lazyfs.trees import MAX_DEPTH, MAX_PATH, name_problem
from skylift.lazyfs.volume_errors import PathInvalidError

Parts: TypeAlias = tuple[bytes, ...]


def parts_of(where: str, path: str | bytes) -> Parts:
    """The names that a path is made of; none for the root. `where` is the volume, for the message.

    Raises `PathInvalidError`: for ``..``, NUL, names over 255 bytes, paths over 4,096 bytes or 256 levels.
    """
    try:
        data = os.fsencode(path)
    except UnicodeEncodeError:
        raise PathInvalidError(where, str(path), "it cannot be written as UTF-8") from None
    parts = tuple(part for part in data.split(b"/") if part not in (b"", b"."))
    if b".." in parts:
        raise PathInvalidError(where, show(data), "'..' could lead out of it; write the path without it")
    for part in parts:
        problem = name_problem(part)
        if problem:
            raise PathInvalidError(where, _short(show(data)), problem)
    check_length(where, parts)
    return parts


def check_length(where: str, parts: Parts) -> None:
    """Raises `PathInvalidError` where that is too long or too deep."""
    length = sum(map(len, parts)) + len(parts)
    if length > MAX_PATH:
        raise PathInvalidError(
            where, _short(text(parts)), f"it has {length:,} bytes, and {MAX_PATH:,} are the most"
        )
    if len(parts) > MAX_DEPTH:
        raise PathInvalidError(
            where, _short(text(parts)), f"it is {len(parts)} levels deep, and {MAX_DEPTH} are the most"
        )


def text(parts: Parts) -> str:
    """As a path for people and for `parts_of`: ``/data/train.csv``."""
    return "/" + show(b"/".join(parts))


def show(data: bytes) -> str:
    """Bytes of a path as text; what is no UTF-8 is kept as surrogates, which `parts_of` understands."""
    return os.fsdecode(data)


def printable(shown: str) -> str:
    """Text that can be written as UTF-8: what a path has that cannot be is escaped."""
    return shown.encode("utf-8", "backslashreplace").decode()


def _short(path: str) -> str:
    return path if len(path) <= 100 else f"{path[:60]}…{path[-39:]}"
