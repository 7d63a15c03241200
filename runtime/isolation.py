"""How a host makes containers: the interface, and what goes in and comes out of it.

`skylift.runtime.runc.RuncIsolation` makes real containers; `skylift.runtime.plain_process.ProcessIsolation`
only starts processes. `open_isolation` takes the one that the settings name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from skylift.runtime.gpus import Gpu
from skylift.runtime.start_error import StartError
from skylift.wire import ImageSpec

if TYPE_CHECKING:
    from skylift.runtime.runc.image_layers import ImageLayers
    from skylift.runtime.settings import HostSettings

__all__ = [
    "Bind",
    "CheckpointError",
    "ContainerPlan",
    "ContainerProcess",
    "ExitStatus",
    "Fork",
    "Isolation",
    "ResourceUse",
    "StartError",
    "open_isolation",
]


CHILDREN_FOLDER = "children"
"""In a template's folder: those of the containers that are forked from it."""


class CheckpointError(Exception):
    """A container could not be written, or not restored. The message says why, for people."""


class Bind(msgspec.Struct, frozen=True):
    """A file or folder of the host that a container sees at `target`, which is made where it is missing.

    Where it is writable, its source and what lies directly in it (a socket) are given to the user of the
    host that is the container's root.
    """

    source: Path
    target: str
    writable: bool = False


class ContainerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what a container is."""

    container_id: str
    folder: Path
    """The container's own folder on the host; the caller makes it, `ContainerProcess.remove` empties what
    the isolation put there (under ``isolation/``)."""
    image: ImageSpec
    command: list[str]
    env: dict[str, str] = {}
    """Added to the image's; the last word."""
    cpu: float = 0.125
    """Cores that are reserved: its weight where cores are short."""
    cpu_limit: float | None = None
    """Cores; None lets it use what is idle."""
    memory_limit: int | None = None
    """MiB; None is the host's default (`HostSettings.memory_limit`)."""
    pids_limit: int | None = None
    """Processes and threads; None is the host's default."""
    gpus: tuple[Gpu, ...] = ()
    block_network: bool = False
    hostname: str = "skylift"
    binds: tuple[Bind, ...] = ()
    """Beyond the image's mounts: the runner, the folder of its socket, code of local modules."""
    template: bool = False
    """It is to be forked: it may make namespaces and mounts within its own user namespace."""
    build: bool = False
    """It makes a layer of an image: its root may do what installing packages takes, and nothing that every
    container gets of the host is among what it has written (`ContainerProcess.written`)."""


class ExitStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a container's first process ended."""

    code: int
    """What it passed to ``exit``; 128 + `signal` where a signal ended it."""
    signal: int = 0
    """The signal that ended it (it, or what it stood for: see `docs/architecture.md` on PID 1), or 0."""
    oom: bool = False
    """Whether the kernel killed something in it for memory."""
    peak_memory: int = 0
    """Bytes."""
    memory_limit: int = 0
    """Bytes; 0 is none."""


class ResourceUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a container uses now."""

    cpu_seconds: float = 0.0
    """Processor time since it began."""
    memory: int = 0
    """Bytes."""
    peak_memory: int = 0
    """Bytes."""


class ContainerProcess(ABC):
    """A running container."""

    pid: int
    """Its first process, as the host sees it."""
    output: tuple[int, int]
    """Read ends of the pipes that are its stdout and stderr; the caller closes them."""
    written: Path | None = None
    """Folder with what it has written to its root, until `remove`; None where nobody can tell."""
    gpu_driver: str = ""
    """After `checkpoint`: version of NVIDIA's driver where GPU memory was written, else ""."""

    @abstractmethod
    async def wait(self) -> ExitStatus:
        """Wait until its first process has ended. May be called more than once and by several tasks."""

    @abstractmethod
    async def kill(self) -> None:
        """Send SIGKILL to everything in it, and return when its first process is gone. Idempotent."""

    @abstractmethod
    def use(self) -> ResourceUse:
        """What it uses now; the last figures known once it has ended."""

    async def checkpoint(self, folder: Path) -> None:
        """Write its processes and its own files into `folder`, which is there and empty.

        What it has on GPUs is written too. It is stopped after that: go on with `resume` or `kill`. Raises
        `CheckpointError`: it runs on, and what is in the folder is of no use.
        """
        raise CheckpointError("Containers of this host cannot be written.")

    async def resume(self) -> None:  # noqa: B027  (only after `checkpoint`)
        """Let it run on after `checkpoint`. Raises `CheckpointError` where what it had on GPUs could not be
        brought back there: it runs on, and will hang when it uses them."""

    @abstractmethod
    async def remove(self) -> None:
        """Kill what is left of it and remove its mounts, cgroup, network and files. Idempotent."""


class Fork(ABC):
    """A container that is about to be forked from a template: what this machine contributes to it.

    The template is sent `request` and `descriptors`. The forked process speaks on the last of the descriptors
    (see `runner/newborn.py`), and `born` listens there.
    """

    request: Mapping[str, Any]
    descriptors: tuple[int, ...]
    """Open until `born` or `abandon`."""

    @abstractmethod
    async def born(self, status: Awaitable[int]) -> ContainerProcess:
        """Accompany its birth, and return when it runs. `status` is how it will have ended: its exit code, or
        minus the signal. Raises `StartError`; nothing of it is left then."""

    @abstractmethod
    def go(self) -> None:
        """One that was to `hold` may begin. Raises `StartError` where it has ended."""

    @abstractmethod
    async def abandon(self) -> None:
        """It was not forked: take back what was prepared. Where it holds, it ends. Idempotent."""


class Isolation(ABC):
    """A way to make containers. One object per host process; its methods are called from the event loop."""

    name: Literal["runc", "process"]
    rootless: bool
    layers: ImageLayers | None = None
    """Of the images that containers are made of; None where there are none. Known after `adopt`."""

    @abstractmethod
    async def create(self, plan: ContainerPlan) -> ContainerProcess:
        """Start a container; returns as soon as its first process runs.

        Raises `StartError`; nothing of the container is left then.
        """

    cannot_fork: str = "containers of this host cannot be forked"
    """Why `fork` cannot work, for people; "" where it can. Known after `adopt`."""
    cannot_checkpoint: str = "containers of this host cannot be written"
    """The same of `ContainerProcess.checkpoint` and `restore`."""

    cannot_have_volumes: str = 'its containers are isolated from nothing (isolation = "process")'
    """Why volumes cannot be mounted in its containers; "" where they can. Known after `adopt`."""
    owner: tuple[int, int] = (0, 0)
    """The user and group of this machine that are root in containers. Known after `adopt`."""

    async def fork(self, template: ContainerPlan, plan: ContainerPlan, *, hold: bool = False) -> Fork:
        """Prepare a container that is forked from a running one with the plan `template`.

        With `hold` its runner does not begin before `Fork.go`.
        ``plan.folder`` must be in ``template.folder / CHILDREN_FOLDER``. Raises `StartError`.
        """
        raise StartError(self.cannot_fork)

    async def restore(
        self, plan: ContainerPlan, folder: Path, pages: Future[None] | None = None
    ) -> ContainerProcess:
        """Start a container as what `ContainerProcess.checkpoint` wrote into `folder`.

        `plan` is for the same image, and may have another folder, binds with other sources, and other limits.
        With `pages`, files of more than a few MiB may be incomplete in `folder` until it is done. Raises
        `CheckpointError`; nothing of the container is left then.
        """
        raise CheckpointError(self.cannot_checkpoint)

    @abstractmethod
    async def adopt(self) -> None:
        """Remove what a host that crashed has left behind, and set up what containers share.

        Called once, before the first `create`. Raises `StartError` where this machine cannot make containers.
        """

    async def close(self) -> None:  # noqa: B027  (optional)
        """Give back what all containers shared (a bridge, say). Called once, after the last `remove`."""


def open_isolation(settings: HostSettings, folder: Path) -> Isolation:
    """The isolation that `settings` name.

    `folder` is the host's own (``$SKYLIFT_HOME/host``). Where this machine cannot provide it,
    `Isolation.adopt` raises `StartError` that says what is missing; it never falls back to a weaker one.
    """
    if settings.isolation == "process":
        from skylift.runtime.plain_process import ProcessIsolation

        return ProcessIsolation(settings, folder)
    from skylift.runtime.runc import RuncIsolation

    return RuncIsolation(settings, folder)
