"""Containers that are written, and go on where they were: here, elsewhere, or not at all."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
from concurrent.futures import Future
from pathlib import Path

import msgspec
import pytest
from workshop import Workshop, in_workshop, read_line
from written import Obedient, obedient, restored, write

from skylift.runtime.criu_dump import tree
from skylift.runtime.isolation import Bind, CheckpointError
from skylift.runtime.layer_archive import archive_layer, restore_layer
from skylift.runtime.process_notes import stat_fields
from skylift.runtime.runc.cgroups import Cgroups
from skylift.runtime.runc.checkpoint_files import WrittenContainer

pytestmark = [pytest.mark.slow, pytest.mark.root]

ISOLATED = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")

PREPARE = """
import contextlib, os, threading, time
variable = {"of": ["mine"]}
with open("/root/lines", "w") as file:
    file.write("one\\ntwo\\nthree\\n")
lines = open("/root/lines")
first = lines.readline()
os.makedirs("/tmp/work/here")
os.chdir("/tmp/work/here")
deleted = open("/tmp/deleted", "w+")
deleted.write("still here")
deleted.flush()
os.unlink("/tmp/deleted")
wanted, given = threading.Event(), []
def work():
    while wanted.wait():
        wanted.clear()
        given.append(threading.current_thread().name)
thread = threading.Thread(target=work, name="worker", daemon=True)
thread.start()
down, up = os.pipe(), os.pipe()
child = os.fork()
if not child:
    for each in os.listdir("/proc/self/fd"):
        if int(each) > 2 and int(each) not in (down[0], up[1]):
            with contextlib.suppress(OSError):
                os.close(int(each))
    while data := os.read(down[0], 100):
        os.write(up[1], data.upper())
    os._exit(3)
os.close(down[0])
answer = first
"""

LOOK = """
wanted.set()
while not given: time.sleep(0.01)
deleted.seek(0)
os.write(down[1], b"question")
answer = [
    variable, lines.readline(), os.getcwd(), deleted.read(), given, os.read(up[0], 100), thread.is_alive(),
]
"""
EXPECTED = [{"of": ["mine"]}, "two\n", "/tmp/work/here", "still here", ["worker"], b"QUESTION", True]


def test_it_goes_on_where_it_was(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop) as it:
            assert "'one\\n'" == await it.do(PREPARE)
            folder = await write(shop, it)
            await it.container.remove()
        async with restored(shop, folder) as it:
            assert repr(EXPECTED) == await it.do(LOOK)
            assert "None" == await it.do("print('still prints', flush=True)")
            assert "still prints\n" == await read_line(it.container.output[0])
            assert it.container.use().memory > 0
            await it.do("os.close(down[1]); answer = os.waitpid(child, 0)")
            again = await write(shop, it)  # and once more
        async with restored(shop, again) as it:
            assert "'three\\n'" == await it.do("answer = lines.readline()")
            await it.container.kill()
            assert 137 == (await it.container.wait()).code

    in_workshop(home, body)


def test_two_go_on_from_one_and_have_nothing_in_common(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop) as it:
            await it.do(PREPARE)
            folder = await write(shop, it)
        async with restored(shop, folder) as one, restored(shop, folder) as other:
            await one.do("variable['of'] = 'one'; open('/root/own', 'w').write('one')")
            look = "answer = variable, os.path.exists('/root/own')"
            assert "({'of': 'one'}, True)" == await one.do(look)
            assert "({'of': ['mine']}, False)" == await other.do(look)

    in_workshop(home, body)


def test_it_is_as_closed_in_as_before(home: Path, tmp_path: Path) -> None:
    """Mounts, capabilities, the filter of system calls, limits: the same before and after."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "file").write_text("text")
    look = """
import os, re
def status(name):
    return re.search(rf"^{name}:\\s*(.*)$", open("/proc/self/status").read(), re.M)[1]
def tried(path):
    try:
        open(path, "w")
    except OSError as error:
        return error.strerror
mounts = [line.split() for line in open("/proc/self/mountinfo")]
answer = (
    sorted((fields[4], fields[5], fields[fields.index("-") + 1]) for fields in mounts),
    [status(name) for name in ("CapBnd", "CapEff", "CapPrm", "NoNewPrivs", "Seccomp", "Seccomp_filters")],
    [tried(path) for path in ("/usr/bin/new", "/own/file", "/own/new", "/proc/sys/kernel/hostname")],
    sorted(os.readlink(f"/proc/self/ns/{kind}").split(":")[0] for kind in os.listdir("/proc/self/ns")),
    os.uname().nodename,
    open("/proc/1/oom_score_adj").read(),
)
"""

    async def body(shop: Workshop) -> None:
        binds = (Bind(own, "/own"),)
        host = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ISOLATED}
        async with obedient(shop, binds=binds) as it:
            before = await it.do(look)
            assert "Read-only file system" in before
            folder = await write(shop, it)
        async with restored(shop, folder, binds=binds, memory_limit=100, pids_limit=50) as it:
            assert before == await it.do(look)
            for kind in ISOLATED:
                assert host[kind] != os.readlink(f"/proc/{it.container.pid}/ns/{kind}")
            cgroups = shop.isolation._cgroups
            if cgroups is not None and cgroups.version == 1:
                folders = {path.parts[4]: path for path in cgroups.folders(it.plan.container_id)}
                assert "104857600\n" == (folders["memory"] / "memory.limit_in_bytes").read_text()
                assert "50\n" == (folders["pids"] / "pids.max").read_text()
                # What of CRIU was in there for a moment, ends.
                while cgroups.members(it.plan.container_id) != [it.container.pid]:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await it.do("data = bytearray(300_000_000)")
            status = await it.container.wait()
            assert status.oom

    in_workshop(home, body)


def test_its_binds_come_from_where_the_new_plan_says(home: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / "private" / name).mkdir(parents=True)
        (tmp_path / "private" / name / "text").write_text(name)
    (tmp_path / "private").chmod(0o700)
    (tmp_path / "private" / "other").chmod(0o700)

    async def body(shop: Workshop) -> None:
        async with obedient(shop, binds=(Bind(tmp_path / "private/one", "/own"),)) as it:
            assert "'one'" == await it.do("answer = open('/own/text').read()")
            folder = await write(shop, it)
        async with restored(shop, folder, binds=(Bind(tmp_path / "private/other", "/own"),)) as it:
            assert "'other'" == await it.do("answer = open('/own/text').read()")

        with pytest.raises(CheckpointError, match="mounted on /own in the written container is not there"):
            async with restored(shop, folder):
                pass
        more = (Bind(tmp_path / "private/one", "/own"), Bind(tmp_path / "private/one", "/more"))
        with pytest.raises(CheckpointError, match="/more was not mounted in the written container"):
            async with restored(shop, folder, binds=more):
                pass

    in_workshop(home, body)


@pytest.mark.parametrize("network", ["bridge", "none"])
def test_it_has_a_network_of_its_own_again(home: Path, network: str, upstream: tuple[str, int]) -> None:
    host, port = upstream

    async def body(shop: Workshop) -> None:
        async with obedient(shop) as it:
            await it.do("import socket")
            folder = await write(shop, it)
        async with restored(shop, folder) as it, restored(shop, folder) as other:
            await it.do("listener = socket.create_server(('127.0.0.1', 8080))")
            code = "answer = socket.gethostbyname(socket.gethostname())"
            addresses = [await each.do(code) for each in (it, other)]
            links = await it.do("answer = sorted(name for _, name in socket.if_nameindex())")
            local = "client = socket.create_connection(('127.0.0.1', 8080), 5); answer = client.getpeername()"
            assert "('127.0.0.1', 8080)" == await it.do(local)
            if network == "none":
                assert ["'127.0.1.1'"] * 2 == addresses
                assert "['lo']" == links
                return
            assert addresses[0] != addresses[1]
            assert "['eth0', 'lo']" == links
            code = f"answer = socket.create_connection(({host!r}, {port}), 5).recv(100).decode()"
            assert f"'{host.rpartition('.')[0]}.1'" == await it.do(code)

    in_workshop(home, body, network=network)


def test_a_blocked_network_stays_blocked(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop, block_network=True) as it:
            folder = await write(shop, it)
        async with restored(shop, folder, block_network=True) as it:
            look = "import socket; answer = sorted(name for _, name in socket.if_nameindex())"
            assert "['lo']" == await it.do(look)

    in_workshop(home, body)


def test_it_runs_on_after_it_was_written(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop) as it:
            await it.do(PREPARE)
            await write(shop, it)
            assert {"T"} == {stat_fields(pid)[0] for pid in tree(it.container.pid)}
            await it.container.resume()
            assert repr(EXPECTED) == await it.do(LOOK)

    in_workshop(home, body)


def test_what_was_stopped_before_stays_so(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop) as it:
            await it.do(PREPARE)
            await it.do("import signal; os.kill(child, signal.SIGSTOP); os.waitpid(child, os.WUNTRACED)")
            await write(shop, it)
            await it.container.resume()
            await it.do("answer = 1")
            first, child = tree(it.container.pid)
            assert "T" != stat_fields(first)[0]
            assert "T" == stat_fields(child)[0]

    in_workshop(home, body)


def test_writing_that_is_given_up_lets_it_run(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop) as it:
            await it.do(PREPARE)
            writing = asyncio.ensure_future(write(shop, it))
            log = shop.home / "written" / it.plan.container_id / "work" / "dump.log"
            while not log.exists():  # noqa: ASYNC110  (CRIU tells nobody)
                await asyncio.sleep(0)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            assert repr(EXPECTED) == await it.do(LOOK)

    in_workshop(home, body)


def test_a_container_that_has_ended_is_not_written(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop) as it:
            await it.container.kill()
            with pytest.raises(CheckpointError, match="it has ended"):
                await write(shop, it)

    in_workshop(home, body)


def test_several_layers_come_back(home: Path, tmp_path: Path) -> None:
    """As a forked container has them: its own upon its template's, mounted within its user namespace."""

    async def body(shop: Workshop) -> None:
        async with obedient(shop) as it:
            await it.do("import os; os.makedirs('/srv/hidden'); open('/root/own', 'w').close()")
            folder = await write(shop, it)
        below, own = tmp_path / "below", tmp_path / "own"
        for path in (below / "srv/hidden/file", below / "opt/below"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("below")
        for path in (below, *below.rglob("*")):
            os.chown(path, *shop.isolation._maps.owner)
        own.mkdir()
        await restore_layer(folder / "layer0.tar", own)
        os.setxattr(own / "srv/hidden", "user.overlay.opaque", b"y")
        for number, layer in enumerate((below, own)):
            await archive_layer(layer, folder / f"layer{number}.tar")
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != "container.json"}
        described = msgspec.structs.replace(read_container_unchecked(folder), layers=2, sizes=sizes)
        (folder / "container.json").write_bytes(msgspec.json.encode(described))
        look = "answer = [os.path.exists(path) for path in ('/opt/below', '/root/own', '/srv/hidden/file')]"
        async with restored(shop, folder) as it:
            assert "[True, True, False]" == await it.do(look)
            await it.do("open('/root/more', 'w').close(); os.unlink('/opt/below')")
            again = await write(shop, it)
        async with restored(shop, again) as it:
            assert "[False, True, False]" == await it.do(look)
            assert "True" == await it.do("answer = {'more', 'own'} <= {*os.listdir('/root')}")

    in_workshop(home, body)


def read_container_unchecked(folder: Path) -> WrittenContainer:
    return msgspec.json.decode((folder / "container.json").read_bytes(), type=WrittenContainer)


def test_an_open_connection_is_named_and_it_runs_on(home: Path, upstream: tuple[str, int]) -> None:
    host, port = upstream

    async def body(shop: Workshop) -> None:
        async with obedient(shop) as it:
            await it.do(PREPARE)
            await it.do(f"import socket; client = socket.create_connection(({host!r}, {port}), 5)")
            said = re.escape(
                f"cannot be written: It has an open TCP connection to {host}:{port}. Close it first."
            )
            with pytest.raises(CheckpointError, match=said):
                await write(shop, it)
            assert repr(EXPECTED) == await it.do(LOOK)
            await it.do("client.close()")
            await it.container.checkpoint(emptied(shop, it))
            await it.container.resume()
            await it.do("import socket; server = socket.create_server(('127.0.0.1', 8080))")
            await it.do("client = socket.create_connection(('127.0.0.1', 8080))")  # not accepted yet
            with pytest.raises(CheckpointError, match=r"open TCP connection to .*127\.0\.0\.1:8080"):
                await it.container.checkpoint(emptied(shop, it))

    in_workshop(home, body)


def test_a_listening_socket_is_named_where_criu_cannot_write_it(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop) as it:
            await it.do("import socket; server = socket.create_server(('127.0.0.1', 8080))")
            try:
                folder = await write(shop, it)
            except CheckpointError as error:
                assert "an open network socket at 127.0.0.1:8080, which this CRIU cannot" in str(error)  # noqa: PT017
                await it.do("server.close()")
                return
        async with restored(shop, folder) as it:
            await it.do("client = socket.create_connection(('127.0.0.1', 8080), 5)")

    in_workshop(home, body)


def test_a_connection_to_outside_by_a_unix_socket(home: Path, tmp_path: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop) as it:
            with socket.socket(socket.AF_UNIX) as connection:
                folder = os.open(it.told, os.O_RDONLY)
                connection.connect(f"/proc/self/fd/{folder}/socket")
                os.close(folder)
                while len(os.listdir(f"/proc/{it.container.pid}/fd")) < 5:  # noqa: ASYNC110  (until it accepts)
                    await asyncio.sleep(0)
                with pytest.raises(CheckpointError, match="Unix socket whose other end is outside"):
                    await write(shop, it)
            assert "2" == await it.do("answer = 1 + 1")

    in_workshop(home, body)


def test_images_that_are_cut_off_leave_nothing(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop) as it:
            await it.do(PREPARE)
            folder = await write(shop, it)
        if shop.isolation._sandboxes is not None:
            await shop.isolation._sandboxes.close()  # so that there is one interface for each container
        pages = next(path for path in folder.glob("pages-*.img"))
        size = pages.stat().st_size
        os.truncate(pages, size // 2)
        with pytest.raises(CheckpointError, match=r"damaged: pages-1.img has \d+ bytes instead of \d+"):
            async with restored(shop, folder):
                pass
        os.truncate(pages, size)
        core = folder / "core-1.img"
        core.write_bytes(bytes(core.stat().st_size))
        with pytest.raises(CheckpointError, match="could not be restored: CRIU could not restore the cont"):
            async with restored(shop, folder):
                pass
        archive = folder / "layer0.tar"
        archive.write_bytes(b"x" * archive.stat().st_size)
        with pytest.raises(CheckpointError, match="files could not be brought back"):
            async with restored(shop, folder):
                pass
        (folder / "container.json").unlink()
        with pytest.raises(CheckpointError, match="has no written container in it"):
            async with restored(shop, folder):
                pass
        assert traces(shop) == {"cgroups": set(), "interfaces": [], "mounts": [], "isolation": []}

    in_workshop(home, body)


def test_it_waits_for_its_pages_and_its_files(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop) as it:
            await it.do("import os; open('/root/large', 'wb').write(os.urandom(1_000_000))")
            await it.do("data = bytes(range(200)) * 9999")
            folder = await write(shop, it)
        large = {path: path.read_bytes() for path in folder.iterdir() if path.stat().st_size > 300_000}
        assert {"layer0.tar", "pages-1.img"} <= {path.name for path in large}
        for path, content in large.items():
            path.write_bytes(bytes(len(content)))
        pages: Future[None] = Future()

        async def unpack() -> None:
            for path, content in large.items():
                path.write_bytes(content)
            pages.set_result(None)

        unpacking = asyncio.ensure_future(unpack())
        async with restored(shop, folder, pages) as it:
            assert "(1000000, True)" == await it.do(
                "answer = os.path.getsize('/root/large'), data == bytes(range(200)) * 9999"
            )
        await unpacking

    in_workshop(home, body)


def test_without_criu_it_says_so(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        assert "/nowhere/criu" in shop.isolation.cannot_checkpoint
        async with obedient(shop) as it:
            with pytest.raises(CheckpointError, match="cannot be written"):
                await write(shop, it)
            assert "2" == await it.do("answer = 1 + 1")
        with pytest.raises(CheckpointError, match="/nowhere/criu"):
            async with restored(shop, home):
                pass

    in_workshop(home, body, criu="/nowhere/criu")


def emptied(shop: Workshop, it: Obedient) -> Path:
    """The folder that it is written to, empty again."""
    folder = shop.home / "written" / it.plan.container_id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def traces(shop: Workshop) -> dict[str, object]:
    """What is there of containers."""
    key = shop.isolation._key
    return {
        "cgroups": Cgroups.of_machine(key).containers(),
        "interfaces": [name for name in os.listdir("/sys/class/net") if name.startswith(f"v{key}")],
        "mounts": [
            line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(shop.home) in line
        ],
        "isolation": [*(shop.home / "host" / "containers").glob("*/isolation")],
    }
