"""A Python that is put into an image beside what it has: one of this machine's, or one that uv fetches."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from skylift.runtime.build_error import BuildError
from skylift.runtime.build_programs import Told, output_lines, run_told
from skylift.runtime.image_tree import ImageTree, TreePathError

INSTALL_PIP = (
    "if [ -x /sbin/ldconfig ]; then /sbin/ldconfig; fi; "
    "/usr/local/bin/python3 -I -m ensurepip --upgrade --default-pip"
)
"""To be run in the image by a shell, once the Python is there."""

_OF_LIBC = re.compile(r"(libc|libm|libdl|librt|libutil|libpthread|ld-linux.*|linux-vdso)\.so\..*")
_WINDOWS = "_tkinter"
"""The module that needs a dozen libraries for windows, which nobody sees there."""
_LIBRARY_FOLDERS = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib")


class Interpreter(msgspec.Struct, frozen=True):
    """A Python that can be copied."""

    prefix: Path
    version: str
    """``"3.12.1"``."""

    @property
    def minor(self) -> str:
        """``"3.12"``."""
        return _minor(self.version)


async def find_interpreter(python: str, of_distribution: str, scratch: Path, tell: Told) -> Interpreter:
    """One with this version (``"3.12"``). uv puts it under `scratch`. Raises `BuildError`."""
    if not re.fullmatch(r"3\.\d+", python):
        raise BuildError(f"{python!r} is no version of Python, as 3.11 is.")
    uv = shutil.which("uv") or shutil.which("uv", path=os.path.dirname(sys.executable))
    if uv is not None:
        folder = scratch / "python"
        tell(f"uv python install {python}\n")
        command = [uv, "python", "install", "--no-progress", "--install-dir", str(folder), python]
        if await run_told(command, tell, env={**os.environ, "UV_PYTHON_INSTALL_BIN": "0"}) == 0:
            for path in folder.glob("*/bin/python3"):
                found = _examined(str(path))
                if found is not None and not path.parent.parent.is_symlink():
                    return found
    for name in (sys.executable, f"python{python}", *_managed(python)):
        found = await asyncio.to_thread(_examined, name)
        if found is not None and found.minor == python and found.prefix != Path("/usr"):
            tell(f"Python {found.version} is copied from {found.prefix} of the host\n")
            return found
    here = ", ".join(sorted({of_distribution, _minor(sys.version.split()[0])} - {""}))
    raise BuildError(
        f"no Python {python} can be had here. This host can put {here} into an image; any other needs uv on "
        "the host (pip install uv) and a network. Image.from_registry has others."
    )


def copy_python(interpreter: Interpreter, local: Path) -> None:
    """Copy it to what is ``/usr/local`` of an image, without what was installed in it. Raises OSError."""
    prefix, python = interpreter.prefix, interpreter.minor
    names = [f"bin/python{python}", f"lib/python{python}", f"include/python{python}"]
    names += [f"lib/{path.name}" for path in (prefix / "lib").glob("libpython3*.so*")]
    for name in names:
        source, place = prefix / name, local / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, symlinks=True, ignore=_left_out)
        elif source.exists():
            shutil.copy2(source, place, follow_symlinks=False)
    (local / f"lib/python{python}/EXTERNALLY-MANAGED").unlink(missing_ok=True)
    for name in ("python", "python3"):
        (local / "bin" / name).symlink_to(f"python{python}")
    for folder, folders, files in os.walk(local):
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), 0, 0, follow_symlinks=False)


def copy_libraries(interpreter: Interpreter, local: Path, image: ImageTree) -> None:
    """Copy what this machine has of libraries that it needs and the image lacks. Raises OSError."""
    prefix = interpreter.prefix
    programs = [prefix / f"bin/python{interpreter.minor}"]
    modules = (prefix / f"lib/python{interpreter.minor}/lib-dynload").glob("*.so")
    programs += (path for path in modules if not path.name.startswith(_WINDOWS))
    for name, path in sorted(_needed(programs)):
        if not path.is_relative_to(prefix) and not _OF_LIBC.fullmatch(name) and not _has(image, name):
            (local / "lib").mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, local / "lib" / name)


def _needed(programs: list[Path]) -> set[tuple[str, Path]]:
    found = set()
    for line in output_lines(["ldd", *map(str, programs)]):
        name, arrow, rest = line.strip().partition(" => ")
        path = rest.split(" (")[0]
        if arrow and path.startswith("/"):
            found.add((name, Path(path)))
    return found


def _has(image: ImageTree, library: str) -> bool:
    return any(image.find(f"{folder}/{library}") is not None for folder in _folders(image))


def _folders(image: ImageTree) -> Iterator[str]:
    """Where an image has libraries."""
    for name in _LIBRARY_FOLDERS:
        try:
            folder = image.resolve(name)
        except TreePathError:
            continue
        yield str(folder)
        yield from (f"{folder}/{inner}" for inner in image.names(folder) if "-linux-" in inner)


def _managed(python: str) -> list[str]:
    """The Pythons of this version that pyenv and uv have made for whoever runs the host, the newest first."""
    home = Path.home()
    found = [*home.glob(f".pyenv/versions/{python}.*/bin/python{python}")]
    found += home.glob(f".local/share/uv/python/*-{python}.*/bin/python{python}")
    return [str(path) for path in sorted(found, reverse=True)]


def _examined(python: str) -> Interpreter | None:
    code = "import sys, platform; print(sys.base_prefix); print(platform.python_version())"
    said = list(output_lines([python, "-I", "-c", code]))
    return Interpreter(Path(said[0]), said[1]) if len(said) == 2 else None


def _left_out(folder: str, names: list[str]) -> list[str]:
    """What was installed with it, and its own tests."""
    if os.path.basename(folder) == "site-packages":
        return names
    if os.path.basename(folder) == "lib-dynload":
        return [name for name in names if name.startswith(_WINDOWS)]
    if re.search(r"/lib/python3\.\d+$", folder):
        return [name for name in names if re.fullmatch("test|idlelib|turtledemo|config-.*", name)]
    return []


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
