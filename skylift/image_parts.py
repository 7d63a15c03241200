"""What the methods of `Image` add: parts, each of which adds steps when the image is to be built.

A part is a value. One that takes files of this machine looks at them each time that it is asked to.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import msgspec

from skylift.archives import Packer
from skylift.dockerfile import parse_dockerfile
from skylift.exceptions import InvalidError
from skylift.file_patterns import FilePatternMatcher
from skylift.image_packages import SDK_NEEDS, pip_install
from skylift.local_files import LocalFile, listed, stamp
from skylift.wire import AddFiles, Configure, FromDebian, FromRegistry, ImageStep, RunCommands

Steps: TypeAlias = tuple[ImageStep, ...]

SOURCE_FOLDER = "/root"
"""Where local Python source goes; it is on PYTHONPATH."""


class Part:
    """Base of the parts."""

    label: str
    late: bool
    """Whether it was added with ``copy=False``: nothing is built on top of it."""

    def steps(self, before: Steps, packer: Packer) -> Steps:
        """All steps up to here; what they need is put into the store. Raises `InvalidError` for files that
        are not there."""
        raise NotImplementedError

    def stamp(self) -> object:
        """Changes when the files do that it takes from this machine."""
        return None


@dataclass(frozen=True)
class Fixed(Part):
    """A step that needs nothing of this machine, or only a few bytes."""

    step: ImageStep
    inputs: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    """Of `RunCommands`: files that its commands find."""
    late: bool = False

    @property
    def label(self) -> str:  # type: ignore[override]
        """See `Part.label`."""
        return self.step.label

    def steps(self, before: Steps, packer: Packer) -> Steps:
        """See `Part.steps`."""
        step = self.step
        if isinstance(step, RunCommands) and self.inputs:
            step = msgspec.structs.replace(
                step, inputs={**step.inputs, **{name: packer.blob(data) for name, data in self.inputs}}
            )
        return (*before, step)

    def __hash__(self) -> int:
        return hash((self.step.label, self.inputs))


@dataclass(frozen=True)
class Files(Part):
    """``add_local_file`` and ``add_local_dir``."""

    label: str
    source: Path
    target: str
    """Absolute, or in the image's working folder."""
    late: bool
    ignore: Callable[[Path], bool]
    is_folder: bool

    def steps(self, before: Steps, packer: Packer) -> Steps:
        """See `Part.steps`."""
        target, files = self.target, self._files()
        if not self.is_folder:
            target, _, name = target.rpartition("/")
            target = target or ("/" if self.target.startswith("/") else ".")
            files = [file._replace(path=name or self.source.name) for file in files]
        return (*before, packer.pack(files, target=target, label=self.label))

    def stamp(self) -> object:
        """See `Part.stamp`."""
        return stamp(self._files())

    def _files(self) -> list[LocalFile]:
        return listed(self.source, self.ignore, self.label)


@dataclass(frozen=True)
class PythonSource(Part):
    """``add_local_python_source``."""

    label: str
    modules: tuple[str, ...]
    late: bool
    ignore: Callable[[Path], bool]

    def steps(self, before: Steps, packer: Packer) -> Steps:
        """See `Part.steps`."""
        before = (*before, packer.pack(self._files(), target=SOURCE_FOLDER, label=self.label))
        path = _environment(before).get("PYTHONPATH", "")
        if SOURCE_FOLDER in path.split(":"):
            return before
        known = path or not isinstance(before[0], FromRegistry)
        path = path if known else "${PYTHONPATH}"
        path = f"{SOURCE_FOLDER}:{path}" if path else SOURCE_FOLDER
        return (*before, Configure(env={"PYTHONPATH": path}, expand=not known, label=self.label))

    def stamp(self) -> object:
        """See `Part.stamp`."""
        return stamp(self._files())

    def _files(self) -> list[LocalFile]:
        found: list[LocalFile] = []
        for module in self.modules:
            for prefix, source in module_sources(module, self.label):
                found += [
                    file._replace(path=f"{prefix}/{file.path}" if file.path else prefix)
                    for file in listed(source, self.ignore if source.is_dir() else _nothing, self.label)
                ]
        return found


@dataclass(frozen=True)
class Dockerfile(Part):
    """``from_dockerfile`` and ``dockerfile_commands``."""

    label: str
    text: str | Path
    """Or where it is, to be read when the image is built."""
    context: Path | None
    ignore: Callable[[Path], bool] | None
    """Beside what the context's ``.dockerignore`` says."""
    build_args: tuple[tuple[str, str], ...] = ()
    on_top: bool = False
    """Whether it goes on from the steps before, and has no ``FROM``."""
    target: str = ""
    add_python: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    force_build: str = ""
    late: bool = False

    def steps(self, before: Steps, packer: Packer) -> Steps:
        """See `Part.steps`."""
        taken: list[LocalFile] = []
        steps = self._parsed(before, taken, packer)
        if self.force_build:
            steps = tuple(
                msgspec.structs.replace(step, env={**step.env, FORCED: self.force_build})
                if isinstance(step, RunCommands) and step not in before
                else step
                for step in steps
            )
        return steps

    def stamp(self) -> object:
        """See `Part.stamp`."""
        taken: list[LocalFile] = []
        before = (FromDebian(python=""),) if self.on_top else ()
        self._parsed(before, taken, None)
        return (self._read(), stamp(taken))

    def _parsed(self, before: Steps, taken: list[LocalFile], packer: Packer | None) -> Steps:
        def pack(files: Sequence[LocalFile], *, target: str, label: str) -> AddFiles:
            known = [file for file in files if not self._ignored(file.source)]
            taken.extend(known)
            if packer is None:
                return AddFiles(target=target, archives=(), label=label)
            return packer.pack(known, target=target, label=label)

        return parse_dockerfile(
            self._read(),
            name=self.text.name if isinstance(self.text, Path) else "Dockerfile",
            context=self.context,
            build_args=dict(self.build_args),
            base=before if self.on_top else None,
            add_files=pack,
            target=self.target,
            add_python=self.add_python,
            username=self.username,
            password=self.password,
        )

    def _ignored(self, source: Path | None) -> bool:
        if self.ignore is None or source is None or self.context is None:
            return False
        try:
            return self.ignore(source.relative_to(self.context.resolve()))
        except ValueError:
            return False

    def _read(self) -> str:
        if isinstance(self.text, str):
            return self.text
        try:
            return self.text.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidError(f"{self.label}: {error}") from None


FORCED = "SKYLIFT_FORCE_BUILD"
"""In the environment of commands that are to be run again: what makes their step another one."""


def module_sources(module: str, where: str) -> list[tuple[str, Path]]:
    """Where a module's source is here, and its path below a folder of ``sys.path``. Raises `InvalidError`
    where it has none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise InvalidError(f"{where}: {module!r} cannot be found here: {error}") from None
    if spec is None:
        raise InvalidError(
            f"{where}: there is no module {module!r} here. It takes names of modules that can be imported "
            "here; for files use add_local_dir"
        )
    path = module.replace(".", "/")
    if spec.submodule_search_locations:
        return [(path, Path(location)) for location in spec.submodule_search_locations]
    if not spec.origin or not os.path.isfile(spec.origin):
        raise InvalidError(f"{where}: {module!r} is built into Python: it has no source to be added")
    return [(os.path.dirname(path) + "/" * ("/" in path) + os.path.basename(spec.origin), Path(spec.origin))]


def sdk_packages() -> Fixed:
    """What Skylift itself needs, where code in a container uses it, such as to call other functions."""
    command = pip_install(" ".join(map(shlex.quote, SDK_NEEDS)), "")
    return Fixed(RunCommands(commands=(command,), pip=True, label="what skylift needs in containers"))


def known_python(parts: Sequence[Part]) -> str:
    """The minor version of Python that an image will have, where that is certain: ``"3.11"``, else ""."""
    first = parts[0]
    if not isinstance(first, Fixed):
        return str(getattr(first, "python", ""))
    step = first.step
    if isinstance(step, FromDebian):
        return step.python
    return step.add_python if isinstance(step, FromRegistry) else ""


def _environment(steps: Steps) -> dict[str, str]:
    found: dict[str, str] = {}
    for step in steps:
        if isinstance(step, Configure):
            found.update(step.env)
    return found


def _nothing(path: Path) -> bool:
    return False


NOT_PYTHON = ~FilePatternMatcher("**/*.py")
"""What `add_local_python_source` leaves out."""
