"""A host whose driver and device files are fakes: containers with its GPUs are forked too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_driver import FakeDriver, gpu
from fake_gateway import FakeGateway
from host_process import HostProcess, session_spec

from skylift.wire import GpuRequest, TemplatesChanged

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers are forked by hosts that run as root"),
]

UUIDS = ("GPU-a", "GPU-b")
DEVICES = ("/dev/null", "/dev/zero")
LOOK = """
import os
print(sorted(name for name in os.listdir("/dev") if name.startswith("nvidia")))
print(os.environ["NVIDIA_VISIBLE_DEVICES"], os.environ.get("CUDA_VISIBLE_DEVICES"))
with open("/dev/" + next(name for name in os.listdir("/dev") if name.startswith("nvidia")), "rb") as file:
    print(file.read(2))
"""

START = """
import pathlib, runpy, sys
from skylift.runtime import cdi
cdi.FOLDERS = (pathlib.Path(sys.argv.pop(1)),)
runpy.run_module("skylift.runtime", run_name="__main__", alter_sys=True)
"""
"""A host that reads its CDI specifications elsewhere."""


class GpuHost(HostProcess):
    """A host on a machine with two H100."""

    def __init__(self, home: Path, driver: FakeDriver) -> None:
        super().__init__(home, '[host]\nisolation = "runc"\n')
        self._env = driver.env(*(gpu("NVIDIA H100 80GB HBM3", uuid) for uuid in UUIDS))
        self._cdi = home / "cdi"
        self._cdi.mkdir()
        devices = [
            {
                "name": uuid,
                "containerEdits": {"deviceNodes": [{"path": f"/dev/nvidia{at}", "hostPath": path}]},
            }
            for at, (uuid, path) in enumerate(zip(UUIDS, DEVICES, strict=True))
        ]
        content = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices}
        (self._cdi / "nvidia.json").write_text(json.dumps(content))

    def start(self) -> None:
        command = [sys.executable, "-c", START, str(self._cdi), "--home", str(self.home)]
        self.process = subprocess.Popen(
            [*command, "--log-level", "INFO"],
            cwd="/",
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


@pytest.fixture
def gateway(host_home: Path, tmp_path: Path) -> Iterator[FakeGateway]:
    host_home.mkdir(mode=0o700)
    gateway = FakeGateway(host_home)
    host = GpuHost(host_home, FakeDriver(tmp_path))
    try:
        host.start()
        gateway.wait_for(lambda: gateway.hellos, "a hello")
        yield gateway
    except BaseException:
        sys.stderr.write(host.log())
        raise
    finally:
        host.close()
        gateway.close()


def test_the_second_container_is_a_fork_and_sees_its_own_gpu(gateway: FakeGateway) -> None:
    facts = gateway.hellos[0].facts
    assert [("H100", uuid, False) for uuid in UUIDS] == [
        (each.model, each.uuid, each.simulated) for each in facts.gpus
    ]
    request = GpuRequest(model="H100")

    first = gateway.start(session_spec(), request)
    info = gateway.containers[first].info
    assert "cold" == info.path
    assert look(gateway, first) == seen(0)
    gateway.wait_for(lambda: "ready" in states(gateway), "a template")

    second = gateway.start(session_spec(), request)
    info = gateway.containers[second].info
    assert ("fork", "") == (info.path, info.path_reason)
    assert look(gateway, second) == seen(1)

    gateway.stop(first)
    gateway.exited(first)
    third = gateway.start(session_spec(), request)  # on the GPU that the first one had
    assert "fork" == gateway.containers[third].info.path
    assert look(gateway, third) == seen(0)

    gateway.stop(third)
    gateway.exited(third)
    without = gateway.start(session_spec())  # has another template: that one sees no GPU
    assert "cold" == gateway.containers[without].info.path


def look(gateway: FakeGateway, container_id: str) -> str:
    received = gateway.finish(gateway.cell(container_id, LOOK))
    return received.text("stdout")


def seen(number: int) -> str:
    content = b"" if number == 0 else bytes(2)
    return f"['nvidia{number}']\n{UUIDS[number]} None\n{content!r}\n"


def states(gateway: FakeGateway) -> set[str]:
    changes = gateway.of(TemplatesChanged)
    return {each.state for each in changes[-1].templates} if changes else set()
