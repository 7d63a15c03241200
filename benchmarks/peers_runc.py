"""Plain runc and CRIU on this machine: a Python program in a container, started, written and restored.

The containers are what runc makes by itself of what Skylift's are: a user namespace and all the others, no
capabilities, the same filter of system calls, the same paths hidden. They have no network but a loopback, and
one overlay over the machine's files as their root.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.processes import ended_with_us
from skylift.runtime.criu import CriuMissingError, find_criu
from skylift.runtime.runc.config import MASKED_PATHS, READONLY_PATHS
from skylift.runtime.runc.seccomp import seccomp_filter

OWNER = 100_000
"""The user of the machine that is root in the containers."""
PATIENCE = 60.0
"""Seconds that a program may take to say something, and runc to do something."""

KINDS = ("pid", "mount", "ipc", "uts", "network", "cgroup", "user")
MOUNTS = (
    ("/proc", "proc", ["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/dev/shm", "tmpfs", ["nosuid", "noexec", "nodev", "mode=1777"]),
    ("/dev/mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
)


class RuncError(RuntimeError):
    """runc or CRIU failed, or the program in the container did. The message has what they said."""


class RuncProcess:
    """A program in a container, with pipes for what it reads and prints: CRIU refuses files."""

    def __init__(self, bundle: RuncBundle, command: list[str]) -> None:
        """`command` ends when the container runs, and leaves it to us."""
        self._bundle = bundle
        given, self._given = os.pipe()
        self._printed, printed = os.pipe()
        self._errors, errors = os.pipe()
        os.set_blocking(self._errors, False)
        self._runc = subprocess.Popen(
            bundle.command(command), stdin=given, stdout=printed, stderr=errors, env=bundle.environment
        )
        for end in (given, printed, errors):
            os.close(end)
        self._rest = b""

    def ask(self, line: str) -> None:
        """Give it a line to read."""
        os.write(self._given, f"{line}\n".encode())

    def answer(self) -> str:
        """The next line that it prints. Raises `RuncError` where it prints none."""
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._printed], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._printed, 65536) if ready else b""
            if not part:
                raise RuncError(f"{'it ended' if ready else 'nothing was printed'}: {self._said()}")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def started(self) -> None:
        """Wait until runc has left the container to itself."""
        if self._runc.wait(PATIENCE) != 0:
            raise RuncError(self._said())

    def close(self) -> None:
        """End it."""
        for end in (self._given, self._printed, self._errors):
            os.close(end)
        try:
            self._runc.wait(PATIENCE)
        finally:
            self._runc.kill()
            self._runc.wait()
            self._bundle.delete()

    def _said(self) -> str:
        own = b""
        with contextlib.suppress(BlockingIOError):
            own = os.read(self._errors, 65536)
        return f"{own.decode(errors='replace')}{self._bundle.said()}".strip() or "(it said nothing)"


class RuncBundle:
    """One program as a container, of which one runs at a time."""

    def __init__(self, folder: Path, program: str, keeper: int, environment: dict[str, str]) -> None:
        """`keeper` is a process in whose mount namespace the root is mounted."""
        self.folder = folder
        self.environment = environment
        self._keeper = keeper
        self.name = f"skylift-benchmark-{secrets.token_hex(6)}"
        root = folder / "root"
        (folder / "upper" / "program.py").write_text(program, encoding="utf-8")
        (folder / "config.json").write_text(json.dumps(configuration(root, self.name)))

    def command(self, arguments: list[str]) -> list[str]:
        """`runc` with arguments, where the root is mounted."""
        where = ["nsenter", f"--mount=/proc/{self._keeper}/ns/mnt", "--"]
        return [*where, "runc", "--root", str(self.folder / "runc"), *arguments]

    @contextlib.contextmanager
    def run(self) -> Iterator[RuncProcess]:
        """``runc run``."""
        with self._process(["run"]) as process:
            yield process

    @contextlib.contextmanager
    def restored(self) -> Iterator[RuncProcess]:
        """``runc restore`` of what `write` wrote, as often as wanted."""
        with self._process(["restore", *self._images()]) as process:
            yield process

    def write(self, process: RuncProcess) -> int:
        """``runc checkpoint``, which ends the container. Returns the bytes of memory that were written."""
        process.started()
        (self.folder / "work").mkdir()
        self._runc("checkpoint", *self._images(), self.name)
        return sum(path.stat().st_size for path in self.folder.glob("images/pages-*.img"))

    def delete(self) -> None:
        """End the container, where there is one."""
        self._runc("delete", "--force", self.name)

    @contextlib.contextmanager
    def _process(self, command: list[str]) -> Iterator[RuncProcess]:
        arguments = [*command, "--detach", "--bundle", str(self.folder), self.name]
        process = RuncProcess(self, arguments)
        try:
            yield process
        finally:
            process.close()

    def _images(self) -> list[str]:
        return ["--image-path", str(self.folder / "images"), "--work-path", str(self.folder / "work")]

    def _runc(self, *arguments: str) -> None:
        done = subprocess.run(
            self.command(list(arguments)),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if done.returncode != 0:
            raise RuncError(f"runc {arguments[0]}: {done.stderr.strip()[-2000:]}\n{self.said()}")

    def said(self) -> str:
        """The last lines of CRIU's logs."""
        lines = []
        for log in self.folder.glob("work/*.log"):
            lines += [line for line in log.read_text(errors="replace").splitlines() if "Error" in line]
        return "\n".join(lines[-15:])


def configuration(root: Path, name: str) -> dict[str, Any]:
    """What runc reads of a container that runs ``/program.py`` with this Python."""
    ids = [{"containerID": 0, "hostID": OWNER, "size": 65_536}]
    path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "ociVersion": "1.0.2",
        "hostname": "benchmark",
        "root": {"path": str(root), "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": [sys.executable, "-B", "/program.py"],
            "env": [f"PATH={path}", "HOME=/root", "LANG=C.UTF-8"],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "mounts": [
            {"destination": where, "type": kind, "source": kind, "options": options}
            for where, kind, options in MOUNTS
        ],
        "linux": {
            "uidMappings": ids,
            "gidMappings": ids,
            "namespaces": [{"type": kind} for kind in KINDS],
            "maskedPaths": MASKED_PATHS,
            "readonlyPaths": READONLY_PATHS,
            "seccomp": seccomp_filter(),
            "cgroupsPath": f"/{name}",
        },
    }


class RuncPeer:
    """Makes bundles, each with a mount namespace of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._count = 0

    def bundle(self, program: str) -> RuncBundle:
        """A container that runs a program: Python's text, which the standard streams belong to."""
        self._count += 1
        folder = self._folder / str(self._count)
        for name in ("root", "upper", "work-of-overlay", "runc", "images"):
            (folder / name).mkdir(parents=True)
        make_passable(folder / "upper")
        overlay = "lowerdir=/,upperdir=upper,workdir=work-of-overlay"
        script = 'cd "$1" && mount -t overlay overlay -o "$2" root && echo mounted && exec sleep infinity'
        keeper = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, "sh", str(folder), overlay],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert keeper.stdout is not None
        if keeper.stdout.readline() != b"mounted\n":
            raise RuncError("no overlay of / can be mounted here; is it an overlay or NFS itself?")
        return RuncBundle(folder, program, keeper.pid, self._environment)


def make_passable(upper: Path) -> None:
    """Let the container's root, who is nobody on the machine, pass to its Python: the folders on the way that
    only their owner may enter are opened in the container's layer, where they hide nothing."""
    os.chown(upper, OWNER, OWNER)
    prefixes = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    for folder in sorted(parent for prefix in prefixes for parent in prefix.parents):
        if folder.stat().st_dev != Path("/").stat().st_dev:
            raise RuncError(f"{folder} is not on the disk of /, so it is not in the container's overlay")
        ours = upper / folder.relative_to("/")
        if folder.stat().st_mode & 0o001 or ours.exists():
            continue
        ours.mkdir(mode=0o755, parents=True)
        os.chown(ours, OWNER, OWNER)


@contextlib.contextmanager
def runc_peer() -> Iterator[RuncPeer]:
    """Finds CRIU. Ends what was started and removes what was written. Raises SystemExit, saying what is
    missing."""
    if os.geteuid() != 0:
        raise SystemExit("This benchmark restores containers with CRIU, which needs root.")
    if shutil.which("runc") is None:
        raise SystemExit("This benchmark compares with runc, which is not installed: scripts/setup")
    try:
        criu = asyncio.run(find_criu(""))
    except CriuMissingError as error:
        raise SystemExit(f"This benchmark restores containers with CRIU. {error}") from error
    with tempfile.TemporaryDirectory(prefix="skylift-runc-") as name, ended_with_us():
        folder = Path(name)
        # runc's init passes through it as the container's root.
        folder.chmod(0o711)
        yield RuncPeer(folder, criu.environment(folder))
