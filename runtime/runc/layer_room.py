"""How much of this host's disk layers may take that nothing runs of."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterator
from pathlib import Path


def surplus(
    growing: Path, fixed: Path, sizes: dict[Path, int], in_use: Container[str], budget: int
) -> Iterator[Path]:
    """What should be removed, the least recently used first, so that no more than `budget` bytes are taken.

    Both folders have one folder for each layer, named after it. Those in `fixed` do not change, and `sizes`
    remembers how large they are: they may have very many files. What is in use counts and stays.
    """
    found: list[tuple[float, int, Path]] = []
    with contextlib.suppress(FileNotFoundError):
        found += [(path.stat().st_mtime, _taken(path), path) for path in growing.iterdir()]
    with contextlib.suppress(FileNotFoundError):
        for path in fixed.iterdir():
            if path not in sizes:
                sizes[path] = _taken(path)
            found.append((path.stat().st_mtime, sizes[path], path))
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
