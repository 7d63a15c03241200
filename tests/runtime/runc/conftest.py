from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A Skylift folder of this test's own."""
    folder = tmp_path / "skylift"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def upstream() -> Iterator[tuple[str, int]]:
    """A server beyond this machine: in a network namespace behind a pair of interfaces."""
    if os.geteuid() != 0:
        pytest.skip("makes a network namespace of the machine, which needs root")
    name = f"up{os.getpid()}"
    octet = os.getpid() % 250 + 1
    here, there = f"198.18.{octet}.1", f"198.18.{octet}.2"
    code = (
        "import socket, sys\n"
        f"server = socket.create_server(('{there}', 0))\n"
        "print(server.getsockname()[1], flush=True)\n"
        "while True:\n"
        "    connection, peer = server.accept()\n"
        "    connection.sendall(peer[0].encode())\n"
        "    connection.close()\n"
    )
    holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    server = None
    try:
        while os.readlink(f"/proc/{holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            pass
        subprocess.run(
            ["ip", "-batch", "-"],
            input=f"link add {name} type veth peer name eth0 netns {holder.pid}\n"
            f"addr add {here}/24 dev {name}\nlink set {name} up\n",
            text=True,
            check=True,
        )
        inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]
        subprocess.run(
            [*inside, "ip", "-batch", "-"],
            input=f"addr add {there}/24 dev eth0\nlink set eth0 up\nlink set lo up\n",
            text=True,
            check=True,
        )
        server = subprocess.Popen([*inside, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        yield there, int(server.stdout.readline())
    finally:
        for process in (server, holder):
            if process is not None:
                process.kill()
                process.communicate()
        subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)
