"""Containers that are forked from a template (`runner/newborn.py` is the other half of this)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from skylift.runtime.image_tree import ImageTree
from skylift.runtime.isolation import Bind, ContainerPlan, ContainerProcess, Fork, StartError
from skylift.runtime.runc.bpf import seccomp_program
from skylift.runtime.runc.cgroups import Cgroups
from skylift.runtime.runc.commands import CommandError, within
from skylift.runtime.runc.config import MASKED_PATHS, READONLY_PATHS
from skylift.runtime.runc.container import close_quietly
from skylift.runtime.runc.mounts import make_mount_points
from skylift.runtime.runc.networks import Attachment
from skylift.runtime.runc.own_cgroups import entrances
from skylift.runtime.runc.template import CHILDREN
from skylift.runtime.template_link import memory_file

BIRTH_TIMEOUT = 15.0
"""Seconds. Fifty at once, on few cores, take a while."""

_CREDENTIALS = struct.Struct("iII")


class ForkParts(msgspec.Struct, frozen=True, kw_only=True):
    """What a fork is made of on this machine."""

    plan: ContainerPlan
    hold: bool
    binds: Sequence[Bind]
    env: Mapping[str, str]
    devices: Sequence[str]
    """Names in ``/dev``."""
    shm_size: int
    terminals: str
    cgroups: Cgroups | None
    network: Mapping[str, str] | None
    connect: Callable[[int], Awaitable[Attachment | None]]
    """Gives the network namespace of the process with that pid its interface."""
    finish: Callable[[ForkedProcess, tuple[int, int], Attachment | None], ContainerProcess]
    take_back: Callable[[], Awaitable[None]]
    """Removes what was made for it."""


class RuncFork(Fork):
    """See `Fork`."""

    def __init__(self, parts: ForkParts) -> None:
        self._parts = parts
        self._ear, mouth = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ear.setblocking(False)
        self._ear.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        self._output = (out, err)
        files = entrances(parts.cgroups, parts.plan.container_id) if parts.cgroups is not None else []
        self.descriptors: tuple[int, ...] = (
            out_end,
            err_end,
            *(os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in files),
            memory_file("seccomp", seccomp_program()),
            mouth.detach(),
        )
        self.request = {
            "fork": True,
            "hold": parts.hold,
            "env": dict(parts.env),
            "hostname": parts.plan.hostname,
            "workdir": parts.plan.image.workdir,
            "layer": f"{CHILDREN}/{parts.plan.folder.name}/isolation",
            "binds": [bind.target for bind in parts.binds if not _is_own(bind, parts.plan)],
            "run": f"{CHILDREN}/{parts.plan.folder.name}/run",
            "devices": list(parts.devices),
            "shm_size": parts.shm_size,
            "terminals": parts.terminals,
            "masked": MASKED_PATHS,
            "read_only": READONLY_PATHS,
            "network": parts.network,
            "cgroups": len(files),
            "seccomp": True,
        }
        self._over = False

    async def born(self, status: Awaitable[int]) -> ContainerProcess:
        self._close_descriptors()
        pid = 0
        attachment: Attachment | None = None
        try:
            pid = await within(self._heard(), BIRTH_TIMEOUT)
            process = ForkedProcess(pid, status)
            attachment = await self._parts.connect(pid)
            await asyncio.get_running_loop().sock_sendall(self._ear, b"go")
            await within(self._heard(), BIRTH_TIMEOUT)
        except BaseException as error:
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            reason = self._said() or str(error) or "it said nothing in time"
            if attachment is not None:
                await attachment.close()
            await self.abandon()
            if isinstance(error, CommandError | OSError | asyncio.TimeoutError):
                raise StartError(
                    f"Container {self._parts.plan.container_id} was not forked: {reason}"
                ) from error
            raise
        self._over = True
        if not self._parts.hold:
            self._ear.close()
        return self._parts.finish(process, self._output, attachment)

    def go(self) -> None:
        try:
            self._ear.send(b"go", socket.MSG_NOSIGNAL)
        except OSError as error:
            raise StartError("the container that was forked ahead has ended") from error
        finally:
            self._ear.close()

    async def abandon(self) -> None:
        self._ear.close()
        if not self._over:
            self._over = True
            self._close_descriptors()
            close_quietly(*self._output)
            await self._parts.take_back()

    def _close_descriptors(self) -> None:
        """Once: their numbers may be others' soon."""
        descriptors, self.descriptors = self.descriptors, ()
        close_quietly(*descriptors)

    async def _heard(self) -> int:
        """The pid of the forked process, once it says something: that its namespaces are there, and then that
        it is ready."""
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._ear.fileno(), readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._ear.fileno())
        data, ancillary, _, _ = self._ear.recvmsg(64, socket.CMSG_SPACE(_CREDENTIALS.size))
        for level, kind, content in ancillary:
            if data and level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                return int(_CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0])
        raise CommandError("it ended before it was set up.")

    def _said(self) -> str:
        os.set_blocking(self._output[1], False)
        with contextlib.suppress(OSError):
            said = os.read(self._output[1], 4096).decode(errors="replace").strip()
            return said.removeprefix("skylift: the container could not be set up: ")
        return ""


class ForkedProcess:
    """The first process of a forked container: a child of its template's, which tells how it ends."""

    def __init__(self, pid: int, status: Awaitable[int]) -> None:
        """Raises ProcessLookupError where there is no such process."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._status = asyncio.ensure_future(status)
        self._status.add_done_callback(lambda _: self._close())

    async def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        return await asyncio.shield(self._status)

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens where it has ended."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def make_layer(
    plan: ContainerPlan, address: str, binds: Iterable[Bind], skeleton: Path, owner: tuple[int, int]
) -> Path:
    """The folders of a forked container's overlay, below the template's; they are its root's. Raises OSError.

    Of the template's own files it sees all but ``/tmp``.
    """
    folder = plan.folder / "isolation"
    for name in ("", "root", "upper", "work", "upper/etc", "upper/tmp"):
        (folder / name).mkdir(mode=0o755, parents=True, exist_ok=True)
    names = f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{address} {plan.hostname}\n"
    (folder / "upper/etc/hosts").write_text(names, encoding="utf-8")
    (folder / "upper/etc/hostname").write_text(f"{plan.hostname}\n", encoding="utf-8")
    (folder / "upper/tmp").chmod(0o1777)
    os.setxattr(folder / "upper/tmp", "user.overlay.opaque", b"y")
    for path in (plan.folder, folder, *folder.rglob("*")):
        os.chown(path, *owner)
    hidden = [bind for bind in binds if bind.target.startswith("/tmp/")]  # noqa: S108
    make_mount_points(hidden, folder / "upper", ImageTree((skeleton,)), owner)
    return folder


def _is_own(bind: Bind, plan: ContainerPlan) -> bool:
    return bind.source.is_relative_to(plan.folder)
