"""Containers that runc made and wrote, restored by CRIU alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path

import msgspec
import pytest

from skylift.runtime.criu import Criu, find_criu, kernel_facts
from skylift.runtime.criu_images import make_quick_to_restore
from skylift.runtime.criu_restore import CriuError, RestorePlan, restore
from skylift.runtime.isolation import ContainerPlan
from skylift.runtime.process_notes import stat_fields
from skylift.runtime.runc import RuncIsolation
from skylift.runtime.runc.cgroups import Cgroups
from skylift.runtime.runc.commands import run
from skylift.runtime.settings import HostSettings
from skylift.runtime.snapshot_errors import SnapshotDamagedError
from skylift.wire import ImageSpec, machine_id

pytestmark = [pytest.mark.slow, pytest.mark.root]

COUNTER = 'n=0; trap "n=\\$((n+1)); echo \\$n" USR1; echo ready; while :; do sleep 60 & wait $!; done'
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
TIMEOUT = 60


class Written:
    """A container that counts signals, has counted two, and was written to a folder."""

    def __init__(self, folder: Path, criu: Criu, isolation: RuncIsolation, plan: ContainerPlan) -> None:
        self.images = folder / "images"
        self.work = folder / "work"
        self.criu = criu
        self.bundle = plan.folder / "isolation"
        self.cgroups = [
            mount.path / "skylift-test" / plan.container_id
            for mount in Cgroups.of_machine("test").mounts
            if not {"cpuset", "cpu"} & set(mount.controllers)
        ]
        self.facts: Path | None = None
        self._isolation = isolation

    def plan(self) -> RestorePlan:
        config = msgspec.json.decode((self.bundle / "config.json").read_bytes())
        mounts = {each["destination"]: each["source"] for each in config["mounts"] if each["type"] == "bind"}
        return RestorePlan(
            images=self.images,
            work=self.work,
            root=Path(config["root"]["path"]),
            mounts={**mounts, **{f"/dev/{name}": f"/dev/{name}" for name in DEVICES}},
            descriptors=msgspec.json.decode((self.images / "descriptors.json").read_bytes()),
            cgroup=[folder / "cgroup.procs" for folder in self.cgroups],
            kernel_facts=self.facts,
        )

    @contextlib.asynccontextmanager
    async def restored(self, pages: Future[None] | None = None) -> AsyncIterator[Restored]:
        out, out_end = os.pipe()
        for folder in self.cgroups:
            folder.mkdir(parents=True, exist_ok=True)
        pid = 0
        try:
            pid = await restore(
                self.criu,
                self.plan(),
                lambda command: self._isolation._roots.command(self.bundle, command),
                stdout=out_end,
                stderr=out_end,
                pages=pages,
            )
            yield Restored(pid, out)
        finally:
            os.close(out)
            os.close(out_end)
            if pid:
                os.kill(pid, signal.SIGKILL)
                await asyncio.to_thread(os.waitpid, pid, 0)

    def processes(self) -> list[str]:
        return (self.cgroups[0] / "cgroup.procs").read_text().split()


class Pages(Future[None]):
    """Pages that are still unpacked; `wanted` is set when CRIU has come as far as it can without them."""

    def __init__(self) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()
        self.wanted = asyncio.Event()

    def add_done_callback(self, fn: Callable[[Future[None]], object]) -> None:
        super().add_done_callback(fn)
        self.wanted.set()


class Restored:
    def __init__(self, pid: int, output: int) -> None:
        self.pid = pid
        self._output = output

    async def count(self) -> str:
        """What it prints when it is told to count on."""
        os.kill(self.pid, signal.SIGUSR1)
        return await read_line(self._output)


async def read_line(descriptor: int) -> str:
    line = await asyncio.wait_for(asyncio.to_thread(os.read, descriptor, 100), TIMEOUT)
    return line.decode()


@contextlib.asynccontextmanager
async def written(folder: Path) -> AsyncIterator[Written]:
    host = folder / "home" / "host"
    host.mkdir(parents=True)
    isolation = RuncIsolation(HostSettings(network="none"), host)
    await isolation.adopt()
    criu = await find_criu("", folder / "criu.json")
    image = ImageSpec(
        kind="environment", machine=machine_id(), python="/bin/sh", python_version="", mounts=(), sys_path=()
    )
    plan = ContainerPlan(
        container_id=f"co-test{os.getpid()}",
        folder=host / "containers" / "one",
        image=image,
        command=["/bin/sh", "-c", COUNTER],
        block_network=True,
    )
    plan.folder.mkdir(parents=True)
    container = await isolation.create(plan)
    it = Written(folder, criu, isolation, plan)
    try:
        assert "ready\n" == await read_line(container.output[0])
        for expected in ("1\n", "2\n"):
            os.kill(container.pid, signal.SIGUSR1)
            assert expected == await read_line(container.output[0])
        it.images.mkdir()
        it.work.mkdir()
        command = ["runc", "--root", str(host / "runc"), "checkpoint", "--image-path", str(it.images)]
        command += ["--work-path", str(it.work), plan.container_id]
        environment = criu.environment(folder)
        await run(["env", f"PATH={environment['PATH']}", *command])
        await container.wait()
        make_quick_to_restore(it.images)
        it.facts = await kernel_facts(criu, folder)
        yield it
    finally:
        await container.remove()
        await isolation.close()
        for group in it.cgroups:
            while group.is_dir():
                with contextlib.suppress(OSError):  # until the kernel has let go of the last process
                    group.rmdir()
                await asyncio.sleep(0)
            with contextlib.suppress(OSError):  # another test has one in there
                group.parent.rmdir()


def with_written(folder: Path, body: Callable[[Written], Awaitable[None]]) -> None:
    async def main() -> None:
        async with written(folder) as it:
            await body(it)

    asyncio.run(main())


def test_it_goes_on_where_it_was_as_often_as_wanted(tmp_path: Path) -> None:
    async def body(it: Written) -> None:
        for _ in range(3):
            async with it.restored() as container:
                assert "3\n" == await container.count()
                assert "4\n" == await container.count()
                assert str(container.pid) in it.processes()
                assert str(os.getpid()) == stat_fields(container.pid)[1]
                own, ours = (os.readlink(f"/proc/{who}/ns/cgroup") for who in (container.pid, "self"))
                assert own != ours

    with_written(tmp_path, body)


def test_it_waits_for_its_pages(tmp_path: Path) -> None:
    async def body(it: Written) -> None:
        pages = Pages()
        later = it.images / "later"
        (it.images / "pages-1.img").rename(later)
        (it.images / "pages-1.img").write_bytes(bytes(later.stat().st_size))

        async def unpack() -> None:
            await asyncio.wait_for(pages.wanted.wait(), TIMEOUT)
            later.replace(it.images / "pages-1.img")
            pages.set_result(None)

        unpacking = asyncio.ensure_future(unpack())
        async with it.restored(pages) as container:
            assert "3\n" == await container.count()
        await unpacking

    with_written(tmp_path, body)


def test_pages_that_do_not_come_end_it(tmp_path: Path) -> None:
    async def body(it: Written) -> None:
        pages: Future[None] = Future()
        pages.set_exception(SnapshotDamagedError("Snapshot abc is damaged."))

        with pytest.raises(SnapshotDamagedError, match="Snapshot abc is damaged"):
            async with it.restored(pages):
                pass

        assert [] == it.processes()
        async with it.restored() as container:
            assert "3\n" == await container.count()

    with_written(tmp_path, body)


def test_damaged_images_are_said_and_leave_nothing(tmp_path: Path) -> None:
    async def body(it: Written) -> None:
        (it.images / "pstree.img").write_bytes(b"nothing")

        with pytest.raises(CriuError, match=r"^CRIU could not restore the container: .*pstree.*\.$"):
            async with it.restored():
                pass

        assert [] == it.processes()

    with_written(tmp_path, body)


def test_a_file_that_is_not_there_any_more_is_named(tmp_path: Path) -> None:
    async def body(it: Written) -> None:
        config = it.bundle / "config.json"
        config.write_bytes(config.read_bytes().replace(b'"source":"/usr"', b'"source":"/nowhere"'))

        with pytest.raises(CriuError, match=r"/nowhere"):
            async with it.restored():
                pass

    with_written(tmp_path, body)


def test_a_restore_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    async def body(it: Written) -> None:
        pages = Pages()

        async def restore_for_ever() -> None:
            async with it.restored(pages):
                pass

        restoring = asyncio.ensure_future(restore_for_ever())
        await asyncio.wait_for(pages.wanted.wait(), TIMEOUT)
        assert it.processes()
        restoring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await restoring

        assert not pages.cancelled()
        assert [] == it.processes()

    with_written(tmp_path, body)
