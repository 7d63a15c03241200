"""Cgroups made without runc: the same that runc makes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from skylift.runtime.runc import own_cgroups
from skylift.runtime.runc.cgroups import CgroupMount, Cgroups
from skylift.runtime.runc.commands import CommandError

LIMITS = {"cpu": 0.5, "cpu_limit": 2.0, "memory_limit": 1 << 24, "pids_limit": 10}


def test_version_2(tmp_path: Path) -> None:
    slice_folder = tmp_path / "user.slice"
    (slice_folder / "skylift").mkdir(parents=True)
    (slice_folder / "skylift/memory.swap.max").touch()
    cgroups = Cgroups([CgroupMount(tmp_path, ())], "key", base="/user.slice")
    resources = {**cgroups.limits(**LIMITS), "memory": {"limit": 1 << 24, "swap": 1 << 24}}  # type: ignore[arg-type]

    own_cgroups.make(cgroups, "co-1", resources)

    folder = slice_folder / "skylift/key/co-1"
    assert {
        "cpu.weight": "20",
        "cpu.max": "200000 100000",
        "memory.max": "16777216",
        "memory.swap.max": "0",
        "pids.max": "10",
    } == {path.name: path.read_text() for path in folder.iterdir()}
    for group in (slice_folder, slice_folder / "skylift", slice_folder / "skylift/key"):
        assert "+pids" == (group / "cgroup.subtree_control").read_text()  # the last of three
    assert not (tmp_path / "cgroup.subtree_control").exists()
    assert [folder / "cgroup.procs"] == own_cgroups.procs_files(cgroups, "co-1")
    assert [folder / "cgroup.procs"] == own_cgroups.entrances(cgroups, "co-1")


def test_a_thread_of_version_1_moves_itself(tmp_path: Path) -> None:
    mounts = [CgroupMount(tmp_path / "memory", ("memory",)), CgroupMount(tmp_path / "unified", ())]
    cgroups = Cgroups(mounts, "key")

    assert [tmp_path / "memory/skylift/key/co-1/tasks"] == own_cgroups.entrances(cgroups, "co-1")


def test_a_controller_that_is_not_there_is_named(tmp_path: Path) -> None:
    cgroups = Cgroups([CgroupMount(tmp_path / "memory", ("memory",))], "key")

    with pytest.raises(CommandError, match=r"cgroup of co-1 cannot .* pids is not mounted"):
        own_cgroups.make(cgroups, "co-1", {"pids": {"limit": 10}})

    assert not (tmp_path / "memory/skylift/key/co-1").exists()


@pytest.mark.root
def test_real_ones() -> None:
    cgroups = Cgroups.of_machine(f"test{os.getpid()}")
    if not cgroups.usable:
        pytest.skip("No cgroups here.")

    async def body() -> None:
        resources = cgroups.limits(**LIMITS)  # type: ignore[arg-type]
        own_cgroups.make(cgroups, "co-1", resources)
        try:
            process = await asyncio.create_subprocess_exec(
                *("sh", "-c", 'for each; do echo 0 >"$each" || exit; done; echo; exec cat', "sh"),
                *map(str, own_cgroups.procs_files(cgroups, "co-1")),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            assert b"\n" == await process.stdout.readline()
            for path in own_cgroups.procs_files(cgroups, "co-1"):
                assert str(process.pid) in path.read_text().split()
            if cgroups.version == 1:
                folders = {
                    name: folder
                    for mount, folder in zip(cgroups.mounts, cgroups.folders("co-1"), strict=True)
                    for name in mount.controllers
                }
                assert "512\n" == (folders["cpu"] / "cpu.shares").read_text()
                assert "200000\n" == (folders["cpu"] / "cpu.cfs_quota_us").read_text()
                assert "16777216\n" == (folders["memory"] / "memory.limit_in_bytes").read_text()
                assert "16777216\n" == (folders["memory"] / "memory.memsw.limit_in_bytes").read_text()
                assert "10\n" == (folders["pids"] / "pids.max").read_text()
                assert "c 1:3 rwm" in (folders["devices"] / "devices.list").read_text()
                assert "a *:* rwm" not in (folders["devices"] / "devices.list").read_text()
            await process.communicate(b"")
        finally:
            assert [] == await cgroups.remove("co-1")
            cgroups.remove_parents()

    asyncio.run(body())
