"""One short text that changes when installed packages or local modules do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

from blake3 import blake3

_MAX_FILES = 5000
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist"})


def fingerprint(search_path: Iterable[str], local_roots: Iterable[str], main_file: str) -> str:
    """Digest of the installed packages on `search_path` and the Python files below `local_roots`.

    Files are told apart by size and time of change. `main_file` is left out: its code travels by value.
    Where there are very many local files, those of the modules that are loaded stand for all.
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
    lines: list[str] = []
    for path in _python_files(roots):
        if path == main_file:
            continue
        if len(lines) >= _MAX_FILES:
            return sorted(_loaded(roots, main_file))
        line = _describe(path)
        if line:
            lines.append(line)
    return sorted(lines)


def _loaded(roots: list[str], main_file: str) -> Iterator[str]:
    prefixes = tuple(root + os.sep for root in roots)
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and path != main_file and (path.startswith(prefixes) or path in roots):
            line = _describe(path)
            if line:
                yield line


def _python_files(roots: list[str]) -> Iterator[str]:
    stack = list(roots)
    while stack:
        path = stack.pop()
        if not os.path.isdir(path):
            yield path
            continue
        try:
            entries = list(os.scandir(path))
        except OSError:
            continue
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
