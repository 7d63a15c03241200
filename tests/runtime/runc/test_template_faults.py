"""What templates and their forks do when something goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from nursery import Child, nursery
from workshop import TIMEOUT, Workshop, in_workshop

from skylift.runtime.isolation import ContainerPlan, StartError
from skylift.runtime.template_link import TemplateGoneError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers are forked by hosts that run as root"),
]

HERE = Path(__file__).parent


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A folder of modules that templates import from."""
    folder = tmp_path / "modules"
    folder.mkdir(mode=0o755)
    return folder


def pid() -> int:
    return os.getpid()


async def works(child: Child) -> bool:
    return 1 < await child.ask(pid)


# --- what its imports do -------------------------------------------------------------------------

IMPORTS = {
    "a thread": (
        (
            "import threading\n"
            "threading.Thread(target=threading.Event().wait, daemon=True, name='the watcher').start()"
        ),
        "the template started a thread (the watcher)",
    ),
    "threads of C code": (
        (
            "import ctypes, time\n"
            "libc, thread = ctypes.CDLL(None), ctypes.c_ulong()\n"
            "for _ in range(2):\n"
            "    libc.pthread_create(ctypes.byref(thread), None, libc.pause, None)\n"
        ),
        "the template started 2 threads (",
    ),
    "a process": (
        "import subprocess\nchild = subprocess.Popen(['sleep', '600'])",
        "the template started a process",
    ),
    "processes": (
        "import subprocess\nchildren = [subprocess.Popen(['sleep', '600']) for _ in range(2)]",
        "the template started 2 processes",
    ),
    "OpenBLAS": ("import numpy\nnumpy.ones((200, 200)) @ numpy.ones((200, 200))", ""),
    "a thread that has ended": (
        "import threading\nthread = threading.Thread(target=int)\nthread.start()\nthread.join()",
        "",
    ),
    "an exception": ("raise RuntimeError('not today')", ""),
}


@pytest.mark.parametrize("what", IMPORTS)
def test_what_imports_leave_running(home: Path, modules: Path, what: str) -> None:
    code, expected = IMPORTS[what]
    (modules / "imported.py").write_text(code)

    async def body(shop: Workshop) -> None:
        async with nursery(shop, modules) as made:
            prepared = await made.preload("imported")
            assert "" == prepared.problem
            assert prepared.unforkable.startswith(expected)
            assert bool(expected) == bool(prepared.unforkable)
            if not expected:
                assert await works(await made.fork())

    in_workshop(home, body, network="none")


def make_class() -> type:
    class Model:
        def load(self) -> None:
            self.loaded = "in the template"

        def fail(self) -> None:
            raise LookupError("no weights at /weights")

        def leave(self) -> None:
            raise SystemExit(3)

    return Model


@pytest.mark.parametrize(
    ("hook", "problem"),
    [("load", ""), ("fail", "LookupError: no weights at /weights"), ("leave", "SystemExit: 3")],
)
def test_a_hook_that_raises_is_named(home: Path, hook: str, problem: str) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    parts = {"parameters": {}, "enter_snap": [hook], "enter": [], "exit": [], "methods": []}
    code = cloudpickle.dumps({"__skylift_class__": 1, "cls": make_class(), **parts})

    async def body(shop: Workshop) -> None:
        async with nursery(shop) as made:
            prepared = await made.preload(code=("fu-1", code))
            assert (problem, "") == (prepared.problem, prepared.unforkable)

    in_workshop(home, body, network="none")


def test_an_event_loop_in_an_import_does_not_keep_ends_from_being_told(home: Path, modules: Path) -> None:
    (modules / "loops.py").write_text("import asyncio\nasyncio.run(asyncio.sleep(0))")

    async def body(shop: Workshop) -> None:
        async with nursery(shop, modules) as made:
            await made.preload("loops")
            child = await made.fork()
            await asyncio.wait_for(child.process.kill(), TIMEOUT)

    in_workshop(home, body, network="none")


# --- a template that ends ------------------------------------------------------------------------


def test_forks_end_with_their_template(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with nursery(shop) as made:
            await made.preload()
            children = [await made.fork() for _ in range(2)]
            await made.process.kill()
            for child in children:
                status = await asyncio.wait_for(child.process.wait(), TIMEOUT)
                assert (137, 9) == (status.code, status.signal)
            with pytest.raises(TemplateGoneError, match="the template ended with 137"):
                await made.fork()

    in_workshop(home, body)
    assert_nothing_left(home)


def test_a_template_that_is_killed_by_itself(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with nursery(shop) as made:
            await made.preload()
            child = await made.fork()
            (template,) = children_of(made.process.pid)
            os.kill(template, signal.SIGKILL)
            assert 137 == (await asyncio.wait_for(made.process.wait(), TIMEOUT)).code
            assert 137 == (await asyncio.wait_for(child.process.wait(), TIMEOUT)).code

    in_workshop(home, body, network="none")


# --- forks that fail -----------------------------------------------------------------------------


def test_no_room_for_another_process(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with nursery(shop) as made:
            await made.preload()
            limit = pids_limit_of(shop, made.plan)
            limit.write_text("2")
            with pytest.raises(OSError, match="cannot fork: Resource temporarily unavailable"):
                await made.fork()
            limit.write_text("100")
            assert await works(await made.fork())

    in_workshop(home, body)
    assert_nothing_left(home)


@pytest.mark.parametrize(
    ("lost", "reason"),
    [("isolation", "mount /.skylift/.*: No such file"), ("run", "mount .*/run/skylift: No such file")],
)
@pytest.mark.parametrize("block_network", [False, True])
def test_a_newborn_that_cannot_be_set_up(home: Path, lost: str, reason: str, block_network: bool) -> None:
    async def body(shop: Workshop) -> None:
        async with nursery(shop) as made:
            await made.preload()
            with pytest.raises(StartError, match=rf"Container co-\w+ was not forked: .*{reason}"):
                await made.fork(
                    spoil=lambda plan: shutil.rmtree(plan.folder / lost), block_network=block_network
                )
            assert [made.plan.container_id] == sorted(cgroups_of(shop).containers())
            assert [] == list((made.plan.folder / "children").glob("*/isolation"))
            assert await works(await made.fork(block_network=block_network))

    in_workshop(home, body)
    assert_nothing_left(home)


def test_a_newborn_that_is_killed_before_it_is_set_up(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with nursery(shop) as made:
            await made.preload()
            plan = made.child_plan()
            fork = await shop.isolation.fork(made.plan, plan)
            await made.link.fork(plan.container_id, fork.request, fork.descriptors)
            (template,) = children_of(made.process.pid)
            status = made.link.status(plan.container_id)
            for newborn in children_of(template):
                os.kill(newborn, signal.SIGKILL)
            with pytest.raises(StartError, match=rf"Container {plan.container_id} was not forked: "):
                await fork.born(status)
            assert -9 == await asyncio.wait_for(status, TIMEOUT)

    in_workshop(home, body)
    assert_nothing_left(home)


def test_a_fork_that_is_given_up(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with nursery(shop) as made:
            await made.preload()
            fork = await shop.isolation.fork(made.plan, made.child_plan())
            await fork.abandon()
            await fork.abandon()
            assert [made.plan.container_id] == sorted(cgroups_of(shop).containers())

    in_workshop(home, body)
    assert_nothing_left(home)


# --- many, and long ------------------------------------------------------------------------------


def test_fifty_at_once(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with nursery(shop) as made:
            await made.preload("json")
            children = await asyncio.gather(*(made.fork() for _ in range(50)))
            assert all(await asyncio.gather(*(works(child) for child in children)))

    in_workshop(home, body)
    assert_nothing_left(home)


def test_it_lets_go_and_comes_back(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with nursery(shop) as made:
            await made.preload()
            before = await made.fork()
            await asyncio.wait_for(made.link.release(), TIMEOUT)
            before.leave()  # its end is told when the connection is back
            await asyncio.wait_for(before.gone.wait(), TIMEOUT)
            with pytest.raises(TemplateGoneError, match="the template is not connected"):
                await made.link.fork("co-none", {}, [])
            made.link.listen()
            await asyncio.wait_for(made.link.came(), TIMEOUT)
            assert 0 == (await asyncio.wait_for(before.process.wait(), TIMEOUT)).code
            assert await works(await made.fork())

    in_workshop(home, body)


THOUSAND = 1000


def test_a_thousand_in_a_row_leave_nothing(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with nursery(shop) as made:
            await made.preload("json")
            (template,) = children_of(made.process.pid)

            async def some(count: int) -> None:
                for _ in range(count):
                    child = await made.fork()
                    await child.remove()
                    for descriptor in child.process.output:
                        os.close(descriptor)
                    shutil.rmtree(child.plan.folder)
                    made.children.remove(child)

            def seen() -> dict[str, Any]:
                return {
                    "descriptors": len(os.listdir("/proc/self/fd")),
                    "descriptors of the template": len(os.listdir(f"/proc/{template}/fd")),
                    "mounts": Path("/proc/self/mountinfo").read_text().count(str(home)),
                    "mounts of the template": len(
                        Path(f"/proc/{template}/mountinfo").read_text().splitlines()
                    ),
                    "children": children_of(template),
                    "cgroups": cgroups_of(shop).containers(),
                    "files": sorted(made.plan.folder.glob("children/*")),
                    "devices": [each for each in os.listdir("/sys/class/net") if shop.isolation._key in each],
                }

            await some(1)
            before = seen()
            # Side by side, as fast as two of them go.
            await asyncio.gather(*(some(THOUSAND // 4) for _ in range(4)))
            assert before == seen()

    in_workshop(home, body)
    assert_nothing_left(home)


# --- a host that dies ----------------------------------------------------------------------------

HOST = """
import asyncio, sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
from nursery import nursery
from workshop import in_workshop

async def body(shop):
    async with nursery(shop) as made:
        await made.preload()
        child = await made.fork()
        print(made.process.pid, child.process.pid, flush=True)
        await asyncio.sleep(60)

in_workshop(Path(sys.argv[2]), body)
"""


@pytest.fixture
def dead_host(home: Path) -> tuple[int, int]:
    """The pids of a template and of a container that was forked from it; their host was killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOST, str(HERE), str(home)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        template, child = map(int, process.stdout.readline().split())
    finally:
        process.kill()
        process.communicate()
    return template, child


def test_the_next_host_ends_what_a_dead_one_left(home: Path, dead_host: tuple[int, int]) -> None:
    pidfds = []
    for process in dead_host:
        with contextlib.suppress(ProcessLookupError):
            pidfds.append(os.pidfd_open(process))

    async def body(shop: Workshop) -> None:
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], 0)[0], "it still runs"
            os.close(pidfd)
        assert set() == cgroups_of(shop).containers()

    assert pidfds
    in_workshop(home, body)
    assert_nothing_left(home, folders=False)


# --- what is looked at ---------------------------------------------------------------------------


def children_of(process: int) -> list[int]:
    """The pids of its children."""
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def cgroups_of(shop: Workshop) -> Any:
    assert shop.isolation._cgroups is not None
    return shop.isolation._cgroups


def pids_limit_of(shop: Workshop, plan: ContainerPlan) -> Path:
    found = [folder / "pids.max" for folder in cgroups_of(shop).folders(plan.container_id)]
    (path,) = [each for each in found if each.exists()]
    return path


def assert_nothing_left(home: Path, *, folders: bool = True) -> None:
    """Once the host is closed, there is nothing in the kernel nor in its folders."""
    if folders:
        assert [] == list((home / "host/templates").glob("*/isolation"))
        assert [] == list((home / "host/templates").glob("*/children/*/isolation"))
    assert str(home) not in Path("/proc/self/mountinfo").read_text()
