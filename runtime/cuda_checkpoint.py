"""NVIDIA's ``cuda-checkpoint``: moves what a process has on GPUs into its own memory, and back.

A process that uses CUDA goes through these states; each action is one run of the program:

    running ── lock ──> locked ── checkpoint ──> checkpointed
    running <── unlock ── locked <── restore ── checkpointed

While it is locked its calls of CUDA wait. While it is checkpointed it has no device file open, and is to
everybody else a process like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from skylift.runtime.process_notes import stat_fields
from skylift.runtime.runc.commands import CommandError, run

CUDA_CHECKPOINT = "cuda-checkpoint"
CUDA_DRIVER = 570
"""The first driver whose processes can be checkpointed."""
HOW_TO_WRITE_GPU_MEMORY = (
    f"Use NVIDIA's driver {CUDA_DRIVER} or newer, and put {CUDA_CHECKPOINT} "
    "(https://github.com/NVIDIA/cuda-checkpoint) on the PATH of the host."
)

LOCK_TIMEOUT = 10.0
"""Seconds for the work that a process has given to its GPUs to end. CRIU's own plugin waits as long."""
COPY_TIMEOUT = 600.0
"""Seconds for the memory of a process's GPUs, all of it, to be copied."""
ASK_TIMEOUT = 30.0
"""Seconds for everything else, and for what of a lock is not waiting."""


class CudaCheckpointError(Exception):
    """What a process has on GPUs could not be moved, or not back. The message says why, for people."""


def why_no_gpu_memory(driver: str) -> str:
    """Why GPU memory cannot be written here, with this version of the driver; "" where it can."""
    major = driver.partition(".")[0]
    if not major.isdecimal() or int(major) < CUDA_DRIVER:
        return f"the driver is {driver or 'unknown'}"
    return "" if shutil.which(CUDA_CHECKPOINT) else f"{CUDA_CHECKPOINT} is not installed"


def find_cuda_checkpoint(driver: str) -> CudaCheckpoint:
    """The program on this host's PATH, for this version of the driver. Raises `CudaCheckpointError`."""
    why = why_no_gpu_memory(driver)
    path = shutil.which(CUDA_CHECKPOINT)
    if why or path is None:
        raise CudaCheckpointError(f"It has memory on a GPU, and {why}. {HOW_TO_WRITE_GPU_MEMORY}")
    return CudaCheckpoint(path)


class CudaCheckpoint:
    """The program. Processes are named by their pids on the host."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def uses_cuda(self, pid: int) -> bool:
        """Whether a process has begun to use CUDA."""
        try:
            await self._run("--get-restore-tid", "--pid", str(pid))
        except CommandError:
            return False
        return True

    async def suspend(self, pids: Sequence[int]) -> tuple[int, ...]:
        """Move what processes that use CUDA have on GPUs into their own memory; their calls of CUDA wait.

        Those that `resume` is for are returned: not those that do this by themselves just now. Raises
        `CudaCheckpointError`; they run on then, also when this is cancelled.
        """
        try:
            states = {pid: await self._state(pid) for pid in pids}
        except CommandError as error:
            raise CudaCheckpointError(f"Its GPU memory cannot be written: {error}") from error
        odd = {state for state in states.values() if state not in ("running", "checkpointed")}
        if odd:
            raise CudaCheckpointError(f"Its GPU memory cannot be written: its CUDA is {min(odd)}.")
        running = tuple(pid for pid, state in states.items() if state == "running")
        timeout = f"{LOCK_TIMEOUT * 1000:.0f}"
        try:
            # All are locked before the first is moved: they may wait for each other.
            for pid in running:
                await self._act("lock", pid, "--timeout", timeout, within=LOCK_TIMEOUT + ASK_TIMEOUT)
            for pid in running:
                await self._act("checkpoint", pid, within=COPY_TIMEOUT)
        except BaseException as error:
            problem = f"Its GPU memory cannot be written: {error}"
            try:
                await asyncio.shield(asyncio.ensure_future(self.resume(running)))
            except CudaCheckpointError as worse:
                problem = f"{problem} {worse}"
            if isinstance(error, CommandError):
                raise CudaCheckpointError(problem) from error
            raise
        return running

    async def resume(self, pids: Iterable[int], devices: Mapping[str, str] | None = None) -> None:
        """Move what processes had on GPUs back there, and let them go on. They must not be stopped.

        What is done already is not done again. `devices` says which GPU, by its UUID, what was on another one
        is for. All are tried; raises `CudaCheckpointError` where that fails for one: its calls of CUDA wait
        for ever.
        """
        options = []
        if any(old != new for old, new in (devices or {}).items()) and await self._can_map_devices():
            options = ["--device-map", ",".join(f"{old}={new}" for old, new in (devices or {}).items())]
        problems = []
        for pid in pids:
            if (stat_fields(pid) or ["X"])[0] in "ZX":
                continue
            try:
                state = await self._state(pid)
                if state == "checkpointed":
                    await self._act("restore", pid, *options, within=COPY_TIMEOUT)
                if state in ("checkpointed", "locked"):
                    await self._act("unlock", pid, within=ASK_TIMEOUT)
            except CommandError as error:
                problems.append(str(error))
        if problems:
            raise CudaCheckpointError(
                "Its GPU memory could not be brought back, so it will hang when it uses its GPU: "
                + " ".join(problems)
            )

    async def _can_map_devices(self) -> bool:
        """Older ones cannot: what was on the first GPU comes to the first one there."""
        try:
            return "--device-map" in await self._run("--help")
        except CommandError:
            return False

    async def _state(self, pid: int) -> str:
        return (await self._run("--get-state", "--pid", str(pid))).strip()

    async def _act(self, action: str, pid: int, *options: str, within: float) -> None:
        await self._run("--action", action, "--pid", str(pid), *options, timeout=within)

    async def _run(self, *arguments: str, timeout: float = ASK_TIMEOUT) -> str:
        return (await run([self._path, *arguments], timeout=timeout)).stdout


def has_gpu_open(pid: int) -> bool:
    """Whether a process has a device file of NVIDIA's open or mapped."""
    return any(path.startswith("/dev/nvidia") for path in _open_files(pid)) or "/dev/nvidia" in _maps(pid)


def has_cuda_loaded(pid: int) -> bool:
    """Whether a process has loaded the driver's library; it may not have used it."""
    return "/libcuda.so" in _maps(pid)


def inner_pid(pid: int) -> int:
    """The pid of a process in its own pid namespace; 0 where there is no such process."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        return int(text.partition("NSpid:")[2].partition("\n")[0].split()[-1])
    return 0


def _open_files(pid: int) -> list[str]:
    paths = []
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                paths.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return paths


def _maps(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    return ""
