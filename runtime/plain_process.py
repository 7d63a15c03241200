"""Containers that are none: ordinary processes of this machine, for where nothing better can be had.

Taken only where ``isolation = "process"`` is set in ``[host]`` of ``config.toml``, and with a warning: the
code sees the files, processes and network of the user who runs the host, and can do what that user can.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from skylift.runtime.gpus import visible_devices
from skylift.runtime.isolation import (
    Bind,
    ContainerPlan,
    ContainerProcess,
    ExitStatus,
    Isolation,
    ResourceUse,
    StartError,
)
from skylift.runtime.process_notes import ProcessNotes, stat_fields
from skylift.runtime.settings import MIB, HostSettings

WARNING = (
    'isolation = "process": code from notebooks runs as ordinary processes of this machine, with the files, '
    "the network and the rights of the user who runs Skylift. It is isolated from nothing. "
    'isolation = "runc" in [host] of config.toml makes real containers (on Linux).'
)
"""What a host that isolates nothing has to say, where people see it."""

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessIsolation(Isolation):
    """Starts processes. Of the limits only an explicit ``memory_limit`` holds, for each process by itself."""

    name = "process"
    rootless = True

    def __init__(self, settings: HostSettings, folder: Path) -> None:
        """`folder` is the host's own, in ``$SKYLIFT_HOME``."""
        self._notes = ProcessNotes(folder / "processes")

    async def adopt(self) -> None:
        for pid in self._notes.take_living():
            _kill_group(pid)

    async def create(self, plan: ContainerPlan) -> ContainerProcess:
        if plan.image.kind == "layers":
            raise StartError(
                "This host starts plain processes, which have no root of their own, so it cannot use an "
                'image that was built. Set isolation = "runc" in [host] of config.toml, or use '
                "Image.from_environment().",
                "InvalidError",
            )
        folder = plan.folder / "isolation"
        home, tree = folder / "home", folder / "tree"
        home.mkdir(parents=True)
        _link_binds(plan.binds, tree)
        env = {
            "PATH": f"{os.path.dirname(plan.image.python)}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(home),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            **_cuda_devices(plan),
            **visible_devices(plan.gpus),
            **plan.image.env,
            **plan.env,
        }
        sources = {bind.target: str(bind.source) for bind in plan.binds}
        links = {bind.target: f"{tree}{bind.target}" for bind in plan.binds}
        command = [_translated(word, links) for word in plan.command]
        try:
            process = subprocess.Popen(  # noqa: ASYNC220  (asyncio's would not give its resource usage)
                command,
                cwd=home,
                env={name: _translated(value, sources) for name, value in env.items()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise StartError(f"{command[0]} could not be started: {error.strerror}.") from error
        self._notes.write(plan.container_id, process.pid)
        _limit(process.pid, plan.memory_limit)
        return PlainProcess(
            process, (plan.memory_limit or 0) * MIB, folder, lambda: self._notes.forget(plan.container_id)
        )

    async def close(self) -> None:
        self._notes.remove_folder()


class PlainProcess(ContainerProcess):
    """One process and what it has started (except what moved to a session of its own)."""

    def __init__(
        self, process: subprocess.Popen[bytes], memory_limit: int, folder: Path, forget: Callable[[], None]
    ) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.pid = process.pid
        # Descriptors of their own: the caller closes them, and Popen's files close with it.
        self.output = (os.dup(process.stdout.fileno()), os.dup(process.stderr.fileno()))
        process.stdout.close()
        process.stderr.close()
        self._process = process
        self._memory_limit = memory_limit
        self._folder = folder
        self._forget = forget
        self._last_use = ResourceUse()
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[ExitStatus] = loop.create_future()
        threading.Thread(
            target=self._wait_for_end, args=(loop,), name=f"wait {self.pid}", daemon=True
        ).start()

    async def wait(self) -> ExitStatus:
        return await asyncio.shield(self._ended)

    async def kill(self) -> None:
        if not self._ended.done():
            _kill_group(self.pid)
            await self.wait()

    def use(self) -> ResourceUse:
        if not self._ended.done():
            now = _session_use(self.pid)
            peak = max(self._last_use.peak_memory, now.memory)
            self._last_use = ResourceUse(cpu_seconds=now.cpu_seconds, memory=now.memory, peak_memory=peak)
        return self._last_use

    async def remove(self) -> None:
        await self.kill()
        _kill_group(self.pid)
        self._forget()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _wait_for_end(self, loop: asyncio.AbstractEventLoop) -> None:
        _, status, use = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code  # or else Popen waits for a process that is gone
        peak = use.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._on_end, code, peak, use.ru_utime + use.ru_stime)

    def _on_end(self, code: int, peak: int, cpu_seconds: float) -> None:
        number = -code if code < 0 else code - 128
        if number not in signal.valid_signals():
            number = 0
        peak = max(peak, self._last_use.peak_memory)
        self._last_use = ResourceUse(cpu_seconds=cpu_seconds, memory=0, peak_memory=peak)
        self._ended.set_result(
            ExitStatus(
                code=128 - code if code < 0 else code,
                signal=number,
                peak_memory=peak,
                memory_limit=self._memory_limit,
            )
        )


def _cuda_devices(plan: ContainerPlan) -> dict[str, str]:
    """The process sees every device file, so CUDA has to be told which GPUs are meant."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in plan.gpus if not gpu.simulated)}


def _link_binds(binds: Iterable[Bind], tree: Path) -> None:
    """Links to the sources of binds, side by side as their targets are."""
    for bind in binds:
        link = tree / bind.target.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(bind.source)


def _translated(text: str, places: dict[str, str]) -> str:
    """A path in a container as the path of the same thing on this machine; other texts as they are."""
    if text.startswith("/"):
        path = PurePosixPath(text)
        for target, place in places.items():
            if path.is_relative_to(target):
                return str(PurePosixPath(place, path.relative_to(target)))
    return text


def _limit(pid: int, memory_limit: int | None) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
            if memory_limit:
                resource.prlimit(pid, resource.RLIMIT_DATA, (memory_limit * MIB, memory_limit * MIB))


def _session_use(session: int) -> ResourceUse:
    ticks = pages = 0
    for name in os.listdir("/proc") if sys.platform == "linux" else ():
        fields = stat_fields(name) if name.isdecimal() else []
        if fields and int(fields[3]) == session:
            ticks += int(fields[11]) + int(fields[12])
            pages += int(fields[21])
    return ResourceUse(cpu_seconds=ticks / TICKS, memory=pages * PAGE)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
