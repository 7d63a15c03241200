"""What a container has on its GPUs: in its own memory while it is written, and back on GPUs afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from skylift.runtime.criu_dump import tree
from skylift.runtime.cuda_checkpoint import (
    CudaCheckpoint,
    CudaCheckpointError,
    find_cuda_checkpoint,
    has_cuda_loaded,
    has_gpu_open,
    inner_pid,
)
from skylift.runtime.gpus import Gpu
from skylift.runtime.isolation import CheckpointError
from skylift.runtime.nvml import GpuSample, Nvml

GIB = 1024**3


class GpuFacts(Protocol):
    """What is known of the host's GPUs: `Nvml`."""

    def driver(self) -> str:
        """Version of the driver."""

    def sample(self, uuid: str) -> GpuSample:
        """What a GPU does now."""


def host_gpu_facts() -> GpuFacts | None:
    """NVML of this host; None where there is no driver."""
    nvml = Nvml.load()
    if nvml is not None:
        nvml.gpus()
    return nvml


class WrittenGpuMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Of a written container that had memory on GPUs."""

    pids: tuple[int, ...]
    """The processes that had it, by their pids in the container."""
    uuids: tuple[str, ...]
    """The container's GPUs."""
    models: tuple[str, ...]
    """Theirs, in the same order."""
    driver: str


class Aside(msgspec.Struct, frozen=True, kw_only=True):
    """GPU memory that is in its processes' own memory."""

    program: CudaCheckpoint
    pids: tuple[int, ...]
    written: WrittenGpuMemory

    async def bring_back(self) -> None:
        """Onto the GPUs again. Raises `CheckpointError`."""
        try:
            await self.program.resume(self.pids)
        except CudaCheckpointError as error:
            raise CheckpointError(str(error)) from error


async def put_aside(
    pid: int, gpus: Sequence[Gpu], facts: Callable[[], GpuFacts | None], room: int
) -> Aside | None:
    """Move what the container with this first process has on its GPUs into its own memory.

    None where it has nothing there. `room` is how many bytes more it may use. Raises `CheckpointError`; it
    runs on then.
    """
    candidates = [each for each in tree(pid) if has_gpu_open(each) or has_cuda_loaded(each)]
    if not candidates:
        return None
    here = facts()
    driver = here.driver() if here is not None else ""
    try:
        try:
            program = find_cuda_checkpoint(driver)
        except CudaCheckpointError:
            if any(has_gpu_open(each) for each in candidates):
                raise
            return None
        users = [each for each in candidates if await program.uses_cuda(each)]
        if not users:
            return None
        used = sum(here.sample(gpu.uuid).memory for gpu in gpus) if here is not None else 0
        room = min(room, _available())
        if used > room:
            raise CudaCheckpointError(
                f"It has {used / GIB:,.1f} GiB on its GPU, which are moved to its memory first, and only "
                f"{room / GIB:,.1f} GiB of that are free. Free some of either, or give it more (memory=)."
            )
        suspended = await program.suspend(users)
    except CudaCheckpointError as error:
        raise CheckpointError(f"The container cannot be written: {error}") from error
    written = WrittenGpuMemory(
        pids=tuple(map(inner_pid, suspended)),
        uuids=tuple(gpu.uuid for gpu in gpus),
        models=tuple(gpu.model for gpu in gpus),
        driver=driver,
    )
    return Aside(program=program, pids=suspended, written=written)


def program_for(
    written: WrittenGpuMemory, gpus: Sequence[Gpu], facts: Callable[[], GpuFacts | None]
) -> CudaCheckpoint:
    """What can bring a written container's memory onto `gpus`. Raises `CudaCheckpointError`."""
    if written.models != tuple(gpu.model for gpu in gpus):
        there = " and ".join(gpu.model for gpu in gpus) or "no GPU"
        raise CudaCheckpointError(f"It has memory of {' and '.join(written.models)}, and there is {there}.")
    here = facts()
    return find_cuda_checkpoint(here.driver() if here is not None else "")


async def bring_back(
    program: CudaCheckpoint, written: WrittenGpuMemory, pid: int, gpus: Sequence[Gpu]
) -> None:
    """Onto `gpus`, in the restored container with this first process. Raises `CudaCheckpointError`."""
    by_inner = {inner_pid(each): each for each in tree(pid)}
    missing = [inner for inner in written.pids if inner not in by_inner]
    if missing:
        raise CudaCheckpointError(f"Its process {missing[0]}, which has memory on a GPU, is not there.")
    devices = dict(zip(written.uuids, (gpu.uuid for gpu in gpus), strict=True))
    await program.resume([by_inner[inner] for inner in written.pids], devices)


def _available() -> int:
    """Bytes of the host's memory that are free."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    return int(text.partition("MemAvailable:")[2].split()[0]) * 1024
