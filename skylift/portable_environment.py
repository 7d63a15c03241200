"""The environment of this process as steps, for hosts that do not share this machine's files.

The image begins with a Debian and a Python of the same minor version. The installed packages, those that are
installed in editable mode and the local modules are put in at the paths that they have here, each package in
an archive of its own, so that only what has changed is sent again.
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from skylift.archives import Packer
from skylift.environment import Environment, installed_folders, local_search_path
from skylift.exceptions import InvalidError
from skylift.file_patterns import FilePatternMatcher
from skylift.image_parts import Part, Steps
from skylift.local_files import LocalFile, listed
from skylift.wire import Configure, FromDebian, ImageSpec, ImageStep, RunCommands

LARGEST_FOLDER = 256 * 1024 * 1024
"""Bytes of local modules and what lies beside them."""

_WHERE = "Image.from_environment() for another machine"
_NOT_INSTALLED = FilePatternMatcher("**/__pycache__/*.tmp")
_NOT_LOCAL = FilePatternMatcher("**/.*", "**/__pycache__", "**/node_modules", "**/venv")
"""Hidden folders have version control, caches and virtual environments in them."""

_INHERITED = ("LANG", "LC_ALL", "TZ")


@dataclass(frozen=True)
class PortableEnvironment(Part):
    """What an image begins with that is to be as this environment."""

    environment: Environment = field(default_factory=Environment, compare=False, repr=False)
    label: str = "from_environment"
    late: bool = False
    python: str = f"{sys.version_info[0]}.{sys.version_info[1]}"

    def stamp(self) -> object:
        """See `Part.stamp`."""
        return self.environment.current().fingerprint

    def steps(self, before: Steps, packer: Packer) -> Steps:
        """See `Part.steps`."""
        check_portable()
        spec = self.environment.current()
        entries = [path for path in local_search_path() if not _standard(path)]
        installed = [path for path in entries if _installed(path) and os.path.isdir(path)]
        steps: list[ImageStep] = [FromDebian(python=self.python, label=f"{self.label}: Python {self.python}")]
        for folder in installed:
            files = listed(Path(folder), _NOT_INSTALLED, _WHERE, skip_special=True)
            label = f"{self.label}: packages in {folder}"
            steps.append(packer.pack(files, target=folder, label=label, keep_times=True))
        # What is put in is what pip and the interpreter should find; and .pth files want to be read.
        lines = [f"import site; site.addsitedir({folder!r})" for folder in installed]
        steps.append(
            RunCommands(
                label=f"{self.label}: .pth files",
                commands=(_write_pth("\n".join(lines) + "\n"),),
            )
        )
        for path in _local(spec):
            target, files = path, _local_files(path)
            if len(files) == 1 and not files[0].path:
                target, files = os.path.dirname(path), [files[0]._replace(path=os.path.basename(path))]
            steps.append(packer.pack(files, target=target, label=f"{self.label}: {path}"))
        env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        env["PYTHONPATH"] = os.pathsep.join(entries)
        return (*steps, Configure(env=env, label=f"{self.label}: variables"))


def check_portable() -> None:
    """Raises `InvalidError` where this environment cannot be taken to another machine."""
    if sys.platform != "linux":
        raise InvalidError(
            f"This notebook's environment is one of {sys.platform}, and its host runs Linux: name an image, "
            "such as Image.debian_slim().pip_install(…)"
        )
    if os.path.isdir(os.path.join(sys.prefix, "conda-meta")):
        raise InvalidError(
            f"This notebook's environment is one of conda ({sys.prefix}), which cannot be taken to another "
            "machine yet: name an image, such as Image.debian_slim().pip_install(…)"
        )


def _standard(path: str) -> bool:
    """Whether an entry of ``sys.path`` is the standard library's."""
    standard = os.path.realpath(os.path.dirname(os.__file__))
    real = os.path.realpath(path)
    return real in (standard, os.path.join(standard, "lib-dynload"))


def _installed(path: str) -> bool:
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in installed_folders())


def _local(spec: ImageSpec) -> list[str]:
    """The folders and files of the environment that are not installed packages."""
    return [mount.path for mount in spec.mounts if not _installed(mount.path)]


def _local_files(path: str) -> list[LocalFile]:
    files = listed(Path(path), _NOT_LOCAL, _WHERE, skip_special=True)
    size = 0
    for file in files:
        if file.source is not None and file.link is None:
            size += file.source.lstat().st_size
    if size > LARGEST_FOLDER:
        raise InvalidError(
            f"{path} has {size / 1e6:,.0f} MB in it, and all of it would be sent to the host, since modules "
            "are imported from there. Move what is no code elsewhere (a Volume is for data), or name an "
            "image and add what it needs: Image.debian_slim().pip_install(…).add_local_python_source(…)"
        )
    return files


def _write_pth(text: str) -> str:
    script = (
        "import os, site; folder = site.getsitepackages()[0]; os.makedirs(folder, exist_ok=True); "
        f"open(os.path.join(folder, 'skylift-environment.pth'), 'w').write({text!r})"
    )
    return f"python -c {shlex.quote(script)}"
