from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from skylift.runtime.isolation import ResourceUse
from skylift.runtime.runc import cgroups as module
from skylift.runtime.runc.cgroups import CgroupMount, Cgroups, read_mounts

V1 = """\
22 1 0:20 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
23 22 0:21 / {root}/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
24 22 0:22 / {root}/memory rw,relatime - cgroup cgroup rw,memory
25 22 0:23 / {root}/pids rw,relatime - cgroup cgroup rw,pids
26 22 0:24 / {root}/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
27 22 0:25 / {root}/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""
V2 = "30 1 0:30 / {root} rw,nosuid,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def mounted(tmp_path: Path, mountinfo: str) -> list[CgroupMount]:
    (tmp_path / "mountinfo").write_text(mountinfo.format(root=tmp_path / "cgroup"))
    return read_mounts(tmp_path / "mountinfo")


@pytest.fixture
def v1(tmp_path: Path) -> Cgroups:
    tree(
        tmp_path / "cgroup",
        {
            "memory/memory.memsw.limit_in_bytes": "9223372036854771712\n",
            "memory/skylift/key/co-1/memory.usage_in_bytes": "3000\n",
            "memory/skylift/key/co-1/memory.stat": "cache 900\ntotal_inactive_file 500\n",
            "memory/skylift/key/co-1/memory.max_usage_in_bytes": "5000\n",
            "memory/skylift/key/co-1/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            "memory/skylift/key/co-1/cgroup.procs": "7\n9\n",
            "cpu,cpuacct/skylift/key/co-1/cpuacct.usage": "1500000000\n",
            "cpu,cpuacct/skylift/key/co-1/cgroup.procs": "9\n11\n0\n",
        },
    )
    return Cgroups(mounted(tmp_path, V1), "key")


@pytest.fixture
def v2(tmp_path: Path) -> Cgroups:
    tree(
        tmp_path / "cgroup",
        {
            "skylift/memory.swap.max": "max\n",
            "skylift/key/co-1/memory.current": "3000\n",
            "skylift/key/co-1/memory.peak": "5000\n",
            "skylift/key/co-1/memory.stat": "anon 2000\ninactive_file 500\n",
            "skylift/key/co-1/memory.events": "low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\noom_group_kill 0\n",
            "skylift/key/co-1/cpu.stat": "usage_usec 1500000\nuser_usec 1\n",
            "skylift/key/co-1/cgroup.procs": "7\n",
        },
    )
    return Cgroups(mounted(tmp_path, V2), "key")


def test_mounts_of_a_hybrid_system(tmp_path: Path) -> None:
    found = {mount.path.name: mount.controllers for mount in mounted(tmp_path, V1)}
    assert {
        "cpu,cpuacct": ("cpu", "cpuacct"),
        "memory": ("memory",),
        "pids": ("pids",),
        "systemd": ("xattr", "name=systemd"),
        "unified": (),
    } == found


def test_figures_of_version_1(v1: Cgroups) -> None:
    assert 1 == v1.version
    assert ResourceUse(cpu_seconds=1.5, memory=2500, peak_memory=5000) == v1.use("co-1")
    assert 2 == v1.oom_kills("co-1")
    assert [7, 9, 11] == v1.members("co-1")
    assert {"co-1"} == v1.containers()


def test_figures_of_version_2(v2: Cgroups) -> None:
    assert 2 == v2.version
    assert ResourceUse(cpu_seconds=1.5, memory=2500, peak_memory=5000) == v2.use("co-1")
    assert 1 == v2.oom_kills("co-1")
    assert [7] == v2.members("co-1")
    assert ({"co-1"}, {"key"}) == (v2.containers(), v2.keys())


def test_version_2_before_it_had_a_peak(v2: Cgroups, tmp_path: Path) -> None:
    (tmp_path / "cgroup/skylift/key/co-1/memory.peak").unlink()
    assert ResourceUse(cpu_seconds=1.5, memory=2500, peak_memory=3000) == v2.use("co-1")


def test_a_container_that_is_gone(v1: Cgroups, v2: Cgroups) -> None:
    for cgroups in (v1, v2):
        assert None is cgroups.use("co-gone")
        assert 0 == cgroups.oom_kills("co-gone")
        assert [] == cgroups.members("co-gone")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_limits_leave_no_swap(version: str, request: pytest.FixtureRequest) -> None:
    cgroups: Cgroups = request.getfixturevalue(version)
    found = cgroups.limits(cpu=0.5, cpu_limit=2.0, memory_limit=1 << 20, pids_limit=10)
    assert {
        "cpu": {"shares": 512, "quota": 200_000, "period": 100_000},
        "pids": {"limit": 10},
        "memory": {"limit": 1 << 20, "swap": 1 << 20},
    } == found


def test_limits_that_are_not_set(v1: Cgroups, tmp_path: Path) -> None:
    expected: dict[str, Any] = {"cpu": {"shares": 2}, "pids": {"limit": 10}}
    assert expected == v1.limits(cpu=0.0, cpu_limit=None, memory_limit=0, pids_limit=10)
    (tmp_path / "cgroup/memory/memory.memsw.limit_in_bytes").unlink()  # a kernel that does not count swap
    expected["memory"] = {"limit": 4096}
    assert expected == v1.limits(cpu=0.0, cpu_limit=None, memory_limit=4096, pids_limit=10)


def test_an_ordinary_user_has_what_is_delegated_to_it(tmp_path: Path) -> None:
    mounts = mounted(tmp_path, V2)
    own = tmp_path / "own"
    own.write_text("0::/user.slice/app.slice/run-1.scope\n")
    slice_folder = tmp_path / "cgroup/user.slice/app.slice"
    tree(slice_folder, {"cgroup.controllers": "cpu memory pids\n", "cgroup.procs": ""})
    assert "/user.slice/app.slice" == module._delegated(mounts, own)
    cgroups = Cgroups(mounts, "key", base="/user.slice/app.slice")
    assert "/user.slice/app.slice/skylift/key/co-1" == cgroups.path_in_tree("co-1")
    (slice_folder / "cgroup.controllers").write_text("cpu\n")
    assert None is module._delegated(mounts, own)


def test_an_ordinary_user_has_none_of_version_1(tmp_path: Path) -> None:
    assert None is module._delegated(mounted(tmp_path, V1), tmp_path / "own")


@pytest.mark.root
def test_removal_of_real_cgroups() -> None:
    key = f"test{os.getpid()}"
    cgroups = Cgroups.of_machine(key)
    if os.geteuid() == 0:
        for mount in cgroups.mounts:
            (mount.path / "skylift" / key / "co-1" / "inner").mkdir(parents=True)
        assert {"co-1"} == cgroups.containers()
        assert [] == asyncio.run(cgroups.remove("co-1"))
        assert set() == cgroups.containers()
        cgroups.remove_parents()
        assert {key} - cgroups.keys()
