"""What each step of an image makes: the layer that it adds, and what containers begin with."""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import re
import shlex
import shutil
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from skylift.lazyfs.layers import Layer, build_layer
from skylift.lazyfs.names import Names
from skylift.lazyfs.oci_errors import OciError
from skylift.lazyfs.oci_images import pull_image
from skylift.lazyfs.store import Store
from skylift.runtime.build_error import BuildError
from skylift.runtime.build_log import BuildLog
from skylift.runtime.container_files import remove_folder
from skylift.runtime.container_output import ContainerOutput
from skylift.runtime.host_network import APT, CERTIFICATES, CONSTRAINTS, HostNetwork, host_network
from skylift.runtime.image_archives import copy_from, extract, make_folder
from skylift.runtime.image_content import ContentError, tidy
from skylift.runtime.image_debian import bootstrap, distribution_python
from skylift.runtime.image_python import INSTALL_PIP, copy_libraries, copy_python, find_interpreter
from skylift.runtime.image_tree import ImageTree, TreePathError
from skylift.runtime.isolation import Bind, ContainerPlan, ContainerProcess, Isolation, StartError
from skylift.runtime.runc.build import INPUTS
from skylift.wire import ImageSpec, new_id
from skylift.wire.images import (
    AddFiles,
    Configure,
    CopyFrom,
    FromDebian,
    FromRegistry,
    FromScratch,
    ImageDefinition,
    ImageStep,
    RunCommands,
)

T = TypeVar("T")

SHELL = ("/bin/sh", "-c")
_REFERENCE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)\})")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROBE = "import sys, platform; print(sys.executable); print(platform.python_version())"
_OLDEST, _NEWEST = (3, 10), (3, 14)
"""Versions of Python that the runner is for."""


class StepServices(msgspec.Struct, frozen=True, kw_only=True):
    """What steps are made with."""

    store: Store
    names: Names
    isolation: Isolation
    containers: Path
    """The folder of containers' folders."""
    scratch: Path
    """For what becomes a layer."""
    plain_http: Collection[str]
    """Registries that are spoken to without TLS."""
    image_of: Callable[[ImageDefinition], Awaitable[ImageSpec]]
    """Builds another image."""


class StepMaker:
    """Makes the steps of one build."""

    def __init__(self, services: StepServices, log: BuildLog) -> None:
        self._services = services
        self._log = log

    async def make(self, step: ImageStep, image: ImageSpec) -> ImageSpec:
        """The image with this step on top. Raises `BuildError`, `StartError`, `StoreError` and OSError."""
        if isinstance(step, FromScratch):
            return image
        if isinstance(step, FromDebian):
            return await self._debian(step, image)
        if isinstance(step, FromRegistry):
            return await self._registry(step, image)
        if isinstance(step, RunCommands):
            return await self._commands(step, image)
        if isinstance(step, AddFiles):
            return await self._files(step, image)
        if isinstance(step, CopyFrom):
            return await self._copy(step, image)
        return configured(step, image)

    async def probed(self, image: ImageSpec) -> ImageSpec:
        """The image with what its Python says of itself."""
        async with self._held(image) as folders:
            path = await asyncio.to_thread(find_python, ImageTree(folders), image.env.get("PATH", _PATH))
        if not path:
            return image
        lines: list[str] = []
        plan = self._plan(image, [path, "-I", "-c", _PROBE], block_network=True)
        async with self._running(plan, lines.append) as status:
            code = await status
        said = "".join(lines).split()
        if code or len(said) != 2:
            raise BuildError(f"{path} of the image does not run: {''.join(lines).strip() or code}")
        executable, version = said
        minor = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if not _OLDEST <= minor <= _NEWEST:
            raise BuildError(
                f"the image's Python is {version} ({executable}), and code runs in containers under Python "
                '3.10 to 3.14. Give Image.from_registry add_python="3.12".'
            )
        return msgspec.structs.replace(image, python=executable, python_version=version)

    # --- the kinds of steps ----------------------------------------------------------------------

    async def _debian(self, step: FromDebian, image: ImageSpec) -> ImageSpec:
        began = time.time()
        async with self._folder() as folder:
            root = folder / "root"
            await bootstrap(step.python, root, folder, self._log.text)
            return await self._with_layer(image, root, (), began, lambda number: number)

    async def _registry(self, step: FromRegistry, image: ImageSpec) -> ImageSpec:
        cancelled = threading.Event()
        async with self._folder() as folder:
            try:
                pulled = await _thread(
                    lambda: pull_image(
                        step.reference,
                        self._services.store,
                        self._services.names,
                        scratch=folder,
                        username=step.username,
                        password=step.password,
                        told=lambda line: self._log.text(f"{line}\n"),
                        progress=self._log.moved,
                        plain_http=self._services.plain_http,
                        cancelled=cancelled,
                    ),
                    stop=cancelled.set,
                )
            except OciError as error:
                raise BuildError(str(error)) from error
        image = msgspec.structs.replace(
            image,
            layers=pulled.layers,
            env=pulled.env,
            workdir=pulled.workdir,
            entrypoint=pulled.entrypoint,
            cmd=pulled.cmd,
            shell=pulled.shell,
        )
        return await self._with_python(image, step.add_python) if step.add_python else image

    async def _with_python(self, image: ImageSpec, python: str) -> ImageSpec:
        began = time.time()
        async with self._folder() as folder, self._held(image) as below:
            of_distribution = await asyncio.to_thread(distribution_python)
            found = await find_interpreter(python, of_distribution, folder, self._log.text)
            layer = folder / "layer"
            local = layer / "usr/local"
            local.mkdir(parents=True)
            await _thread(copy_python, found, local)
            await _thread(copy_libraries, found, local, ImageTree(below))
            image = await self._with_layer(image, layer, below, began, lambda number: number)
        return await self._commands(RunCommands(commands=(INSTALL_PIP,)), image)

    async def _commands(self, step: RunCommands, image: ImageSpec) -> ImageSpec:
        shell = image.shell or SHELL
        for name in step.inputs:
            if not _NAME.fullmatch(name):
                raise BuildError(f"{name!r} cannot be the name of an input.")
        network = await asyncio.to_thread(host_network)
        env = {"DEBIAN_FRONTEND": "noninteractive", "PIP_NO_CACHE_DIR": "1", **network.env}
        if step.pip:
            env |= network.pip_env
        plan = self._plan(
            image, _command(step.commands, shell), env={**env, **step.env, **step.secrets}, build=True
        )
        began = time.time()
        async with self._held(image) as below:
            try:
                binds = await _thread(self._inputs, plan.folder, step, network, ImageTree(below))
            except BaseException:
                remove_folder(plan.folder)
                raise
            plan = msgspec.structs.replace(plan, binds=tuple(binds))
            if len(step.commands) == 1:
                self._log.text(f"$ {step.commands[0]}\n")
            async with self._running(plan, self._log.text) as status:
                code = await status
                if code:
                    raise BuildError(f"the command ended with exit code {code}.", said=True)
                written = status.written
                if written is None:
                    raise BuildError("this host's disk cannot hold the layers of an overlay.")
                layers = self._services.isolation.layers
                assert layers is not None
                return await self._with_layer(image, written, below, began, layers.own_id)

    async def _files(self, step: AddFiles, image: ImageSpec) -> ImageSpec:
        target = within(image, step.target)
        began = time.time()
        async with self._folder() as folder, self._held(image) as below:
            layer = folder / "layer"
            layer.mkdir()
            if not step.archives:
                await _thread(make_folder, target, layer, below)
            for archive in step.archives:
                await _thread(extract, archive, self._services.store, target, layer, below)
            return await self._with_layer(image, layer, below, began, lambda number: number)

    async def _copy(self, step: CopyFrom, image: ImageSpec) -> ImageSpec:
        source = await self._services.image_of(step.image)
        layers = self._services.isolation.layers
        assert layers is not None
        began = time.time()
        async with self._folder() as folder, self._held(image) as below, self._held(source) as other:
            layer = folder / "layer"
            layer.mkdir()
            target = within(image, step.target)
            await _thread(copy_from, ImageTree(other), step.source, target, layer, below, layers.own_id)
            return await self._with_layer(image, layer, below, began, lambda number: number)

    # --- parts -----------------------------------------------------------------------------------

    async def _with_layer(
        self,
        image: ImageSpec,
        folder: Path,
        below: Sequence[Path],
        began: float,
        own_id: Callable[[int], int],
    ) -> ImageSpec:
        def made() -> Layer | None:
            tidy(folder, ImageTree(below), began, own_id)
            if below and not any(folder.iterdir()):
                return None
            return build_layer(
                folder, self._services.store, scratch=self._services.scratch, progress=self._log.moved
            )

        try:
            layer = await _thread(made)
        except ContentError as error:
            raise BuildError(str(error)) from error
        if layer is None:
            return image
        # An overlay cannot have a layer twice. The upper one says all that the lower one said.
        below_it = (each for each in image.layers if each != layer.id)
        return msgspec.structs.replace(image, layers=(*below_it, layer.id))

    def _plan(self, image: ImageSpec, command: list[str], **more: Any) -> ContainerPlan:
        container_id = new_id("co")
        folder = self._services.containers / container_id
        return ContainerPlan(container_id=container_id, folder=folder, image=image, command=command, **more)

    def _inputs(self, folder: Path, step: RunCommands, network: HostNetwork, below: ImageTree) -> list[Bind]:
        inputs = folder / "inputs"
        host = inputs / ".host"
        host.mkdir(parents=True)
        folder.chmod(0o700)
        for name, blob in step.inputs.items():
            shutil.copyfile(self._services.store.path(blob), inputs / name)
        for source, place in ((network.certificates, CERTIFICATES), (network.constraints, CONSTRAINTS)):
            if source:
                shutil.copyfile(source, host / os.path.basename(place))
        binds = [Bind(inputs, INPUTS)]
        apt = below.find(os.path.dirname(APT))
        if apt is not None and apt.is_dir():
            (host / "apt.conf").write_text(f'{network.apt}APT::Sandbox::User "root";\n')
            binds.append(Bind(host / "apt.conf", APT))
        for path in (inputs, host, *inputs.iterdir(), *host.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return binds + network.binds(pip=step.pip)

    @contextlib.asynccontextmanager
    async def _running(self, plan: ContainerPlan, told: Callable[[str], None]) -> AsyncIterator[Running]:
        """A container whose end can be waited for; it is removed afterwards."""
        plan.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        process: ContainerProcess | None = None
        output: ContainerOutput | None = None
        try:
            creating = asyncio.ensure_future(self._services.isolation.create(plan))
            try:
                process = await asyncio.shield(creating)
            except asyncio.CancelledError:
                with contextlib.suppress(StartError):
                    process = await creating
                raise
            output = ContainerOutput(process.output, lambda _, text: told(text.decode(errors="replace")))
            yield Running(process, output)
        finally:
            if process is not None:
                await asyncio.shield(asyncio.ensure_future(process.remove()))
            if output is not None:
                output.close()
            remove_folder(plan.folder)

    @contextlib.asynccontextmanager
    async def _held(self, image: ImageSpec) -> AsyncIterator[tuple[Path, ...]]:
        """The files of an image's layers, lowest first."""
        layers = self._services.isolation.layers
        assert layers is not None
        acquiring = asyncio.ensure_future(asyncio.to_thread(layers.acquire, image.layers))
        try:
            yield await asyncio.shield(acquiring)
        finally:
            await asyncio.wait([acquiring])
            if acquiring.exception() is None:
                await _thread(lambda: layers.release(image.layers, mapped=False))

    @contextlib.asynccontextmanager
    async def _folder(self) -> AsyncIterator[Path]:
        folder = self._services.scratch / new_id("la")
        folder.mkdir(mode=0o700, parents=True)
        try:
            yield folder
        finally:
            await _thread(lambda: shutil.rmtree(folder, ignore_errors=True))


class Running:
    """A container of a build: awaited, its exit code."""

    def __init__(self, process: ContainerProcess, output: ContainerOutput) -> None:
        self._process = process
        self._output = output
        self.written = process.written

    def __await__(self) -> Any:
        return self._end().__await__()

    async def _end(self) -> int:
        status = await self._process.wait()
        self._output.flush()
        if status.oom:
            raise BuildError(
                "the command ran out of memory: raise memory_limit in [host] of config.toml.", said=True
            )
        return status.code


def configured(step: Configure, image: ImageSpec) -> ImageSpec:
    """What containers begin with, after this step."""
    said = {
        name: value for name in ("entrypoint", "cmd", "shell") if (value := getattr(step, name)) is not None
    }
    if step.workdir is not None:
        said["workdir"] = within(image, step.workdir)
    env = {name: expanded(text, image.env) if step.expand else text for name, text in step.env.items()}
    return msgspec.structs.replace(image, env={**image.env, **env}, **said)


def within(image: ImageSpec, path: str) -> str:
    """A path of a step as an absolute one; a slash at its end stays."""
    whole = posixpath.normpath(posixpath.join("/", image.workdir, path))
    return whole.rstrip("/") + "/" if path.endswith("/") else whole


def expanded(text: str, env: Mapping[str, str]) -> str:
    """The value of a variable that others are a part of (`Configure.expand`)."""
    return _REFERENCE.sub(lambda found: env.get(found[1], "") if found[1] else "$", text)


def find_python(image: ImageTree, path: str) -> str:
    """The Python that a command ``python`` or ``python3`` would be in an image; "" for none."""
    for folder in path.split(":"):
        for name in ("python", "python3"):
            with contextlib.suppress(TreePathError):
                found = image.find(image.resolve(f"{folder}/{name}")) if folder.startswith("/") else None
                if found is not None and found.is_file() and os.access(found, os.X_OK):
                    return f"{folder.rstrip('/')}/{name}"
    return ""


def _command(commands: Sequence[str], shell: Sequence[str]) -> list[str]:
    """One that runs all of them, each in a shell of its own, and ends with the first that fails."""
    if len(commands) == 1:
        return [*shell, commands[0]]
    lines = []
    for command in commands:
        lines.append(f"printf '%s\\n' {shlex.quote(f'$ {command}')}")
        lines.append(f"{shlex.join([*shell, command])} || exit $?")
    return [*shell, "\n".join(lines)]


async def _thread(
    function: Callable[..., T], *arguments: Any, stop: Callable[[], object] = lambda: None
) -> T:
    """What a function that blocks returns. Where this is cancelled, `stop` is called and it is waited for: it
    may use what is about to be removed."""
    working = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait([working])
        raise
