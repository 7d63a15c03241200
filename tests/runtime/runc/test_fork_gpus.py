"""Forked containers with GPUs: the template sees all of the host's, each fork its own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_gpus import REAL, make_nodes, write_cdi
from nursery import nursery
from workshop import Workshop, in_workshop

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes device files, and forks containers"),
]


def look() -> dict[str, object]:
    """What a container sees of GPUs."""
    import os
    import pathlib

    opened = {}
    for name in sorted(os.listdir("/dev")):
        if name.startswith("nvidia"):
            try:
                os.close(os.open(f"/dev/{name}", os.O_RDWR))
                opened[name] = 0
            except OSError as error:
                opened[name] = error.errno or 0
    names = ("DRIVER", "NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    library = pathlib.Path("/opt/driver/libcuda.so.1")
    return {
        "opened": opened,
        "env": {name: os.environ[name] for name in names if name in os.environ},
        "library": library.read_text() if library.exists() else "",
    }


def test_a_fork_has_its_own_gpus_and_no_others(home: Path, tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path)
    library = tmp_path / "libcuda.so.1"
    library.write_text("library")
    mount = {"hostPath": str(library), "containerPath": "/opt/driver/libcuda.so.1", "options": ["ro"]}
    write_cdi(home, nodes, env=["DRIVER=yes"], mounts=[mount])

    async def body(shop: Workshop) -> None:
        async with nursery(shop, gpus=REAL) as made:
            await made.preload("json")
            seen = os.listdir(f"/proc/{made.process.pid}/root/dev")
            assert {"nvidia0", "nvidia1"} <= {*seen}
            one, other, both = [await made.fork(gpus=gpus) for gpus in (REAL[:1], REAL[1:], REAL)]
            for child, names, uuids in (
                (one, ["nvidia0"], "GPU-a"),
                (other, ["nvidia1"], "GPU-b"),
                (both, ["nvidia0", "nvidia1"], "GPU-a,GPU-b"),
            ):
                assert {
                    "opened": dict.fromkeys(names, errno.ENXIO),
                    "env": {"DRIVER": "yes", "NVIDIA_VISIBLE_DEVICES": uuids},
                    "library": "library",
                } == await child.ask(look)
            cgroups = shop.isolation._cgroups
            if cgroups is not None and cgroups.version == 1:
                each = zip(cgroups.mounts, cgroups.folders(other.id), strict=True)
                folder = next(folder for mount, folder in each if "devices" in mount.controllers)
                assert [errno.EPERM, errno.ENXIO] == [tried_within(folder, node) for node in nodes]

    in_workshop(home, body)


def test_a_fork_without_a_gpu_of_a_template_that_sees_them(home: Path, tmp_path: Path) -> None:
    write_cdi(home, make_nodes(tmp_path))

    async def body(shop: Workshop) -> None:
        async with nursery(shop, gpus=REAL) as made:
            child = await made.fork()
            env = {"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": ""}
            assert {"opened": {}, "env": env, "library": ""} == await child.ask(look)

    in_workshop(home, body)


def tried_within(cgroup: Path, node: str) -> int:
    """What becomes of opening a device file in a cgroup."""
    code = f"""
import os
with open({str(cgroup / "tasks")!r}, "w") as file: file.write("0")
try: os.open({node!r}, os.O_RDWR)
except OSError as error: print(error.errno)
"""
    return int(subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True).stdout)
