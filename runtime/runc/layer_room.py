"""How much of this host's disk layers may take that nothing runs of."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterator
from pathlib import Path


def surplus(folders: tuple[Path, ...], in_use: Container[str], budget: int) -> Iterator[Path]:
    """What should be removed, the least recently used first, so that no more than `budget` bytes are taken.

    Each of `folders` has one folder for each layer, named after it. What is in use counts and stays.
    """
    found: list[tuple[float, int, Path]] = []
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            found += [
                (path.stat().st_mtime, _taken(path), path) for path in folder.iterdir() if path.is_dir()
            ]
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= budget:
            break
        if path.name not in in_use:
            total -= size
            yield path


def used(path: Path) -> None:
    """It is used now."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _taken(folder: Path) -> int:
    """Bytes on the disk: holes in files are none."""
    total = 0
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total
