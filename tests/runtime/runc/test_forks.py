"""What containers that are forked from one template share, and what each has for itself."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nursery import Child, Forks
from test_runc_network import CONNECT, outside_address
from workshop import PYTHON

from skylift.runtime.isolation import ContainerProcess, Fork, StartError

ROOT = Path(__file__).resolve().parents[3]

MEBIBYTE = 1 << 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers are forked by hosts that run as root"),
]

PREPARED = """
import os, random, ssl, uuid
import numpy.random
old, pid = random.Random(), os.getpid()
with open("/root/of-the-template", "w") as file: file.write("written at import")
with open("/tmp/of-the-template", "w") as file: file.write("written at import")
with open("/dev/shm/of-the-template", "w") as file: file.write("written at import")
os.environ["OF_THE_TEMPLATE"] = "set at import"
uuid.uuid1()
ssl.RAND_bytes(8)
numpy.random.random()
random.random()
"""


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    home = tmp_path_factory.mktemp("forks") / "skylift"
    home.mkdir(mode=0o700)
    modules = tmp_path_factory.mktemp("modules")
    (modules / "prepared.py").write_text(PREPARED)
    modules.chmod(0o755)
    more = ["torch"] if importlib.util.find_spec("torch") is not None else []
    made = Forks(home, modules, "prepared", *more)
    try:
        yield made
    finally:
        made.close()


def with_forks(forks: Forks, body: Callable[..., Awaitable[None]], count: int = 2, **plan: Any) -> None:
    """Run a test with so many forks, which are removed afterwards."""

    async def run() -> None:
        try:
            children = await asyncio.gather(*(forks.nursery.fork(**plan) for _ in range(count)))
            await body(*children)
        finally:
            await asyncio.gather(*(child.remove() for child in forks.nursery.children))
            forks.nursery.children.clear()

    forks.do(run())


# --- randomness ----------------------------------------------------------------------------------


def draw() -> dict[str, Any]:
    import random
    import secrets
    import ssl
    import sys
    import uuid

    import numpy as np

    drawn = {
        "random": random.random(),
        "random.SystemRandom": random.SystemRandom().random(),
        "a new random.Random": random.Random().random(),
        "numpy.random": float(np.random.random()),
        "a new Generator": float(np.random.default_rng().random()),
        "uuid1": str(uuid.uuid1()),
        "uuid4": str(uuid.uuid4()),
        "secrets": secrets.token_hex(),
        "os.urandom": os.urandom(16).hex(),
        "ssl": ssl.RAND_bytes(16).hex(),
    }
    if "torch" in sys.modules:
        import torch

        drawn["torch"] = float(torch.rand(1))
    return drawn


def test_no_two_forks_draw_the_same(forks: Forks) -> None:
    async def body(*children: Child) -> None:
        drawn = await asyncio.gather(*(child.ask(draw) for child in children))
        for source in drawn[0]:
            assert len({each[source] for each in drawn}) == len(children), source
        if importlib.util.find_spec("torch") is not None:
            assert "torch" in drawn[0]

    with_forks(forks, body, 3)


def draw_from_an_old_one() -> float:
    import prepared  # type: ignore[import-not-found]

    number: float = prepared.old.random()
    return number


def pids() -> tuple[int, int]:
    import prepared

    return os.getpid(), prepared.pid


def test_its_pid_is_not_the_templates(forks: Forks) -> None:
    """By which a library notices that it was forked: OpenSSL, of which packages bring their own copies."""

    async def body(child: Child) -> None:
        own, of_template = await child.ask(pids)
        assert own != of_template

    with_forks(forks, body, 1)


def test_generators_that_the_template_made_are_the_same_in_all_forks(forks: Forks) -> None:
    """As docs/templates.md says: nobody but their owner knows of them."""

    async def body(one: Child, other: Child) -> None:
        assert await one.ask(draw_from_an_old_one) == await other.ask(draw_from_an_old_one)

    with_forks(forks, body)


# --- files ---------------------------------------------------------------------------------------


def write(path: str, text: str = "mine") -> None:
    Path(path).write_text(text)


def read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        return type(error).__name__


def list_folder(path: str) -> list[str]:
    return sorted(os.listdir(path))


def test_what_one_writes_no_other_sees(forks: Forks) -> None:
    async def body(one: Child, other: Child) -> None:
        for path in ("/root/mine", "/tmp/mine", "/dev/shm/mine", "/etc/mine", "/root/of-the-template"):
            await one.ask(write, path)
            assert "mine" == await one.ask(read, path)
            assert "mine" != await other.ask(read, path), path
        later = await forks.nursery.fork()
        assert "FileNotFoundError" == await later.ask(read, "/root/mine")
        # The template's own, and what it wrote before.
        assert "written at import" == await later.ask(read, "/root/of-the-template")
        layer = forks.nursery.plan.folder / "isolation/upper"
        assert "written at import" == (layer / "root/of-the-template").read_text()
        assert not (layer / "root/mine").exists()

    with_forks(forks, body)


def test_temporary_files_and_shared_memory_begin_empty(forks: Forks) -> None:
    async def body(child: Child) -> None:
        # (But for what is mounted there: this checkout may be in /tmp.)
        mine = {ROOT.parts[2]} if ROOT.parts[1] == "tmp" else set()
        assert mine == set(await child.ask(list_folder, "/tmp"))
        assert [] == await child.ask(list_folder, "/dev/shm")
        assert ["runner.sock"] == await child.ask(list_folder, "/run/skylift")

    with_forks(forks, body, 1)


def walk_for(name: str) -> list[str]:
    return [folder for folder, _, names in os.walk("/", onerror=None) if name in names]


def test_nothing_is_seen_of_the_siblings_folders(forks: Forks) -> None:
    async def body(one: Child, other: Child) -> None:
        assert [] == await one.ask(list_folder, "/.skylift")
        await other.ask(write, "/root/a-secret-of-the-other")
        assert [] == await one.ask(walk_for, "a-secret-of-the-other")
        assert [] == await one.ask(walk_for, "template.sock")
        assert ["/run/skylift"] == await one.ask(walk_for, "runner.sock")

    with_forks(forks, body)


# --- who it is -----------------------------------------------------------------------------------


def look() -> dict[str, Any]:
    import socket

    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    return {
        "environment": dict(os.environ),
        "hostname": socket.gethostname(),
        "hosts": read("/etc/hosts"),
        "address": socket.gethostbyname(socket.gethostname()),
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "time": time.time(),
        "status": status,
        "descriptors": {
            name: os.readlink(f"/proc/self/fd/{name}").split(":")[0]
            for name in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{name}")
        },
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")},
        "capabilities of the first": read("/proc/1/status"),
        "name": read("/proc/self/comm").strip(),
        "cwd": os.getcwd(),
        "handlers": {number: str(signal.getsignal(number)) for number in (signal.SIGCHLD, signal.SIGPIPE)},
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    }


def test_its_environment_is_the_plans(forks: Forks) -> None:
    async def body(child: Child) -> None:
        env = (await child.ask(look))["environment"]
        assert "yes" == env.pop("ASKED_FOR")
        assert f"token of {child.id}" == env.pop("SKYLIFT_TOKEN")  # it came by the link
        assert not {"OF_THE_TEMPLATE", "SKYLIFT_TEMPLATE", "PYTHONPATH"} & set(env)
        assert {"HOME", "LANG", "PATH", "SKYLIFT_SOCKET", "USER"} <= set(env)

    with_forks(forks, body, 1, env={"ASKED_FOR": "yes"})


def test_its_names_addresses_and_namespaces_are_its_own(forks: Forks) -> None:
    async def body(one: Child, other: Child) -> None:
        seen = await asyncio.gather(one.ask(look), other.ask(look))
        assert ["a-name"] * 2 == [each["hostname"] for each in seen]
        assert 2 == len({each["address"] for each in seen})
        template = {
            name: os.readlink(f"/proc/{forks.nursery.process.pid}/ns/{name}")
            for name in ("cgroup", "ipc", "mnt", "net", "pid", "uts")
        }
        for name, of_template in template.items():
            assert 3 == len({of_template, *(each["namespaces"][name] for each in seen)}), name
        for each in seen:
            assert f"{each['address']} a-name\n" in each["hosts"]
            assert ["eth0", "lo"] == each["interfaces"]

    with_forks(forks, body, hostname="a-name")


def test_it_sees_no_process_but_its_own(forks: Forks) -> None:
    async def body(one: Child, _: Child) -> None:
        seen = await one.ask(look)
        assert [1, seen["pid"]] == seen["processes"]
        assert (1, 1) == (seen["parent"], seen["session"])

    with_forks(forks, body)


def test_it_is_an_ordinary_process(forks: Forks) -> None:
    async def body(child: Child) -> None:
        seen = await child.ask(look)
        assert abs(time.time() - seen["time"]) < 60
        assert os.path.basename(PYTHON)[:15] == seen["name"]
        assert "/root" == seen["cwd"]
        assert [] == seen["mask"]
        assert str(signal.SIG_DFL) == seen["handlers"][signal.SIGCHLD]
        links = sorted(seen["descriptors"].values())
        assert {"0": "/dev/null", "1": "pipe", "2": "pipe"}.items() <= seen["descriptors"].items()
        # Two connections to the host, and what the runner wakes itself with.
        assert 2 == links.count("socket"), links
        assert {"/dev/null", "pipe", "socket", "anon_inode"} >= set(links), links

    with_forks(forks, body, 1)


# --- what it cannot do ---------------------------------------------------------------------------


def system_calls() -> dict[str, str]:
    import ctypes
    import errno

    libc = ctypes.CDLL(None, use_errno=True)

    def said(result: int) -> str:
        return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]

    found = {
        "mount": said(libc.mount(b"/tmp", b"/tmp", None, 4096, None)),
        "umount2": said(libc.umount2(b"/proc", 2)),
        "sethostname": said(libc.sethostname(b"x", 1)),
        "chroot": said(libc.chroot(b"/tmp")),
        "capset": said(libc.capset((0x20080522).to_bytes(4, "little") + bytes(4), b"\xff" * 24)),
    }
    for name, flag in (("user", 0x10000000), ("pid", 0x20000000), ("net", 0x40000000), ("mnt", 0x20000)):
        found[f"unshare {name}"] = said(libc.unshare(flag))
    descriptor = os.open("/proc/1/ns/uts", os.O_RDONLY)
    found["setns"] = said(libc.setns(descriptor, 0))
    os.close(descriptor)
    return found


def test_it_has_no_privilege(forks: Forks) -> None:
    async def body(child: Child) -> None:
        seen = await child.ask(look)
        first = dict(line.split(":", 1) for line in seen["capabilities of the first"].splitlines())
        for status in (seen["status"], first):
            for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert "0" * 16 == status[kind].strip(), kind
            assert ("1", "2") == (status["NoNewPrivs"].strip(), status["Seccomp"].strip())
        calls = await child.ask(system_calls)
        assert dict.fromkeys(calls, "EPERM") == calls

    with_forks(forks, body, 1)


def connect(targets: list[tuple[str, str, int]]) -> dict[str, str]:
    import subprocess
    import sys

    command = [sys.executable, "-I", "-c", CONNECT, json.dumps(targets)]
    found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def listen() -> tuple[str, int]:
    import socket
    import threading

    server = socket.create_server(("0.0.0.0", 0))

    def serve() -> None:
        while True:
            server.accept()

    threading.Thread(target=serve, daemon=True).start()
    return socket.gethostbyname(socket.gethostname()), server.getsockname()[1]


def test_its_network_is_that_of_any_container(forks: Forks, upstream: tuple[str, int]) -> None:
    import socket

    async def body(one: Child, other: Child) -> None:
        address, port = await other.ask(listen)
        with socket.create_server(("0.0.0.0", 0)) as server:
            open_to_all = server.getsockname()[1]
            gateway = f"{address.rsplit('.', 1)[0]}.1"
            found = await one.ask(
                connect,
                [
                    ("upstream", *upstream),
                    ("the other", address, port),
                    ("the gateway", gateway, open_to_all),
                    ("the machine", outside_address(), open_to_all),
                    ("metadata", "169.254.169.254", 80),
                ],
            )
        assert {"upstream"} == {name for name, said in found.items() if said == "connected"}, found

    with_forks(forks, body)


def test_an_address_cannot_be_taken_from_another(forks: Forks, upstream: tuple[str, int]) -> None:
    """Not even by one that has not given up its privileges: then it could give its interface any address."""

    async def body(thief: Child, other: Child, cold: ContainerProcess) -> None:
        inside = ["nsenter", "--net", "--target"]
        for victim in (other.process.pid, cold.pid):
            address = address_of(victim)
            enter = [*inside, str(thief.process.pid), "--"]
            take = [*enter, "ip", "address", "add", f"{address}/22", "dev", "eth0"]
            await asyncio.to_thread(subprocess.run, take, check=True)
            claim = (
                "import socket, sys\n"
                f"socket.create_connection({upstream!r}, 2, source_address=({address!r}, 0)).recv(1)"
            )
            stolen = await asyncio.to_thread(
                subprocess.run, [*enter, PYTHON, "-c", claim], capture_output=True, text=True
            )
            assert stolen.returncode, address
            assert "Error" in stolen.stderr
            own = [*inside, str(victim), "--", PYTHON, "-c", claim]
            await asyncio.to_thread(subprocess.run, own, check=True)

    async def with_a_cold_one(*children: Child) -> None:
        cold = await forks.nursery.shop.start("sleep", "60")
        try:
            await body(*children, cold)
        finally:
            await cold.remove()

    with_forks(forks, with_a_cold_one)


def address_of(pid: int) -> str:
    """The IPv4 address of a process's ``eth0``."""
    show = ["nsenter", "--net", "--target", str(pid), "--", "ip", "-json", "-4", "address", "show", "eth0"]
    (link,) = json.loads(subprocess.run(show, capture_output=True, check=True).stdout)
    address: str = link["addr_info"][0]["local"]
    return address


def test_a_blocked_network_has_a_loopback_alone(forks: Forks) -> None:
    async def body(child: Child) -> None:
        seen = await child.ask(look)
        assert ["lo"] == seen["interfaces"]
        assert "127.0.1.1" == seen["address"]

    with_forks(forks, body, 1, block_network=True)


# --- limits and ends -----------------------------------------------------------------------------


def take_memory(size: int) -> int:
    return len(bytearray(b"x") * size)


def test_its_memory_is_limited(forks: Forks) -> None:
    async def body(one: Child, other: Child) -> None:
        assert 20 * MEBIBYTE == await one.ask(take_memory, 20 * MEBIBYTE)
        assert one.process.use().memory > 0
        one.tell(take_memory, 200 * MEBIBYTE)
        ended = await one.finish()
        forks.nursery.children.remove(one)
        assert (137, 9, True) == (ended.status.code, ended.status.signal, ended.status.oom)
        assert 64 * MEBIBYTE == ended.status.memory_limit
        assert 1 == await other.ask(take_memory, 1)
        assert not (await asyncio.wait_for(forks.nursery.fork(), 30)).gone.is_set()

    with_forks(forks, body, memory_limit=64)


def start_processes(count: int) -> int:
    import subprocess

    started: list[Any] = []
    try:
        for _ in range(count):
            started.append(subprocess.Popen(["sleep", "60"]))  # noqa: PERF401
    except OSError:
        return len(started)
    finally:
        for process in started:
            process.kill()
            process.wait()
    return count


def test_its_processes_are_limited(forks: Forks) -> None:
    async def body(one: Child, _: Child) -> None:
        assert 5 < await one.ask(start_processes, 40) < 20

    with_forks(forks, body, pids_limit=20)


def leave(code: int) -> None:
    os.write(1, b"straight to stdout\n")
    os.write(2, b"straight to stderr\n")
    os._exit(code)


def test_what_it_prints_and_how_it_ends(forks: Forks) -> None:
    async def body(one: Child, other: Child) -> None:
        one.tell(leave, 3)
        ended = await one.finish()
        assert (3, 0, False) == (ended.status.code, ended.status.signal, ended.status.oom)
        assert ("straight to stdout\n", "straight to stderr\n") == (ended.stdout, ended.stderr)
        other.tell(os.kill, 0, signal.SIGKILL)
        killed = await other.finish()
        assert (137, 9, False) == (killed.status.code, killed.status.signal, killed.status.oom)
        forks.nursery.children.clear()
        third = await forks.nursery.fork()
        await third.process.kill()
        status = await third.process.wait()
        assert (137, 9) == (status.code, status.signal)

    with_forks(forks, body)


def test_it_leaves_when_it_is_told_to(forks: Forks) -> None:
    async def body(child: Child) -> None:
        child.leave()
        ended = await child.finish()
        forks.nursery.children.clear()
        assert (0, "", "") == (ended.status.code, ended.stdout, ended.stderr)

    with_forks(forks, body, 1)


# --- forks that are made ahead --------------------------------------------------------------------


def test_a_fork_that_holds_begins_when_it_is_told(forks: Forks) -> None:
    async def look(child: Child, _fork: Fork) -> None:
        # All but its runner is there: it has not even looked for its host.
        assert not child.ready.is_set()
        assert not child.link.connected
        status = await asyncio.to_thread(Path(f"/proc/{child.process.pid}/status").read_text)
        assert "CapEff:\t0000000000000000" in status

    async def run() -> None:
        nursery = forks.nursery
        try:
            children = [await nursery.fork(held=look) for _ in range(2)]
            drawn = [await child.ask(draw) for child in children]
            assert [] == [name for name in drawn[0] if drawn[0][name] == drawn[1][name]]
            assert "token of " + children[0].id == await children[0].ask(token)
            # Nobody but its host has an end of what it was told by.
            assert [] == await children[0].ask(sockets_of_the_first_process)
        finally:
            await asyncio.gather(*(child.remove() for child in nursery.children))
            nursery.children.clear()

    forks.do(run())


def token() -> str:
    return os.environ["SKYLIFT_TOKEN"]


def sockets_of_the_first_process() -> list[str]:
    links = [os.readlink(f"/proc/1/fd/{name}") for name in os.listdir("/proc/1/fd")]
    return [link for link in links if link.startswith("socket:")]


def test_a_fork_that_nobody_needs_ends(forks: Forks) -> None:
    async def give_up(child: Child, fork: Fork) -> None:
        await fork.abandon()
        assert 0 == (await asyncio.wait_for(child.process.wait(), 30)).code
        with pytest.raises(StartError, match="the container that was forked ahead has ended"):
            fork.go()
        raise _GivenUpError

    async def run() -> None:
        nursery = forks.nursery
        try:
            with pytest.raises(_GivenUpError):
                await nursery.fork(held=give_up)
        finally:
            await asyncio.gather(*(child.remove() for child in nursery.children))
            nursery.children.clear()

    forks.do(run())


class _GivenUpError(Exception):
    pass
