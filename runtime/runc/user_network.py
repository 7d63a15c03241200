"""Containers behind a program that speaks for them with ordinary sockets (pasta or slirp4netns); needs no
root."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from asyncio.subprocess import Process
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from skylift.runtime.child_processes import ChildProcess
from skylift.runtime.process_notes import ProcessNotes
from skylift.runtime.runc.commands import CommandError, run, within
from skylift.runtime.runc.namespaces import NamespacesOf
from skylift.runtime.runc.networks import Attachment, Network

TUN = Path("/dev/net/tun")
NAME_SERVER = "10.0.2.3"
"""What both programs pass on to the machine's own resolver, also where that listens on a loopback."""

SLIRP_ADDRESS = "10.0.2.100"
METADATA = "169.254.0.0/16"
READY_TIMEOUT = 10.0
STOP_TIMEOUT = 2.0


class UserNetwork(Network):
    """One program for each container."""

    name = "user"
    name_server = NAME_SERVER

    def __init__(self, prefix: Sequence[str], folder: Path) -> None:
        """`prefix` runs a command in the keeper's user namespace; empty where the host is root. `folder` is
        for notes of the programs."""
        self._prefix = list(prefix)
        self._notes = ProcessNotes(folder)
        self._program: Literal["pasta", "slirp4netns"] = "pasta"

    async def start(self) -> None:
        for pid in self._notes.take_living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if shutil.which("pasta"):
            self._program = "pasta"
        elif shutil.which("slirp4netns"):
            self._program = "slirp4netns"
        else:
            raise CommandError("neither pasta (package passt) nor slirp4netns is installed.")
        check_tun()

    async def attach(self, namespaces: NamespacesOf) -> Attachment:
        start = self._start_pasta if self._program == "pasta" else self._start_slirp
        process = await start(namespaces)
        self._notes.write(str(process.pid), process.pid)
        try:
            inside = [*self._prefix, "nsenter", f"--net={namespaces.path('net')}"]
            if self._prefix:  # root of the keeper's namespace is root of the container's, and only there
                inside += [f"--user={namespaces.path('user')}", "--preserve-credentials"]
            inside.append("--")
            # A container cannot take the route away: it has no power over its own network.
            await run(
                [*inside, "ip", "-batch", "-"], given=f"link set lo up\nroute add prohibit {METADATA}\n"
            )
            found = await run([*inside, "ip", "-brief", "-4", "address", "show", "dev", "eth0"])
        except BaseException:
            _send(process, signal.SIGKILL)
            raise
        words = found.stdout.split()
        return _Program(process, self._notes, words[2].partition("/")[0] if len(words) > 2 else SLIRP_ADDRESS)

    async def close(self) -> None:
        self._notes.remove_folder()

    async def _start_pasta(self, namespaces: NamespacesOf) -> ChildProcess:
        """pasta goes into the background once it is ready, and its pid into a file."""
        with _pid_file() as pid_file:
            options = ["--config-net", "--quiet", "--ipv4-only", "--ns-ifname", "eth0", "--no-map-gw"]
            options += ["--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"]
            options += ["--dns-forward", NAME_SERVER, "--pid", str(pid_file), "--log-file", os.devnull]
            if os.geteuid() == 0:
                options += ["--runas", "0:0"]
            options += ["--userns", namespaces.path("user"), "--netns", namespaces.path("net")]
            await run(["pasta", *options])
            return ChildProcess(int(pid_file.read_text(encoding="ascii")))

    async def _start_slirp(self, namespaces: NamespacesOf) -> Process:
        """slirp4netns says on a descriptor that it is ready."""
        ready, told = os.pipe()
        options = ["--configure", "--mtu=65520", "--disable-host-loopback", f"--ready-fd={told}"]
        options += [f"--userns-path={namespaces.path('user')}", "--netns-type=path"]
        try:
            process = await asyncio.create_subprocess_exec(
                "slirp4netns",
                *options,
                namespaces.path("net"),
                "eth0",
                pass_fds=(told,),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            os.close(told)
            told = -1
            said = await within(asyncio.to_thread(os.read, ready, 1), READY_TIMEOUT)
        except OSError as error:
            raise CommandError(f"slirp4netns cannot be run: {error.strerror}.") from error
        except asyncio.TimeoutError:
            said = b""
        finally:
            os.close(ready)
            if told >= 0:
                os.close(told)
        if not said:
            _send(process, signal.SIGKILL)
            raise CommandError("slirp4netns did not start; run it by hand to see why.")
        return process


class _Program(Attachment):
    """The program that speaks for one container."""

    def __init__(self, process: ChildProcess | Process, notes: ProcessNotes, address: str) -> None:
        self._process = process
        self._notes = notes
        self.address = address

    async def close(self) -> None:
        _send(self._process, signal.SIGTERM)
        try:
            await within(self._process.wait(), STOP_TIMEOUT)
        except asyncio.TimeoutError:
            _send(self._process, signal.SIGKILL)
        self._notes.forget(str(self._process.pid))


def _send(process: ChildProcess | Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def check_tun() -> None:
    """Raise `CommandError` unless this user may make the interface that both programs need."""
    if not TUN.exists():
        raise CommandError(f"this kernel has no {TUN} (`modprobe tun` as root).")
    if not os.access(TUN, os.R_OK | os.W_OK):
        raise CommandError(f"this user may not open {TUN} (`chmod 666 {TUN}` as root).")


@contextlib.contextmanager
def _pid_file() -> Iterator[Path]:
    """A file for a program's pid that it can also write once it has given up being root."""
    with tempfile.TemporaryDirectory(prefix="skylift-pasta-") as folder:
        path = Path(folder, "pid")
        path.touch()
        if os.geteuid() == 0:
            Path(folder).chmod(0o711)
            path.chmod(0o666)
        yield path
