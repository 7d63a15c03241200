"""Lays the source tree out as it is installed: ``build/house/skylift/…``, made of symlinks.

Each top-level folder is a subpackage of `skylift` (``package-dir`` in pyproject.toml). Python finds
them through the editable install's import hook; tools that read the file system (mypy, grimp) do not.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ROOT / "build" / "house"
BESIDE = ("benchmarks", "scripts")
"""Folders that are checked together with the package, but are not part of it."""


def package_folders(root: Path = ROOT) -> dict[str, Path]:
    """Subpackage to its folder, from ``package-dir``: ``{"skylift.magics": …/magics, …}``."""
    with (root / "pyproject.toml").open("rb") as file:
        mapping: dict[str, str] = tomllib.load(file)["tool"]["setuptools"]["package-dir"]
    return {package: root / folder for package, folder in mapping.items()}


def build(root: Path = ROOT, house: Path = HOUSE) -> Path:
    """Makes or refreshes the tree; returns its folder. Safe beside another one that does the same."""
    wanted: dict[Path, Path] = {}
    for package, folder in package_folders(root).items():
        place = house.joinpath(*package.split("."))
        if "." in package:
            wanted[place] = folder
            continue
        for entry in folder.iterdir():
            if entry.name != "__pycache__":
                wanted[place / entry.name] = entry
    wanted.update({house / name: root / name for name in BESIDE if (root / name).is_dir()})

    (house / "skylift").mkdir(parents=True, exist_ok=True)
    for link in [*house.iterdir(), *(house / "skylift").iterdir()]:
        if link.is_symlink() and link not in wanted:
            link.unlink(missing_ok=True)
    for link, target in wanted.items():
        _point(link, os.path.relpath(target, link.parent))
    return house


def _point(link: Path, target: str) -> None:
    if link.is_symlink() and os.readlink(link) == target:
        return
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.symlink_to(target)
    fresh.replace(link)


if __name__ == "__main__":
    print(build())
