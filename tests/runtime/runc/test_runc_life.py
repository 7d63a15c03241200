"""How containers start, end, are limited, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from workshop import PYTHON, Workshop, environment, in_workshop, read_line

from skylift.runtime.isolation import Bind, StartError
from skylift.runtime.runc import RuncIsolation
from skylift.runtime.runc.cgroups import Cgroups
from skylift.runtime.settings import HostSettings

pytestmark = pytest.mark.slow

ROOT = os.geteuid() == 0


def traces(shop: Workshop) -> dict[str, list[str]]:
    """What a host has on this machine: files, cgroups, mounts, interfaces, firewall rules, processes."""
    home, key = str(shop.home), shop.isolation._key
    found = {
        "containers": sorted(os.listdir(shop.home / "host" / "containers")),
        "state": sorted(os.listdir(shop.home / "host" / "runc")),
        "cgroups": sorted(Cgroups.of_machine(key).containers()),
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if home in line],
    }
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    found["interfaces"] = [line.split("@")[0] for line in links.splitlines() if line.startswith(f"v{key}")]
    return found


def all_traces(shop: Workshop) -> dict[str, list[str]]:
    """The same, and what containers share."""
    key = shop.isolation._key
    found = traces(shop)
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    found["interfaces"] += [line.split()[0] for line in links.splitlines() if key in line]
    if ROOT:
        rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
        found["rules"] = [line for line in rules.splitlines() if key in line]
    found["cgroups"] += sorted(Cgroups.of_machine(key).keys() & {key})
    return found


def test_output_and_exit_code(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        finished = await shop.run("sh", "-c", "echo out; echo err >&2; exit 7")
        assert ("out\n", "err\n") == (finished.stdout, finished.stderr)
        assert (7, 0, False) == (finished.status.code, finished.status.signal, finished.status.oom)

    in_workshop(home, body)


def test_a_signal_is_told_from_a_code(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        container = await shop.start("sh", "-c", "echo ready; exec sleep 600")
        assert "ready\n" == await read_line(container.output[0])
        os.kill(container.pid, signal.SIGKILL)
        status = await container.wait()
        assert (137, signal.SIGKILL) == (status.code, status.signal)

    in_workshop(home, body)


def test_kill_takes_every_process_and_is_idempotent(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        script = "sleep 601 & (setsid sleep 602 &) ; echo started; wait"
        container = await shop.start("sh", "-c", script)
        await read_line(container.output[0])
        await container.kill()
        await container.kill()
        assert signal.SIGKILL == (await container.wait()).signal
        await container.remove()
        await container.remove()
        assert not _has_descendant_named("sleep", "602")

    in_workshop(home, body)


def _has_descendant_named(*words: str) -> bool:
    wanted = [word.encode() for word in words]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().split(b"\0")[:-1] == wanted:
                return True
    return False


def test_several_tasks_may_wait_and_one_of_them_be_cancelled(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        container = await shop.start("cat", "/dev/zero", "-")
        first, second = asyncio.ensure_future(container.wait()), asyncio.ensure_future(container.wait())
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await container.kill()
        assert 137 == (await second).code

    in_workshop(home, body)


def test_the_image_is_there_at_its_own_path_and_readonly(home: Path, tmp_path: Path) -> None:
    notebook = tmp_path / "private" / "notebook"
    notebook.mkdir(parents=True)
    (tmp_path / "private").chmod(0o700)  # as /root is: a container's user cannot pass through it
    (notebook / "helper.py").write_text("ANSWER = 42")

    async def body(shop: Workshop) -> None:
        code = (
            f"import sys; sys.path.insert(0, {str(notebook)!r})\n"
            "import helper; print(helper.ANSWER, sys.prefix)\n"
            f"open({str(notebook / 'new')!r}, 'w')"
        )
        finished = await shop.python(code, image=environment(notebook))
        assert f"42 {sys.prefix}\n" == finished.stdout
        assert "Read-only file system" in finished.stderr
        assert ["helper.py"] == [each for each in os.listdir(notebook) if each != "__pycache__"]

    in_workshop(home, body)


def test_a_folder_that_only_its_owner_may_enter(home: Path, tmp_path: Path) -> None:
    notebook = tmp_path / "notebook"
    (notebook / "inner").mkdir(parents=True)
    (notebook / "inner" / "data").write_text("data")
    (notebook / "inner" / "data").chmod(0o600)
    (notebook / "inner").chmod(0o700)
    notebook.chmod(0o700)

    async def body(shop: Workshop) -> None:
        script = f"cat {notebook}/inner/data; stat -c ' %u %g' {notebook}/inner/data; touch {notebook}/new"
        for blocked in (False, True):
            image = environment(notebook)
            finished = await shop.run("sh", "-c", script, image=image, block_network=blocked)
            assert "data 0 0\n" == finished.stdout
            assert "Read-only file system" in finished.stderr
        assert ["inner"] == os.listdir(notebook)
        assert os.geteuid() == (notebook / "inner" / "data").stat().st_uid

    in_workshop(home, body)


def test_a_mount_point_below_home_leaves_home_writable(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()

    async def body(shop: Workshop) -> None:
        bind = Bind(source, "/root/.local/share/deep")
        script = "touch /root/.local/x /root/y /tmp/z && stat -c %a /root /tmp && ls /root/.local"
        finished = await shop.run("sh", "-c", script, binds=(bind,))
        assert ("700\n1777\nshare\nx\n", "") == (finished.stdout, finished.stderr)

    in_workshop(home, body)


def test_a_writable_bind_is_the_containers_to_write(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("old")

    async def body(shop: Workshop) -> None:
        bind = Bind(folder, "/run/skylift", writable=True)
        finished = await shop.run(
            "sh", "-c", "echo new >/run/skylift/file; echo >/run/skylift/other", binds=(bind,)
        )
        assert "" == finished.stderr
        assert "new\n" == (folder / "file").read_text()
        assert {"file", "other"} == set(os.listdir(folder))

    in_workshop(home, body)


def test_environment_and_hostname(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        finished = await shop.run(
            "sh",
            "-c",
            "echo $WHO $HOME; hostname; getent hosts $(hostname)",
            env={"WHO": "me"},
            hostname="train",
        )
        lines = finished.stdout.splitlines()
        assert ["me /root", "train"] == lines[:2]
        assert lines[2].endswith("train")

    in_workshop(home, body)


@pytest.mark.skipif(not ROOT, reason="limits need cgroups, which this user may not make")
def test_out_of_memory_is_told_with_limit_and_peak(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        finished = await shop.python("x = bytearray(256 << 20)", memory_limit=64)
        status = finished.status
        assert (True, 137, signal.SIGKILL) == (status.oom, status.code, status.signal)
        assert 64 << 20 == status.memory_limit
        assert 60 << 20 < status.peak_memory <= 64 << 20

    in_workshop(home, body)


@pytest.mark.skipif(not ROOT, reason="limits need cgroups, which this user may not make")
def test_the_oom_of_a_child_is_told_too(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        child = "subprocess.call([sys.executable, '-c', 'bytearray(256 << 20)'])"
        code = f"import subprocess, sys; sys.exit({child} == -9)"
        finished = await shop.python(code, memory_limit=64)
        assert (1, True) == (finished.status.code, finished.status.oom)

    in_workshop(home, body)


@pytest.mark.skipif(not ROOT, reason="limits need cgroups, which this user may not make")
def test_processes_are_limited(home: Path) -> None:
    code = """
import subprocess
running = []
try:
    for _ in range(40):
        running.append(subprocess.Popen(["sleep", "60"]))
except BlockingIOError:
    print(len(running))
"""

    async def body(shop: Workshop) -> None:
        finished = await shop.python(code, pids_limit=20)
        assert "19\n" == finished.stdout

    in_workshop(home, body)


@pytest.mark.skipif(not ROOT, reason="limits need cgroups, which this user may not make")
def test_cpu_is_limited_and_use_is_measured(home: Path) -> None:
    code = """
import time
began, used = time.monotonic(), time.process_time()
while time.process_time() - used < 0.2: pass
print(time.monotonic() - began > 0.5)
"""

    async def body(shop: Workshop) -> None:
        container = await shop.start(PYTHON, "-I", "-c", code + "input()", cpu_limit=0.25)
        assert "True\n" == await read_line(container.output[0])
        finished = await shop.finish(container)  # its stdin is empty
        assert finished.status.code
        use = container.use()
        assert 0.2 <= use.cpu_seconds < 5
        assert 0 < use.peak_memory < 200 << 20

    in_workshop(home, body)


def test_a_command_that_is_not_there(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        with pytest.raises(
            StartError, match=r"Container co-\w+ could not be started: .*no-such-program"
        ) as caught:
            await shop.start("no-such-program")
        assert "InternalFailure" == caught.value.error
        found = traces(shop)
        assert [] == found["state"] == found["cgroups"]

    in_workshop(home, body)


def test_a_start_that_is_cancelled_leaves_nothing(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        for wait in (0.0, 0.01, 0.02):
            starting = asyncio.ensure_future(shop.isolation.create(shop.plan("sleep", "603")))
            await asyncio.sleep(wait)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        found = traces(shop)
        assert [] == found["state"] == found["cgroups"] == found["mounts"]
        assert not _has_descendant_named("sleep", "603")

    in_workshop(home, body)


def test_nothing_is_left_after_fifty_containers(home: Path) -> None:
    async def one(shop: Workshop, number: int) -> None:
        container = await shop.start("sh", "-c", f"echo {number}", block_network=number % 2 == 0)
        finished = await shop.finish(container)
        assert f"{number}\n" == finished.stdout
        (shop.home / "host" / "containers" / "gone").mkdir(exist_ok=True)

    async def body(shop: Workshop) -> Workshop:
        descriptors = len(os.listdir("/proc/self/fd"))
        for first in range(0, 50, 5):
            await asyncio.gather(*(one(shop, number) for number in range(first, first + 5)))
        await shop.isolation._sandboxes._refilling  # type: ignore[union-attr,misc]
        found = traces(shop)
        assert [] == found["state"] == found["cgroups"] == found["mounts"]
        assert len(found["interfaces"]) <= 2 + 1  # those that are kept ready
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 2 * 3
        for folder in (shop.home / "host" / "containers").iterdir():
            assert not (folder / "isolation").exists()
        return shop

    shop = in_workshop(home, body)
    found = all_traces(shop)
    del found["containers"]
    assert {name: [] for name in found} == found
    with pytest.raises(ChildProcessError):  # no child of ours is left, dead or alive
        os.waitpid(-1, os.WNOHANG)


CRASH = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from workshop import Workshop

async def main():
    shop = Workshop(Path(sys.argv[1]))
    await shop.isolation.adopt()
    pids = [(await shop.start("sleep", "604", block_network=blocked)).pid for blocked in (True, False)]
    print(*pids, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def test_what_a_crashed_host_left_is_removed_by_the_next(home: Path) -> None:
    crashed = subprocess.run(
        [sys.executable, "-c", CRASH, str(home), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    pids = [int(word) for word in crashed.stdout.split()]
    assert (2, "") == (len(pids), crashed.stderr)
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)

    async def body(shop: Workshop) -> Workshop:
        found = traces(shop)
        assert [] == found["state"] == found["cgroups"] == found["mounts"]
        assert not any(_runs(pid, "604") for pid in pids)
        return shop

    shop = in_workshop(home, body)
    found = all_traces(shop)
    del found["containers"]
    assert {name: [] for name in found} == found


def _runs(pid: int, word: str) -> bool:
    try:
        return word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def test_a_missing_runc_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    isolation = RuncIsolation(HostSettings(), home / "host")
    with pytest.raises(
        StartError, match=r"runc is not installed\..*skylift\.runtime\.doctor.*isolates nothing"
    ):
        asyncio.run(isolation.adopt())


def test_create_before_adopt_is_refused(home: Path) -> None:
    shop = Workshop(home)
    with pytest.raises(StartError, match="has not been set up"):
        asyncio.run(shop.isolation.create(shop.plan("true")))


def test_without_an_overlay_the_root_is_a_copy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skylift.runtime.runc import roots

    monkeypatch.setattr(roots, "OVERLAY", "exit 1 #")

    async def body(shop: Workshop) -> None:
        finished = await shop.run(
            "sh", "-c", "cat /etc/hostname; echo x >/etc/new; ls -ld /root | cut -c1-10"
        )
        assert ("skylift\ndrwx------\n", "") == (finished.stdout, finished.stderr)

    in_workshop(home, body)
