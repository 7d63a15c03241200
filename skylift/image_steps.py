"""The methods of `skylift.Image` that add something to an image. Each returns another image."""

from __future__ import annotations

import io
import secrets as random
import shlex
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from skylift.exceptions import InvalidError, SerializationError
from skylift.file_patterns import Ignore, matcher
from skylift.image_packages import (
    INPUTS,
    apt_commands,
    packages,
    pip_install,
    pip_options,
    project_dependencies,
    read_text,
    requirements,
    uv_install,
    with_uv,
)
from skylift.image_parts import FORCED, NOT_PYTHON, Dockerfile, Files, Fixed, Part, PythonSource
from skylift.serialization import dumps, one_line
from skylift.wire import Configure, RunCommands

P = ParamSpec("P")
R = TypeVar("R")
I = TypeVar("I", bound="ImageSteps")  # noqa: E741

FORCE_NUMBER = random.randbits(62)
"""For what is to be made anew, once by this process."""


class ImageSteps:
    """Base of `Image`."""

    def _then(self: I, *parts: Part) -> I:
        """This image with more parts."""
        raise NotImplementedError

    # --- packages --------------------------------------------------------------------------------

    def pip_install(
        self: I,
        *packages_: str | Sequence[str],
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Any] | None = None,
        gpu: Any = None,
    ) -> I:
        """Installs Python packages with pip: ``image.pip_install("numpy", "torch==2.5.1")``.

        `extra_options` are further words of pip's command line. `env` and `secrets` are for the command only.
        `force_build` runs it again, once in this process, though nothing has changed.
        """
        names = packages(packages_, "pip_install")
        if not names:
            return self
        options = pip_options(find_links, index_url, extra_index_url, pre, extra_options, "pip_install")
        command = pip_install(" ".join(map(shlex.quote, names)), options)
        return self._run("pip_install", " ".join(names), (command,), env, secrets, gpu, force_build, pip=True)

    def pip_install_from_requirements(
        self: I,
        requirements_txt: str,
        find_links: str | None = None,
        *,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Any] | None = None,
        gpu: Any = None,
    ) -> I:
        """Installs what a ``requirements.txt`` of this machine lists."""
        where = "pip_install_from_requirements"
        options = pip_options(find_links, index_url, extra_index_url, pre, extra_options, where)
        text = requirements(str(requirements_txt), where)
        command = pip_install(f"-r {INPUTS}/requirements.txt", options)
        inputs = {"requirements.txt": text.encode()}
        return self._run(
            where, str(requirements_txt), (command,), env, secrets, gpu, force_build, pip=True, inputs=inputs
        )

    def pip_install_from_pyproject(
        self: I,
        pyproject_toml: str,
        optional_dependencies: Sequence[str] = (),
        *,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Any] | None = None,
        gpu: Any = None,
    ) -> I:
        """Installs the dependencies in a ``pyproject.toml``, and those of some of its extras; not the project
        itself."""
        where = "pip_install_from_pyproject"
        names = project_dependencies(str(pyproject_toml), optional_dependencies, where)
        options = pip_options(find_links, index_url, extra_index_url, pre, extra_options, where)
        if not names:
            return self
        command = pip_install(" ".join(map(shlex.quote, names)), options)
        return self._run(where, str(pyproject_toml), (command,), env, secrets, gpu, force_build, pip=True)

    def uv_pip_install(
        self: I,
        *packages_: str | Sequence[str],
        requirements: Sequence[str] | None = None,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
        uv_version: str | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Any] | None = None,
        gpu: Any = None,
    ) -> I:
        """As `pip_install`, with uv, which is faster. `requirements`: paths of files that list packages."""
        where = "uv_pip_install"
        names = packages(packages_, where)
        files = _texts(requirements or (), where)
        if not names and not files:
            return self
        options = pip_options(find_links, index_url, extra_index_url, False, extra_options, where)
        options += " --prerelease allow" if pre else ""
        wanted = [*map(shlex.quote, names), *(f"-r {INPUTS}/{name}" for name in files)]
        commands = with_uv([uv_install(" ".join(wanted), options)], uv_version)
        label = " ".join([*names, *(requirements or ())])
        return self._run(where, label, commands, env, secrets, gpu, force_build, pip=True, inputs=files)

    def uv_sync(
        self: I,
        uv_project_dir: str = "./",
        *,
        force_build: bool = False,
        groups: Sequence[str] | None = None,
        extras: Sequence[str] | None = None,
        frozen: bool = True,
        extra_options: str = "",
        uv_version: str | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Any] | None = None,
        gpu: Any = None,
    ) -> I:
        """Installs the dependencies of a uv project of this machine, in the versions of its ``uv.lock``, into
        the image's Python; not the project itself. `frozen=False` lets uv bring the lock up to date first."""
        where = "uv_sync"
        folder = Path(uv_project_dir).expanduser()
        inputs = {"pyproject.toml": read_text(folder / "pyproject.toml", where).encode()}
        if (folder / "uv.lock").exists():
            inputs["uv.lock"] = read_text(folder / "uv.lock", where).encode()
        elif frozen:
            raise InvalidError(
                f"uv_sync: {str(folder)!r} has no uv.lock; make it with `uv lock`, or say frozen=False"
            )
        words = ["--frozen"] if frozen else []
        words += [f"--group {shlex.quote(name)}" for name in groups or ()]
        words += [f"--extra {shlex.quote(name)}" for name in extras or ()]
        words += [extra_options] if extra_options else []
        project = "/tmp/.skylift-project"  # noqa: S108 (in the container that builds)
        commands = with_uv(
            [
                f"mkdir -p {project}",
                *(f"cp {INPUTS}/{name} {project}/" for name in inputs),
                f"uv export --quiet --project {project} --no-emit-workspace --format requirements-txt "
                f"--output-file {project}/requirements.txt {' '.join(words)}".rstrip(),
                uv_install(f"-r {project}/requirements.txt", ""),
                f"rm -rf {project}",
            ],
            uv_version,
        )
        return self._run(
            where, str(uv_project_dir), commands, env, secrets, gpu, force_build, pip=True, inputs=inputs
        )

    def apt_install(
        self: I,
        *packages_: str | Sequence[str],
        force_build: bool = False,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Any] | None = None,
        gpu: Any = None,
    ) -> I:
        """Installs Debian packages: ``image.apt_install("git", "ffmpeg")``."""
        names = packages(packages_, "apt_install")
        if not names:
            return self
        return self._run("apt_install", " ".join(names), apt_commands(names), env, secrets, gpu, force_build)

    # --- commands --------------------------------------------------------------------------------

    def run_commands(
        self: I,
        *commands: str | Sequence[str],
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Any] | None = None,
        volumes: Mapping[Any, Any] | None = None,
        gpu: Any = None,
        force_build: bool = False,
    ) -> I:
        """Runs commands in the image's shell, as root, in its folder; each is a shell of its own."""
        _refuse("run_commands", "volumes", volumes)
        lines: list[str] = []
        for command in commands:
            for line in [command] if isinstance(command, str) else command:
                if not isinstance(line, str) or not line.strip():
                    raise InvalidError(f"run_commands({line!r}): a command is text, such as 'make install'")
                lines.append(line)
        if not lines:
            return self
        return self._run("run_commands", "; ".join(lines), tuple(lines), env, secrets, gpu, force_build)

    def run_function(
        self: I,
        raw_f: Callable[..., Any],
        *,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Any] | None = None,
        volumes: Mapping[Any, Any] | None = None,
        gpu: Any = None,
        cpu: Any = None,
        memory: Any = None,
        timeout: int | None = None,
        cloud: str | None = None,
        region: Any = None,
        force_build: bool = False,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> I:
        """Runs a function of this notebook in the image, as part of its build: for what it leaves in files,
        such as a model that it downloads. What it captures is taken as it is now.

        The image's Python has to be of this one's minor version. `cpu`, `memory` and `timeout` are not looked
        at: a build has what its host has.
        """
        where = "run_function"
        for name, value in (("volumes", volumes), ("cloud", cloud), ("region", region)):
            _refuse(where, name, value)
        raw = getattr(raw_f, "_skylift_raw", raw_f)
        if not callable(raw):
            raise InvalidError(f"run_function({raw_f!r}): a function")
        name = getattr(raw, "__name__", type(raw).__name__)
        inputs = {
            "function.pickle": _pickled(raw, tuple(args), dict(kwargs or {}), name),
            "cloudpickle.zip": _cloudpickle(),
            "run.py": _RUN.format(python=sys.version_info[:2], inputs=INPUTS, name=name).encode(),
        }
        command = f"python {INPUTS}/run.py"
        return self._run(where, f"{name}()", (command,), env, secrets, gpu, force_build, inputs=inputs)

    def dockerfile_commands(
        self: I,
        *dockerfile_commands: str | Sequence[str],
        context_files: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[Any] | None = None,
        gpu: Any = None,
        context_dir: str | Path | None = None,
        force_build: bool = False,
        ignore: Ignore | None = None,
    ) -> I:
        """Adds instructions of a Dockerfile, without ``FROM``: ``"RUN make"``, ``"COPY src /src"``.

        `context_dir` is the folder that ``COPY`` takes files from, by default the current one.
        """
        where = "dockerfile_commands"
        for name, value in (("context_files", context_files), ("env", env), ("secrets", secrets)):
            _refuse(where, name, value)
        refuse_gpu(where, gpu)
        lines: list[str] = []
        for command in dockerfile_commands:
            lines += [command] if isinstance(command, str) else list(command)
        if not lines:
            return self
        part = Dockerfile(
            label=f"{where} {lines[0]}",
            text="\n".join(lines) + "\n",
            context=Path(context_dir or ".").expanduser().absolute(),
            ignore=None if ignore is None else matcher(ignore, where),
            on_top=True,
            force_build=str(FORCE_NUMBER) if force_build else "",
        )
        return self._then(part)

    # --- files of this machine -------------------------------------------------------------------

    def add_local_file(self: I, local_path: str | Path, remote_path: str, *, copy: bool = False) -> I:
        """Adds a file of this machine. A `remote_path` that ends in a slash is the folder for it.

        Without `copy` it has to come after all steps that run something, so that they need not run again when
        the file changes. It is read when the image is used, and again when it has changed.
        """
        source = _local(local_path, "add_local_file", is_folder=False)
        label = f"add_local_file {local_path}"
        target = _remote(remote_path, "add_local_file")
        return self._then(Files(label, source, target, not copy, _keep, is_folder=False))

    def add_local_dir(
        self: I, local_path: str | Path, remote_path: str, *, copy: bool = False, ignore: Ignore = ()
    ) -> I:
        """Adds what is in a folder of this machine to the folder `remote_path`. `copy`: see `add_local_file`.

        `ignore` leaves out what matches patterns as in a ``.dockerignore``, or those files (paths relative to
        the folder) for which a function says True.
        """
        source = _local(local_path, "add_local_dir", is_folder=True)
        label = f"add_local_dir {local_path}"
        target = _remote(remote_path, "add_local_dir")
        return self._then(
            Files(label, source, target, not copy, matcher(ignore, "add_local_dir"), is_folder=True)
        )

    def add_local_python_source(self: I, *modules: str, copy: bool = False, ignore: Ignore = NOT_PYTHON) -> I:
        """Adds modules and packages that can be imported here, so that they can be imported there. `copy`:
        see `add_local_file`. Of packages, files other than ``.py`` are left out, unless `ignore` says
        otherwise."""
        where = "add_local_python_source"
        for module in modules:
            if not isinstance(module, str):
                raise InvalidError(
                    f"{where}({module!r}): modules are named by text, such as {where}('helpers')"
                )
        if not modules:
            return self
        part = PythonSource(f"{where} {' '.join(modules)}", modules, not copy, matcher(ignore, where))
        part.stamp()
        return self._then(part)

    # --- what containers begin with --------------------------------------------------------------

    def env(self: I, vars: Mapping[str, str]) -> I:  # noqa: A002 (Modal's name)
        """Sets environment variables."""
        return self._configure("env", " ".join(vars), env=_variables(vars, "env"))

    def workdir(self: I, path: str) -> I:
        """Sets the folder that code begins in, and that relative paths of later steps are in."""
        if not isinstance(path, (str, Path)) or not str(path).startswith("/"):
            raise InvalidError(f"workdir({path!r}): an absolute path, such as '/app'")
        return self._configure("workdir", str(path), workdir=str(path))

    def entrypoint(self: I, entrypoint_commands: Sequence[str]) -> I:
        """Sets what containers are started through: a program that ends in running its arguments."""
        words = _words(entrypoint_commands, "entrypoint")
        return self._configure("entrypoint", " ".join(words), entrypoint=words)

    def cmd(self: I, cmd: Sequence[str]) -> I:
        """Sets the image's command. Functions and sessions do not run it."""
        words = _words(cmd, "cmd")
        return self._configure("cmd", " ".join(words), cmd=words)

    def shell(self: I, shell_commands: Sequence[str]) -> I:
        """Sets what runs the commands of later steps: ``["/bin/bash", "-c"]``."""
        words = _words(shell_commands, "shell")
        if not words:
            raise InvalidError("shell([]): a program and its arguments, such as ['/bin/bash', '-c']")
        return self._configure("shell", " ".join(words), shell=words)

    def pipe(self: I, func: Callable[Concatenate[I, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """``func(image, …)``, for functions that add several steps."""
        return func(self, *args, **kwargs)

    # --- how it is done --------------------------------------------------------------------------

    def _configure(self: I, method: str, what: str, **fields: Any) -> I:
        return self._then(Fixed(Configure(label=f"{method} {what}".strip(), **fields)))

    def _run(
        self: I,
        method: str,
        what: str,
        commands: tuple[str, ...],
        env: Mapping[str, str] | None,
        secrets: Sequence[Any] | None,
        gpu: Any,
        force_build: bool,
        *,
        pip: bool = False,
        inputs: Mapping[str, bytes] | None = None,
    ) -> I:
        refuse_gpu(method, gpu)
        variables = _variables(env or {}, method)
        if force_build:
            variables[FORCED] = str(FORCE_NUMBER)
        step = RunCommands(
            label=f"{method} {what}"[:200],
            commands=commands,
            env=variables,
            secrets=secret_values(secrets or (), method),
            pip=pip,
        )
        return self._then(Fixed(step, tuple(sorted((inputs or {}).items()))))


def secret_values(secrets: Sequence[Any], where: str) -> dict[str, str]:
    """The variables of secrets. Until there are secrets, dicts stand for them."""
    found: dict[str, str] = {}
    for secret in secrets:
        if not isinstance(secret, Mapping):
            raise InvalidError(
                f"{where}: secrets are not built yet; give a dict in place of one: "
                "secrets=[{'TOKEN': token}] (it is kept nowhere)"
            )
        found.update(_variables(secret, where))
    return found


def refuse_gpu(where: str, gpu: object) -> None:
    """Raises `InvalidError` for a GPU that a build is to have."""
    if gpu is not None:
        raise InvalidError(
            f"{where}: gpu={gpu!r} is not built yet: images are built without a GPU. Leave it out"
        )


def _refuse(where: str, name: str, value: object) -> None:
    if value:
        raise InvalidError(f"{where}: {name}= is not built yet; leave it out")


def _variables(given: Mapping[str, str], where: str) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise InvalidError(f"{where}: {given!r}: a dict of environment variables, such as {{'SEED': '1'}}")
    for name, value in given.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise InvalidError(f"{where}: {name!r} is no name of an environment variable")
        if not isinstance(value, str):
            raise InvalidError(f"{where}: {name}={value!r}: the value is text; write {str(value)!r}")
    return dict(given)


def _words(given: Sequence[str], where: str) -> tuple[str, ...]:
    if isinstance(given, str) or not all(isinstance(word, str) for word in given):
        raise InvalidError(f"{where}({given!r}): a list of words, such as {shlex.split(str(given))!r}")
    return tuple(given)


def _local(path: str | Path, where: str, *, is_folder: bool) -> Path:
    if not isinstance(path, (str, Path)):
        raise InvalidError(f"{where}({path!r}, …): a path")
    source = Path(path).expanduser().absolute()
    if not source.exists():
        raise InvalidError(f"{where}: there is no {str(path)!r} here (in {Path.cwd()})")
    if source.is_dir() != is_folder:
        other = "add_local_dir" if source.is_dir() else "add_local_file"
        kind = "a folder" if source.is_dir() else "no folder"
        raise InvalidError(f"{where}: {str(path)!r} is {kind}; use {other}")
    return source


def _remote(path: object, where: str) -> str:
    if not isinstance(path, (str, Path)) or not str(path) or "\0" in str(path):
        raise InvalidError(f"{where}: remote_path={path!r}: a path in the image, such as '/root/data'")
    if ".." in str(path).split("/"):
        raise InvalidError(f"{where}: remote_path={str(path)!r} must not have '..' in it")
    return str(path)


def _texts(files: Sequence[str], where: str) -> dict[str, bytes]:
    if isinstance(files, str):
        raise InvalidError(f"{where}: requirements={files!r}: a list of paths")
    return {
        f"requirements-{number}.txt": requirements(str(file), where).encode()
        for number, file in enumerate(files)
    }


def _pickled(raw: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> bytes:
    import cloudpickle

    module = sys.modules.get(getattr(raw, "__module__", None) or "")
    # The module that it is from need not be in the image.
    by_value = module is not None and getattr(module, "__file__", None) and module.__name__ != "__main__"
    try:
        if by_value:
            cloudpickle.register_pickle_by_value(module)
        return dumps((raw, args, kwargs))
    except Exception as error:
        raise SerializationError(f"run_function({name}): it cannot travel: {one_line(error)}") from None
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)


def _cloudpickle() -> bytes:
    """This Python's cloudpickle as an archive that can be imported from, always the same bytes."""
    import cloudpickle

    folder = Path(cloudpickle.__file__).parent
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for file in sorted(folder.glob("*.py")):
            archive.writestr(zipfile.ZipInfo(f"cloudpickle/{file.name}"), file.read_bytes())
    return out.getvalue()


def _keep(path: Path) -> bool:
    return False


_RUN = """\
import asyncio, inspect, pickle, sys

here, there = {python}, sys.version_info[:2]
if here != there:
    sys.exit(
        "run_function: {name}() is from Python %d.%d, and the image has %d.%d. Use "
        "Image.debian_slim(python_version='%d.%d'), or add_python= of another image."
        % (*here, *there, *here)
    )
sys.path.insert(0, "{inputs}/cloudpickle.zip")
with open("{inputs}/function.pickle", "rb") as file:
    function, args, kwargs = pickle.load(file)
result = function(*args, **kwargs)
if inspect.iscoroutine(result):
    asyncio.run(result)
"""
