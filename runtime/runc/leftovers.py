"""What a host that crashed leaves behind: its containers, still running, and its names in the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import msgspec

from skylift.runtime.process_notes import started
from skylift.runtime.runc.bridge import bridge_keys, remove_bridge
from skylift.runtime.runc.cgroups import Cgroups
from skylift.runtime.runc.commands import CommandError, within
from skylift.runtime.runc.host_lock import HostLock

GONE_TIMEOUT = 5.0
"""Seconds that killed processes get to be gone."""


class _State(msgspec.Struct):
    """What runc writes of each container; of it, what says which process is its first."""

    init_process_pid: int = 0
    init_process_start: int = 0


async def kill_leftovers(state: Path, cgroups: Cgroups) -> None:
    """Kill the containers that runc's `state` folder and the host's cgroups still name, and remove the
    cgroups."""
    pidfds = []
    for path in list(state.glob("*/state.json")):  # noqa: ASYNC240  (a handful)
        with contextlib.suppress(OSError, msgspec.DecodeError):
            found = msgspec.json.decode(path.read_bytes(), type=_State)
            pidfds += _open_if_same(found.init_process_pid, found.init_process_start)
    for pidfd in pidfds:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    await asyncio.gather(*(_gone(pidfd) for pidfd in pidfds))
    if cgroups.usable:
        for container_id in cgroups.containers():
            await cgroups.remove(container_id)


async def remove_dead_hosts(cgroups: Cgroups) -> None:
    """Remove what hosts with other homes left in the kernel, where they are dead and nothing of theirs runs.

    Their homes may be gone, so nobody else will.
    """
    keys = cgroups.keys()
    with contextlib.suppress(CommandError):
        keys |= await bridge_keys()
    for key in keys - {cgroups.key}:
        lock, of_host = HostLock(key), cgroups.of_host(key)
        try:
            if lock.take() and not any(of_host.members(each) for each in of_host.containers()):
                for container_id in of_host.containers():
                    await of_host.remove(container_id)
                of_host.remove_parents()
                await remove_bridge(key)
        except (CommandError, OSError):
            continue  # what cannot be tidied for others does not keep this host from starting
        finally:
            lock.release()


def _open_if_same(pid: int, began: int) -> list[int]:
    """A pidfd of the process, if it is the one that began at that time (in clock ticks since boot)."""
    if pid <= 1:
        return []
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return []
    if started(pid) == str(began):
        return [pidfd]
    os.close(pidfd)
    return []


async def _gone(pidfd: int) -> None:
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pidfd, gone.set)
    try:
        with contextlib.suppress(asyncio.TimeoutError):
            await within(gone.wait(), GONE_TIMEOUT)
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
