"""A container that does as it is told, and is written and restored."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path

import msgspec
from workshop import PYTHON, TIMEOUT, Workshop, environment, read_line

from skylift.runtime.isolation import Bind, ContainerPlan, ContainerProcess

SOCKETS = "/run/told"

OBEY = f"""
import contextlib, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind("{SOCKETS}/socket")
listener.listen()
print("ready", flush=True)
names = {{}}
while True:
    connection, _ = listener.accept()
    with contextlib.suppress(OSError), connection, connection.makefile("rw") as stream:
        code = stream.read()
        try:
            exec(code, names)
            answer = repr(names.pop("answer", None))
        except BaseException as error:
            answer = f"failed: {{error!r}}"
        stream.write(answer)
"""
"""Runs what it is sent, and answers with what that calls ``answer``."""


class Obedient:
    """A container that runs `OBEY`."""

    def __init__(self, container: ContainerProcess, plan: ContainerPlan, told: Path) -> None:
        self.container = container
        self.plan = plan
        self.told = told

    async def do(self, code: str) -> str:
        """What `code` calls ``answer``, as ``repr`` has it."""
        answer = await asyncio.wait_for(asyncio.to_thread(self._do, code), TIMEOUT)
        assert not answer.startswith("failed:"), answer
        return answer

    def _do(self, code: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            folder = os.open(self.told, os.O_RDONLY)
            try:  # a socket's path may not be long
                connection.connect(f"/proc/self/fd/{folder}/socket")
            finally:
                os.close(folder)
            connection.sendall(code.encode())
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile() as stream:
                return stream.read()


def plan_of(shop: Workshop, **more: object) -> tuple[ContainerPlan, Path]:
    """The plan of a container that obeys, and where the host reaches it."""
    image = more.pop("image", environment())
    binds = more.pop("binds", ())
    plan = shop.plan(PYTHON, "-I", "-c", OBEY, image=image, **more)
    told = plan.folder / "told"
    told.mkdir(mode=0o700)
    return msgspec.structs.replace(plan, binds=(Bind(told, SOCKETS, writable=True), *binds)), told


@contextlib.asynccontextmanager
async def obedient(shop: Workshop, **more: object) -> AsyncIterator[Obedient]:
    plan, told = plan_of(shop, **more)
    container = await shop.isolation.create(plan)
    try:
        assert "ready\n" == await read_line(container.output[0])
        yield Obedient(container, plan, told)
    finally:
        await container.remove()


@contextlib.asynccontextmanager
async def restored(
    shop: Workshop, folder: Path, pages: Future[None] | None = None, **more: object
) -> AsyncIterator[Obedient]:
    plan, told = plan_of(shop, **more)
    container = await shop.isolation.restore(plan, folder, pages)
    try:
        yield Obedient(container, plan, told)
    finally:
        await container.remove()


async def write(shop: Workshop, it: Obedient) -> Path:
    """Write it to a folder."""
    folder = shop.home / "written" / it.plan.container_id
    folder.mkdir(parents=True)
    await it.container.checkpoint(folder)
    return folder
