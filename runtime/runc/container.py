"""One container that runc has started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from skylift.runtime.criu_dump import go_on
from skylift.runtime.gpus import Gpu
from skylift.runtime.isolation import CheckpointError, ContainerProcess, ExitStatus, ResourceUse
from skylift.runtime.runc.cgroups import Cgroups
from skylift.runtime.runc.checkpoint_files import CriuHere, write_container
from skylift.runtime.runc.gpu_memory import Aside, GpuFacts, host_gpu_facts, put_aside
from skylift.runtime.runc.networks import Attachment


class FirstProcess(Protocol):
    """A container's first process."""

    pid: int

    async def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens where it has ended."""


RemoveTree = Callable[[Path], Awaitable[None]]


class RuncContainer(ContainerProcess):
    """A running container; its mounts live in its own namespaces and go with them."""

    def __init__(
        self,
        *,
        container_id: str,
        process: FirstProcess,
        output: tuple[int, int],
        cgroups: Cgroups | None,
        memory_limit: int,
        attachment: Attachment | None,
        folders: tuple[Path, ...],
        remove_tree: RemoveTree,
        criu: CriuHere | None = None,
        layers: tuple[Path, ...] = (),
        layered: bool = True,
        gpus: Sequence[Gpu] = (),
        gpu_facts: Callable[[], GpuFacts | None] = host_gpu_facts,
        let_go: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`folders` are removed with it: its own files and runc's state of it. `memory_limit` in bytes.
        `let_go` is called when nothing of it is left.

        What `checkpoint` needs: `criu`, without which it cannot be written; the `layers` of its root, lowest
        first, that not all containers of the host share; whether it is `layered` at all, so an overlay; its
        `gpus`.
        """
        self.pid = process.pid
        self.output = output
        self._id = container_id
        self._process = process
        self._cgroups = cgroups
        self._memory_limit = memory_limit
        self._attachment = attachment
        self._folders = folders
        self._remove_tree = remove_tree
        self._criu = criu
        self._layers = layers
        self._layered = layered
        self._descriptors = ("/dev/null", *(f"pipe:[{os.fstat(each).st_ino}]" for each in output))
        self._paused: tuple[int, ...] = ()
        """Its processes that were stopped before it was written."""
        self._gpus = [gpu for gpu in gpus if not gpu.simulated]
        self._gpu_facts = gpu_facts
        self._let_go = let_go
        self.written = layers[-1] if layers else None
        self._aside: Aside | None = None
        """What it had on GPUs when it was written."""
        self._last_use = ResourceUse()
        self._status: ExitStatus | None = None
        self._removing: asyncio.Task[None] | None = None

    async def wait(self) -> ExitStatus:
        status = await self._process.wait()
        if self._status is None:
            use = self.use()
            oom = self._cgroups is not None and self._cgroups.oom_kills(self._id) > 0
            code, number = (128 - status, -status) if status < 0 else (status, 0)
            if not number and code > 128 and code - 128 in signal.valid_signals():
                number = code - 128  # its first process passes on how the runner ended
            self._status = ExitStatus(
                code=code,
                signal=number,
                oom=oom,
                peak_memory=use.peak_memory,
                memory_limit=self._memory_limit,
            )
        return self._status

    async def kill(self) -> None:
        # The kernel kills everything in a pid namespace with its first process.
        self._process.send_signal(signal.SIGKILL)
        await self.wait()

    def use(self) -> ResourceUse:
        if self._cgroups is not None:
            self._last_use = self._cgroups.use(self._id) or self._last_use
        return self._last_use

    async def checkpoint(self, folder: Path) -> None:
        if self._criu is None or not self._layers:
            raise CheckpointError("Containers of this host cannot be written.")
        aside = None
        if self._gpus:
            aside = await put_aside(self.pid, self._gpus, self._gpu_facts, self._room())
        try:
            self._paused = await write_container(
                self._criu,
                self.pid,
                folder,
                layers=self._layers,
                layered=self._layered,
                descriptors=self._descriptors,
                gpu_memory=aside.written if aside is not None else None,
            )
        except BaseException as error:
            if aside is not None:
                try:
                    await asyncio.shield(asyncio.ensure_future(aside.bring_back()))
                except CheckpointError as worse:
                    if isinstance(error, CheckpointError):
                        raise CheckpointError(f"{error} {worse}") from error
            raise
        self._aside = aside
        self.gpu_driver = aside.written.driver if aside is not None else ""

    async def resume(self) -> None:
        go_on(self.pid, self._paused)
        aside, self._aside = self._aside, None
        if aside is not None:
            await aside.bring_back()

    def _room(self) -> int:
        """Bytes that its memory may still grow by."""
        return self._memory_limit - self.use().memory if self._memory_limit else sys.maxsize

    async def remove(self) -> None:
        if self._removing is None:
            self._removing = asyncio.ensure_future(self._remove())
        await asyncio.shield(self._removing)

    async def _remove(self) -> None:
        await self.kill()
        if self._attachment is not None:
            await self._attachment.close()
        if self._cgroups is not None:
            await self._cgroups.remove(self._id)
        for folder in self._folders:
            await self._remove_tree(folder)
        if self._let_go is not None:
            await self._let_go()


async def remove_tree(folder: Path, prefix: list[str]) -> None:
    """Remove a folder; with `prefix`, as root of the keeper's namespace (its files have many owners)."""
    if prefix:
        process = await asyncio.create_subprocess_exec(
            *prefix, "rm", "-rf", "--", str(folder), stderr=asyncio.subprocess.DEVNULL
        )
        await process.wait()
    else:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def close_quietly(*descriptors: int) -> None:
    """Close what is open of these."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
