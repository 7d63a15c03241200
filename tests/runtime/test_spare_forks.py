"""When a fork is made ahead, who gets it, and how it ends. (Real ones: tests/runtime/runc/test_forks.py.)"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Coroutine, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from skylift.runtime import spare_forks
from skylift.runtime.gpus import Gpu
from skylift.runtime.isolation import ContainerPlan, ExitStatus, Isolation, StartError
from skylift.runtime.spare_forks import SpareForks
from skylift.runtime.template import Template
from skylift.wire import FunctionSpec, ImageSpec, VolumeMount

IMAGE = ImageSpec(kind="environment", machine="m", python="/usr/bin/python3", python_version="3.11.7")
SPEC = FunctionSpec(app="app", name="f", image=IMAGE)


class Process:
    """A container, as far as this needs one."""

    def __init__(self) -> None:
        self.output = os.pipe()
        self.ended = asyncio.Event()
        self.removed = False

    async def wait(self) -> ExitStatus:
        await self.ended.wait()
        return ExitStatus(code=0)

    async def remove(self) -> None:
        self.removed = True
        self.ended.set()


class Fork:
    request: Mapping[str, Any] = {}
    descriptors: tuple[int, ...] = ()

    def __init__(self, process: Process) -> None:
        self.process = process
        self.told = ""

    async def born(self, _status: Awaitable[int]) -> Process:
        return self.process

    def go(self) -> None:
        if self.process.ended.is_set():
            raise StartError("the container that was forked ahead has ended")
        self.told = "go"

    async def abandon(self) -> None:
        self.told = "end"


class Machine:
    """A template, and what is forked from it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spare_forks, "PAUSE", 0.0)
        self.template = Template("key", SPEC, ())
        self.template.plan = ContainerPlan(
            container_id="tp-1", folder=folder / "tp-1", image=IMAGE, command=[]
        )
        self.template.state = "ready"
        self.template.process = cast(Any, Process())
        self.template.link = cast(Any, self)
        self.made: list[Process] = []
        self.plans: list[ContainerPlan] = []
        self.problem: Exception | None = None
        self.turned = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        isolation = cast(Isolation, SimpleNamespace(fork=self._prepare))
        self.spares = SpareForks(isolation, self._run, self.turned.set)

    async def settle(self) -> None:
        """Until nothing more happens by itself."""
        while True:
            for _ in range(4):
                await asyncio.sleep(0)
            busy = [task for task in self.tasks if "_watch" not in str(task.get_coro())]
            if not busy:
                return
            await asyncio.wait(busy)

    async def with_a_spare(self, spec: FunctionSpec = SPEC, gpus: tuple[Gpu, ...] = ()) -> None:
        self.turned.clear()
        self.spares.want(self.template, spec, gpus)
        await asyncio.wait_for(self.turned.wait(), 30)
        await self.settle()

    def status(self, _container: str) -> asyncio.Future[int]:
        return asyncio.get_running_loop().create_future()

    async def fork(self, _container: str, _request: object, _descriptors: object) -> None:
        if self.problem is not None:
            raise self.problem

    async def _prepare(self, _template: ContainerPlan, plan: ContainerPlan, *, hold: bool) -> Fork:
        assert hold
        self.plans.append(plan)
        self.made.append(Process())
        return Fork(self.made[-1])

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def close(self) -> None:
        self.spares.close()
        await self.spares.end(self.template)
        for process in self.made:
            process.ended.set()
        await asyncio.gather(*self.tasks)


def on_a_machine(folder: Path, monkeypatch: pytest.MonkeyPatch, body: Any) -> None:
    async def run() -> None:
        machine = Machine(folder, monkeypatch)
        try:
            await body(machine)
        finally:
            await machine.close()

    asyncio.run(run())


def test_the_next_container_gets_it_and_another_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(machine: Machine) -> None:
        assert machine.spares.take(machine.template, SPEC, ()) is None
        await machine.with_a_spare()
        assert machine.template.spare
        spare = machine.spares.take(machine.template, SPEC, ())
        assert spare is not None
        assert not machine.template.spare
        assert (spare.folder / "run").is_dir()
        assert spare.folder == machine.plans[0].folder
        assert machine.spares.take(machine.template, SPEC, ()) is None
        assert machine.made[0] is cast(Any, spare.go())
        await machine.with_a_spare()
        assert (2, False) == (len(machine.made), machine.made[0].removed)
        machine.spares.want(machine.template, SPEC, ())
        await machine.settle()
        assert 2 == len(machine.made)

    on_a_machine(tmp_path, monkeypatch, body)


def test_one_with_other_limits_is_not_taken_and_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(machine: Machine) -> None:
        await machine.with_a_spare()
        larger = FunctionSpec(app="app", name="f", image=IMAGE, memory_limit=64)
        assert machine.spares.take(machine.template, larger, ()) is None
        machine.spares.want(machine.template, larger, ())
        while len(machine.made) < 2:  # noqa: ASYNC110  (a few turns of the loop)
            await asyncio.sleep(0)
        await machine.settle()
        assert machine.made[0].removed
        assert not machine.plans[0].folder.exists()
        assert 64 == machine.plans[1].memory_limit
        assert machine.spares.take(machine.template, larger, ()) is not None

    on_a_machine(tmp_path, monkeypatch, body)


def test_none_is_made_where_containers_differ_more_than_a_fork_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(machine: Machine) -> None:
        on_volume = FunctionSpec(app="a", name="f", image=IMAGE, volumes=(VolumeMount(path="/data"),))
        machine.spares.want(machine.template, on_volume, ())
        machine.spares.want(machine.template, SPEC, (cast(Gpu, SimpleNamespace(simulated=False)),))
        await machine.settle()
        assert [] == machine.made

    on_a_machine(tmp_path, monkeypatch, body)


def test_one_that_ends_by_itself_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(machine: Machine) -> None:
        await machine.with_a_spare()
        machine.turned.clear()
        machine.made[0].ended.set()
        await asyncio.wait_for(machine.turned.wait(), 30)
        await machine.settle()
        assert (False, True) == (machine.template.spare, machine.made[0].removed)
        assert not machine.plans[0].folder.exists()

    on_a_machine(tmp_path, monkeypatch, body)


def test_one_that_cannot_be_made_is_told_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(machine: Machine) -> None:
        machine.problem = OSError("cannot fork: out of memory")
        machine.spares.want(machine.template, SPEC, ())
        while not machine.plans:  # noqa: ASYNC110  (a few turns of the loop)
            await asyncio.sleep(0)
        await machine.settle()
        assert not machine.plans[0].folder.exists()
        machine.problem = None
        await machine.with_a_spare()

    on_a_machine(tmp_path, monkeypatch, body)
    assert "No spare container of app.f: cannot fork: out of memory" in caplog.text


def test_it_goes_with_its_template_and_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(machine: Machine) -> None:
        await machine.with_a_spare()
        await machine.spares.end(machine.template)
        assert (False, True) == (machine.template.spare, machine.made[0].removed)
        monkeypatch.setattr(spare_forks, "KEPT", 0.0)
        await machine.with_a_spare()
        await asyncio.wait_for(machine.made[1].ended.wait(), 30)
        await machine.settle()
        assert not machine.template.spare
        machine.spares.close()
        machine.spares.want(machine.template, SPEC, ())
        await machine.settle()
        assert 2 == len(machine.made)

    on_a_machine(tmp_path, monkeypatch, body)


def test_what_its_container_does_not_take_is_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(machine: Machine) -> None:
        await machine.with_a_spare()
        spare = machine.spares.take(machine.template, SPEC, ())
        assert spare is not None
        machine.spares.drop(spare)
        await machine.settle()
        assert machine.made[0].removed

    on_a_machine(tmp_path, monkeypatch, body)
