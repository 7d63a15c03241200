"""Containers for tests: a host's isolation in a folder of its own, and what its containers printed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from skylift.runtime.isolation import ContainerPlan, ContainerProcess, ExitStatus
from skylift.runtime.runc import RuncIsolation
from skylift.runtime.runc.gpu_memory import GpuFacts, host_gpu_facts
from skylift.runtime.settings import HostSettings
from skylift.wire import ImageSpec, MountSpec
from skylift.wire.ids import machine_id, new_id

PYTHON = sys.executable
TIMEOUT = 60.0

T = TypeVar("T")


class Finished(msgspec.Struct, frozen=True):
    """A container that has ended."""

    status: ExitStatus
    stdout: str
    stderr: str


def environment(*extra: Path) -> ImageSpec:
    """This Python as an image, and more folders."""
    folders = dict.fromkeys([sys.prefix, sys.base_prefix, *map(str, extra)])
    return ImageSpec(
        kind="environment",
        machine=machine_id(),
        python=PYTHON,
        python_version=".".join(map(str, sys.version_info[:3])),
        mounts=tuple(MountSpec(path=path) for path in folders),
        sys_path=(),
    )


class Workshop:
    """Makes containers, and removes all of them at the end."""

    def __init__(
        self, home: Path, *, gpu_facts: Callable[[], GpuFacts | None] = host_gpu_facts, **settings: Any
    ) -> None:
        self.home = home
        self.isolation = RuncIsolation(
            HostSettings(**settings), home / "host", cdi_folders=(home / "cdi",), gpu_facts=gpu_facts
        )
        self._made: list[ContainerProcess] = []

    async def __aenter__(self) -> Workshop:
        await self.isolation.adopt()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(container.remove() for container in self._made))
        await self.isolation.close()

    def plan(self, *command: str, **more: Any) -> ContainerPlan:
        container_id = new_id("co")
        folder = self.home / "host" / "containers" / container_id
        folder.mkdir(parents=True)
        more.setdefault("image", environment())
        return ContainerPlan(container_id=container_id, folder=folder, command=list(command), **more)

    async def start(self, *command: str, **more: Any) -> ContainerProcess:
        container = await self.isolation.create(self.plan(*command, **more))
        self._made.append(container)
        return container

    async def run(self, *command: str, **more: Any) -> Finished:
        """Start a container, wait for its end, and remove it."""
        container = await self.start(*command, **more)
        return await self.finish(container)

    async def python(self, code: str, **more: Any) -> Finished:
        return await self.run(PYTHON, "-I", "-c", code, **more)

    async def finish(self, container: ContainerProcess) -> Finished:
        out, err = await asyncio.gather(*(asyncio.to_thread(read_all, each) for each in container.output))
        status = await asyncio.wait_for(container.wait(), TIMEOUT)
        await container.remove()
        return Finished(status, out, err)


def read_all(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode(errors="replace")


async def read_line(descriptor: int) -> str:
    """Up to the next newline, from a pipe that nobody else reads."""
    return await asyncio.wait_for(asyncio.to_thread(_read_line, descriptor), TIMEOUT)


def _read_line(descriptor: int) -> str:
    line = b""
    while not line.endswith(b"\n") and (char := os.read(descriptor, 1)):
        line += char
    return line.decode()


def in_workshop(home: Path, body: Callable[[Workshop], Awaitable[T]], **settings: Any) -> T:
    """Run a test's body with a workshop."""

    async def run() -> T:
        async with Workshop(home, **settings) as shop:
            return await body(shop)

    return asyncio.run(run())
