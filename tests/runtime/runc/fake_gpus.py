"""GPUs that are not there, as a host's CDI specification has them, and what a driver says of them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import msgspec

from skylift.runtime.gpus import Gpu
from skylift.runtime.nvml import GpuSample

REAL = (
    Gpu(index=0, uuid="GPU-a", model="H100", memory=80 << 30),
    Gpu(index=1, uuid="GPU-b", model="H100", memory=80 << 30),
)


class FakeFacts(msgspec.Struct, frozen=True):
    """What NVML would say."""

    version: str = "570.86.15"
    used: int = 1 << 20
    """Bytes in use on each GPU."""

    def driver(self) -> str:
        return self.version

    def sample(self, uuid: str) -> GpuSample:
        return GpuSample(memory=self.used)


MAJOR = 195
"""NVIDIA's. Who may open its devices gets ENXIO where there is no driver, and who may not EPERM."""


def make_nodes(folder: Path) -> tuple[str, str]:
    """The device files of two GPUs."""
    paths = [folder / f"nvidia{number}" for number in (0, 1)]
    for number, path in enumerate(paths):
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(MAJOR, number))
        path.chmod(0o666)
    return str(paths[0]), str(paths[1])


def write_cdi(home: Path, nodes: tuple[str, str] = ("/dev/null", "/dev/zero"), **common: Any) -> None:
    """A specification whose GPUs are these device files of the machine's."""
    devices = [
        {
            "name": name,
            "containerEdits": {"deviceNodes": [{"path": f"/dev/nvidia{number}", "hostPath": host}]},
        }
        for number, (name, host) in enumerate(zip(("0", "GPU-b"), nodes, strict=True))
    ]
    content = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices, "containerEdits": common}
    (home / "cdi").mkdir()
    (home / "cdi" / "nvidia.json").write_text(json.dumps(content))
