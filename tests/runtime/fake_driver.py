"""Builds the fake NVML and runs Python with it: the real pynvml loads it as it loads NVIDIA's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

GIB = 1024**3
SOURCE = Path(__file__).parent / "fake_nvml.c"


def gpu(
    name: str, uuid: str, memory: float = 80, used: float = 0, utilisation: int = 0, mig: str = "-"
) -> str:
    """A line of ``$FAKE_NVML``; memory in GiB."""
    return f"{name}|{uuid}|{int(memory * GIB)}|{int(used * GIB)}|{utilisation}|{mig}"


class FakeDriver:
    """The library, compiled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(folder / "libnvidia-ml.so.1"), str(SOURCE)]
        subprocess.run(command, check=True)

    def env(self, *gpus: str) -> dict[str, str]:
        """The environment of a machine with these GPUs."""
        return {**os.environ, "LD_LIBRARY_PATH": str(self.folder), "FAKE_NVML": "\n".join(gpus)}

    def python(self, code: str, *gpus: str) -> str:
        """What the code prints on such a machine."""
        finished = subprocess.run(
            [sys.executable, "-c", code], env=self.env(*gpus), capture_output=True, text=True, check=False
        )
        assert "" == finished.stderr
        return finished.stdout
