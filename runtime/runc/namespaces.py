"""Namespaces that are made before a container and joined by it.

A process that does nothing holds them open until the container runs. It waits for the end of its input,
which the host holds: so it ends when it is told to, and also when the host dies.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path

from skylift.runtime.runc.commands import CommandError, run, within
from skylift.runtime.runc.id_map import Extent, IdMaps

READY_TIMEOUT = 10.0
"""Seconds."""


class NamespacesOf:
    """The namespaces of a process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def path(self, kind: str) -> str:
        """The namespace as a file; `kind` is ``"user"``, ``"net"``, ..."""
        return f"/proc/{self.pid}/ns/{kind}"


class HeldNamespaces(NamespacesOf):
    """New namespaces and the process that holds them open."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.pid)
        self._process = process

    async def close(self) -> None:
        """Let go; the namespaces live on where something else is in them. Idempotent."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()


async def hold(flags: Sequence[str], prefix: Sequence[str] = ()) -> HeldNamespaces:
    """Make the namespaces that `flags` of ``unshare`` say; `prefix` is put before the command.

    Raises `CommandError`.
    """
    command = [*prefix, "unshare", *flags, "sh", "-c", "echo && exec cat"]
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    except FileNotFoundError as error:
        raise CommandError(f"{command[0]} is not installed.") from error
    assert process.stdout is not None
    namespaces = HeldNamespaces(process)
    try:
        line = await within(process.stdout.readline(), READY_TIMEOUT)
    except asyncio.TimeoutError:
        line = b""
    except BaseException:
        await namespaces.close()
        raise
    if not line:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        _, said = await process.communicate()
        raise CommandError(f"{' '.join(command)}: {said.decode(errors='replace').strip() or 'no answer'}")
    return namespaces


class Keeper:
    """A user namespace in which an ordinary user's host is root; runc and what goes with it run in there."""

    def __init__(self, namespaces: HeldNamespaces) -> None:
        self._namespaces = namespaces
        self.prefix = ["nsenter", f"--user={namespaces.path('user')}", "--preserve-credentials", "--"]
        """Put before a command, runs it as root of the namespace."""

    @classmethod
    async def start(cls, maps: IdMaps) -> Keeper:
        """Raises `CommandError`: where the kernel forbids it, ``unshare`` says so."""
        namespaces = await hold(["--user"])
        try:
            if maps.single:
                await _map_self(namespaces.pid, maps)
            else:
                await run(["newuidmap", str(namespaces.pid), *_arguments(maps.keeper_users)])
                await run(["newgidmap", str(namespaces.pid), *_arguments(maps.keeper_groups)])
        except BaseException:
            await namespaces.close()
            raise
        return cls(namespaces)

    async def close(self) -> None:
        """Idempotent. Containers live on."""
        await self._namespaces.close()


async def hold_container_namespaces(
    maps: IdMaps, prefix: Sequence[str], flags: Sequence[str] = ("--user", "--net")
) -> HeldNamespaces:
    """A user namespace with a container's maps, and a network namespace that belongs to it.

    The kernel lets a container mount its own sysfs only where its user namespace owns its network
    namespace, so they are made together. Raises `CommandError`.
    """
    namespaces = await hold(flags, prefix)
    try:
        users = "".join(extent.line() for extent in maps.users)
        groups = "".join(extent.line() for extent in maps.groups)
        if prefix:
            script = 'printf %s "$1" >"/proc/$3/uid_map" && printf %s "$2" >"/proc/$3/gid_map"'
            await run([*prefix, "sh", "-c", script, "sh", users, groups, str(namespaces.pid)])
        else:
            folder = Path("/proc", str(namespaces.pid))
            (folder / "uid_map").write_text(users)
            (folder / "gid_map").write_text(groups)
    except OSError as error:
        await namespaces.close()
        raise CommandError(f"Cannot map user ids {users.strip()}: {error.strerror}.") from error
    except BaseException:
        await namespaces.close()
        raise
    return namespaces


async def _map_self(pid: int, maps: IdMaps) -> None:
    folder = Path("/proc", str(pid))
    try:
        (folder / "setgroups").write_text("deny")
        (folder / "uid_map").write_text("".join(extent.line() for extent in maps.keeper_users))
        (folder / "gid_map").write_text("".join(extent.line() for extent in maps.keeper_groups))
    except OSError as error:
        raise CommandError(f"Cannot map this user into a user namespace: {error.strerror}.") from error


def _arguments(extents: Sequence[Extent]) -> list[str]:
    return [str(number) for extent in extents for number in (extent.inside, extent.outside, extent.size)]
