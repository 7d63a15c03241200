"""One short text that changes when installed packages or local modules do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

from blake3 import blake3

_MAX_ENTRIES = 20_000
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist"})


def fingerprint(search_path: Iterable[str], local_roots: Iterable[str], main_file: str) -> str:
    """Digest of the installed packages on `search_path` and the Python files below `local_roots`.

    Files are told apart by size and time of change. `main_file` is left out: its code travels by value.
    Where the folders hold very many files, those of the modules that are loaded stand for all.
    """
    digest = blake3(sys.version.encode())
    for entry in search_path:
        for line in _installed(entry):
            digest.update(line.encode("utf-8", "surrogateescape"))
    for line in _local(list(local_roots), main_file):
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:24]


def _installed(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                f"{entry.path} {entry.stat().st_mtime_ns}\n"
                for entry in entries
                if entry.name.endswith((".dist-info", ".egg-info", ".egg-link", ".pth"))
            )
    except OSError:
        return []


def _local(roots: list[str], main_file: str) -> list[str]:
    try:
        return sorted(_describe(path) for path in _python_files(roots) if path != main_file)
    except _TooManyError:
        return sorted(_describe(path) for path in _loaded(roots) if path != main_file)


class _TooManyError(Exception):
    pass


def _loaded(roots: list[str]) -> Iterator[str]:
    prefixes = tuple(root + os.sep for root in roots)
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and (path.startswith(prefixes) or path in roots):
            yield path


def _python_files(roots: list[str]) -> Iterator[str]:
    stack, seen = list(roots), 0
    while stack:
        path = stack.pop()
        if not os.path.isdir(path):
            yield path
            continue
        try:
            entries = list(os.scandir(path))
        except OSError:
            continue
        seen += len(entries)
        if seen > _MAX_ENTRIES:
            raise _TooManyError
        # A virtual environment in the folder is none of its modules.
        if any(entry.name == "pyvenv.cfg" for entry in entries):
            continue
        for entry in entries:
            if entry.name.endswith(".py"):
                yield entry.path
            elif (
                not entry.name.startswith(".")
                and entry.name not in _SKIPPED_FOLDERS
                and entry.is_dir(follow_symlinks=False)
            ):
                stack.append(entry.path)


def _describe(path: str) -> str:
    try:
        stat = os.stat(path)
    except OSError:
        return ""
    return f"{path} {stat.st_size} {stat.st_mtime_ns}\n"
