"""A real host process for tests, and what its containers are made of."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import msgspec
from fake_gateway import FakeGateway

from skylift.wire import FunctionSpec, ImageSpec, MountSpec, machine_id

_TREE = Path(__file__).parents[2]


def local_image() -> ImageSpec:
    """The environment that the tests run in."""
    folders = {sys.prefix, sys.base_prefix, sysconfig.get_path("purelib"), str(_TREE)}
    return ImageSpec(
        kind="environment",
        machine=machine_id(),
        python=sys.executable,
        python_version=".".join(map(str, sys.version_info[:3])),
        mounts=tuple(MountSpec(path=folder) for folder in sorted(folders)),
        sys_path=(),
        fingerprint="tests",
    )


def spec(**changes: object) -> FunctionSpec:
    """A function's containers."""
    base = FunctionSpec(app="tests", name="work", image=local_image(), startup_timeout=60.0)
    return msgspec.structs.replace(base, **changes)


def session_spec(**changes: object) -> FunctionSpec:
    """A session's container."""
    return spec(name="notebook", session="se-00000001", session_name="train", **changes)


class HostProcess:
    """``python -m skylift.runtime`` with a gateway of ours."""

    def __init__(self, home: Path, config: str) -> None:
        self.home = home
        (home / "config.toml").write_text(config)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "skylift.runtime", "--home", str(self.home), "--log-level", "INFO"],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def terminate(self, timeout: float = 30.0) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.home / "host" / "host.log").read_text()
        return ""

    def close(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        try:
            self.terminate()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@contextlib.contextmanager
def running_host(home: Path, isolation: str, extra: str = "") -> Iterator[tuple[HostProcess, FakeGateway]]:
    """A host that has said hello to a gateway. Ends both."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    gateway = FakeGateway(home)
    config = f'[host]\nisolation = "{isolation}"\nsimulate_gpus = {{"H100" = 2}}\n{extra}'
    host = HostProcess(home, config)
    try:
        host.start()
        try:
            gateway.wait_for(lambda: gateway.hellos, "a hello")
            yield host, gateway
        except BaseException:
            sys.stderr.write(host.log())
            raise
    finally:
        gateway.reads.set()
        host.close()
        gateway.close()


def descendants(pid: int) -> set[int]:
    """Processes below this one."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            children = Path(f"/proc/{pid}/task/{task}/children").read_text()
            for child in map(int, children.split()):
                found |= {child} | descendants(child)
    return found
