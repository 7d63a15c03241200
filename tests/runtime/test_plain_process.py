"""Processes that stand in for containers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from skylift.runtime.gpus import Gpu
from skylift.runtime.isolation import (
    Bind,
    ContainerPlan,
    ContainerProcess,
    ExitStatus,
    Isolation,
    StartError,
    open_isolation,
)
from skylift.runtime.plain_process import WARNING, ProcessIsolation
from skylift.runtime.settings import HostSettings
from skylift.wire import ImageSpec
from skylift.wire.ids import new_id

Body = Callable[[ProcessIsolation], Awaitable[None]]


def plan(home: Path, *command: str, **more: Any) -> ContainerPlan:
    container_id = new_id("co")
    folder = home / "host" / "containers" / container_id
    folder.mkdir(parents=True)
    image = ImageSpec(
        kind="environment", machine="", python=sys.executable, python_version="", mounts=(), sys_path=()
    )
    return ContainerPlan(container_id=container_id, folder=folder, image=image, command=list(command), **more)


async def finish(container: ContainerProcess) -> tuple[ExitStatus, str, str]:
    def read(descriptor: int) -> str:
        with os.fdopen(descriptor) as file:
            return file.read()

    out, err = await asyncio.gather(*(asyncio.to_thread(read, each) for each in container.output))
    status = await container.wait()
    await container.remove()
    return status, out, err


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def within(home: Path, body: Body) -> None:
    async def run() -> None:
        isolation = ProcessIsolation(HostSettings(isolation="process"), home / "host")
        await isolation.adopt()
        await body(isolation)
        await isolation.close()

    asyncio.run(run())


def test_output_exit_code_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYLIFT_TOKEN", "secret")

    async def body(isolation: ProcessIsolation) -> None:
        script = "echo $WHO; echo $SKYLIFT_TOKEN >&2; pwd; exit 3"
        made = plan(tmp_path, "sh", "-c", script, env={"WHO": "me"})
        status, out, err = await finish(await isolation.create(made))
        assert (3, 0, False) == (status.code, status.signal, status.oom)
        assert ["me", str(made.folder / "isolation" / "home")] == out.split()
        assert "\n" == err
        assert status.peak_memory > 0
        assert [] == list(made.folder.iterdir())

    within(tmp_path, body)


def test_paths_of_a_container_are_found_on_the_machine(tmp_path: Path) -> None:
    library, sockets = tmp_path / "runner", tmp_path / "sockets"
    library.mkdir()
    sockets.mkdir()
    (library / "main.py").write_text("import os, sys; print(__file__, os.environ['SOCKET'], sys.path[0])")
    binds = (Bind(library, "/opt/skylift/lib/skylift_runner"), Bind(sockets, "/run/skylift"))

    async def body(isolation: ProcessIsolation) -> None:
        command = [sys.executable, "/opt/skylift/lib/skylift_runner/main.py"]
        env = {"SOCKET": "/run/skylift/runner.sock", "OTHER": "/run/skyliftx"}
        made = plan(tmp_path, *command, binds=binds, env=env)
        _, out, err = await finish(await isolation.create(made))
        tree = made.folder / "isolation" / "tree"
        file, socket, _ = out.split()
        assert (
            f"{tree}/opt/skylift/lib/skylift_runner/main.py" == file
        )  # its neighbours are our other libraries
        assert str(sockets / "runner.sock") == socket
        assert "" == err

    within(tmp_path, body)


def test_kill_takes_its_children_too(tmp_path: Path) -> None:
    async def body(isolation: ProcessIsolation) -> None:
        container = await isolation.create(plan(tmp_path, "sh", "-c", "sleep 606 & echo $!; wait"))
        child = int(await asyncio.to_thread(os.read, container.output[0], 20))
        assert container.use().memory > 0
        await container.kill()
        await container.kill()
        status = await container.wait()
        assert (137, signal.SIGKILL) == (status.code, status.signal)
        await finish(container)
        await container.remove()
        assert "606" not in command_of(child)

    within(tmp_path, body)


def test_an_explicit_memory_limit_holds(tmp_path: Path) -> None:
    async def body(isolation: ProcessIsolation) -> None:
        code = "import sys; sys.stdin.read(); x = bytearray(300 << 20)"
        made = plan(tmp_path, sys.executable, "-c", f"import time; time.sleep(0.2); {code}", memory_limit=200)
        status, _, err = await finish(await isolation.create(made))
        assert (1, 200 << 20) == (status.code, status.memory_limit)
        assert "MemoryError" in err

    within(tmp_path, body)


def test_gpus_are_named(tmp_path: Path) -> None:
    gpus = (
        Gpu(index=0, uuid="GPU-a", model="H100", memory=1),
        Gpu(index=1, uuid="GPU-b", model="H100", memory=1),
    )

    async def body(isolation: ProcessIsolation) -> None:
        show = ("sh", "-c", "echo $CUDA_VISIBLE_DEVICES; echo $NVIDIA_VISIBLE_DEVICES")
        _, out, _ = await finish(await isolation.create(plan(tmp_path, *show, gpus=gpus)))
        assert "GPU-a,GPU-b\nGPU-a,GPU-b\n" == out
        _, out, _ = await finish(await isolation.create(plan(tmp_path, *show)))
        assert "\nvoid\n" == out

    within(tmp_path, body)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    async def body(isolation: ProcessIsolation) -> None:
        made = plan(tmp_path, "/no/such/python")
        with pytest.raises(
            StartError, match=r"/no/such/python could not be started: No such file or directory\."
        ):
            await isolation.create(made)
        assert [] == list(made.folder.iterdir())

    within(tmp_path, body)


CRASH = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_plain_process import ProcessIsolation, HostSettings, plan

async def main():
    home = Path(sys.argv[1])
    isolation = ProcessIsolation(HostSettings(isolation="process"), home / "host")
    await isolation.adopt()
    container = await isolation.create(plan(home, "sleep", "607"))
    print(container.pid, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def test_what_a_crashed_host_left_is_ended_by_the_next(tmp_path: Path) -> None:
    crashed = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    pid = int(crashed.stdout)
    pidfd = os.pidfd_open(pid)

    async def body(isolation: ProcessIsolation) -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, ended.set)
        await asyncio.wait_for(ended.wait(), 10)
        asyncio.get_running_loop().remove_reader(pidfd)

    within(tmp_path, body)
    os.close(pidfd)
    assert not (tmp_path / "host" / "processes").exists()


def test_it_is_taken_only_by_name(tmp_path: Path) -> None:
    isolation: Isolation = open_isolation(HostSettings(isolation="process"), tmp_path)
    assert "process" == isolation.name
    assert "runc" == open_isolation(HostSettings(), tmp_path).name
    assert "It is isolated from nothing." in WARNING
