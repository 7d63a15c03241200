"""What dead hosts with other homes have left."""

from __future__ import annotations

import asyncio
import os
import subprocess

import pytest

from skylift.runtime.runc.bridge import BridgeNetwork, bridge_keys, remove_bridge
from skylift.runtime.runc.cgroups import Cgroups
from skylift.runtime.runc.host_lock import HostLock
from skylift.runtime.runc.leftovers import remove_dead_hosts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root leaves names in the kernel"),
]


def rules(key: str) -> list[str]:
    saved = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    return [line for line in saved.splitlines() if key in line]


def test_a_dead_hosts_bridge_goes_and_a_living_ones_stays() -> None:
    dead, living = f"{os.getpid():07x}d", f"{os.getpid():07x}e"
    lock, life = HostLock(living), HostLock(dead)
    assert lock.take()
    assert life.take()  # or else another test's host tidies up too early

    async def run() -> None:
        for key in (dead, living):
            await BridgeNetwork("10.214.0.0/16", key).start()
        try:
            cgroups = Cgroups.of_machine(dead)
            for mount in cgroups.mounts:
                (mount.path / "skylift" / dead / "co-1").mkdir(parents=True)
            life.release()
            await remove_dead_hosts(Cgroups.of_machine("mine"))
            # Another test's host may have begun with it before, and is at it.
            while dead in await bridge_keys() or rules(dead) or dead in cgroups.keys():  # noqa: ASYNC110, SIM118
                await asyncio.sleep(0.02)
            assert {living} == {dead, living} & await bridge_keys()
            assert rules(living)
            assert dead not in cgroups.keys()  # noqa: SIM118
        finally:
            for key in (dead, living):
                await remove_bridge(key)

    try:
        asyncio.run(run())
    finally:
        lock.release()
        life.release()
    assert [] == rules(living)


def test_what_still_runs_is_left_alone() -> None:
    key = f"{os.getpid():07x}f"
    cgroups = Cgroups.of_machine(key)
    life = HostLock(key)
    assert life.take()
    sleeper = subprocess.Popen(["sleep", "608"])
    try:
        for mount in cgroups.mounts:
            if mount.controllers == ("pids",) or not mount.controllers:
                folder = mount.path / "skylift" / key / "co-1"
                folder.mkdir(parents=True)
                (folder / "cgroup.procs").write_text(str(sleeper.pid))
                break
        life.release()
        asyncio.run(remove_dead_hosts(Cgroups.of_machine("mine")))
        assert [sleeper.pid] == cgroups.members("co-1")
        assert None is sleeper.poll()
    finally:
        life.release()
        sleeper.kill()
        sleeper.wait()
        assert [] == asyncio.run(cgroups.remove("co-1"))
        cgroups.remove_parents()
