"""Cgroups that are made without runc, for containers that it does not start (restored and forked ones).

The same that runc makes for the same limits: one in every tree, and in version 2 the controllers turned on
from the host's part of the tree down.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skylift.runtime.runc.cgroups import Cgroups
from skylift.runtime.runc.commands import CommandError

CONTROLLERS = ("cpu", "memory", "pids")
"""Those that limit something."""

DEVICES = (
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
)
"""What every container may use, as runc has it: null, zero, full, random, urandom, tty, and terminals."""


def make(cgroups: Cgroups, container_id: str, resources: Mapping[str, Any]) -> None:
    """Make a container's cgroups with the limits that `resources` (of `Cgroups.limits`) say.

    `Cgroups.remove` removes them. Raises `CommandError`; nothing is left of them then.
    """
    made: list[Path] = []
    try:
        for mount, folder in zip(cgroups.mounts, cgroups.folders(container_id), strict=True):
            folder.parent.mkdir(parents=True, exist_ok=True)
            if cgroups.version == 2 and not mount.controllers:
                _pass_controllers_on(cgroups.base_in(mount.path), folder.parent)
            folder.mkdir()
            made.append(folder)
            if "cpuset" in mount.controllers:
                _inherit_cpuset(mount.path, folder)
            if "devices" in mount.controllers:
                _limit_devices(folder, resources.get("devices", ()))
        limits = _version_1(resources) if cgroups.version == 1 else _version_2(resources)
        for controller, name, value in limits:
            folder = _folder_of(cgroups, container_id, controller)
            (folder / name).write_text(value, encoding="ascii")
    except BaseException as error:
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise CommandError(
                f"The cgroup of {container_id} cannot be made: {error.filename}: {error.strerror}."
            ) from error
        raise


def procs_files(cgroups: Cgroups, container_id: str) -> list[Path]:
    """The files that a process is moved into the container's cgroups with: one for each tree."""
    return [folder / "cgroup.procs" for folder in cgroups.folders(container_id)]


def entrances(cgroups: Cgroups, container_id: str) -> list[Path]:
    """The files into which a process of a single thread writes 0 to move into the container's cgroups.

    Version 1 has one for threads. To move a process the kernel first waits until nobody forks anywhere, which
    takes 10 ms and more; to move the thread that asks, it does not. The tree of version 2 that a hybrid
    system has besides limits nothing, so it is not worth that.
    """
    if cgroups.version == 2:
        return procs_files(cgroups, container_id)
    each = zip(cgroups.mounts, cgroups.folders(container_id), strict=True)
    return [folder / "tasks" for mount, folder in each if mount.controllers]


def _pass_controllers_on(base: Path, host: Path) -> None:
    """Turn the controllers on for what is in the host's cgroup."""
    for group in (base, host.parent, host):
        for controller in CONTROLLERS:
            # What cannot be turned on is noticed when its limit is written.
            with contextlib.suppress(OSError):
                (group / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")


def _inherit_cpuset(tree: Path, folder: Path) -> None:
    """Nothing can be moved into a cpuset that names no processors."""
    groups = [folder, *folder.parents]
    for group in reversed(groups[: groups.index(tree)]):
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not (group / name).read_text(encoding="ascii").strip():
                (group / name).write_text((group.parent / name).read_text(encoding="ascii"), encoding="ascii")


def _limit_devices(folder: Path, rules: Sequence[Mapping[str, Any]]) -> None:
    """Deny all, then allow what every container may use, and `rules` of the OCI configuration."""
    (folder / "devices.deny").write_text("a", encoding="ascii")
    for rule in DEVICES:
        (folder / "devices.allow").write_text(rule, encoding="ascii")
    for each in rules:
        if each.get("allow"):
            major, minor = (each.get(part, "*") for part in ("major", "minor"))
            rule = f"{each.get('type', 'a')} {major}:{minor} {each.get('access', 'rwm')}"
            (folder / "devices.allow").write_text(rule, encoding="ascii")


def _folder_of(cgroups: Cgroups, container_id: str, controller: str) -> Path:
    for mount, folder in zip(cgroups.mounts, cgroups.folders(container_id), strict=True):
        if (controller in mount.controllers) if cgroups.version == 1 else not mount.controllers:
            return folder
    raise CommandError(
        f"The cgroup of {container_id} cannot be made: the controller {controller} is not mounted."
    )


def _version_1(resources: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Controller, file and value of each limit, in the order in which they are written."""
    cpu, memory = resources.get("cpu", {}), resources.get("memory", {})
    limits = [("cpu", "cpu.shares", str(cpu["shares"]))] if "shares" in cpu else []
    if "quota" in cpu:
        limits += [
            ("cpu", "cpu.cfs_period_us", str(cpu["period"])),
            ("cpu", "cpu.cfs_quota_us", str(cpu["quota"])),
        ]
    if "limit" in memory:
        limits.append(("memory", "memory.limit_in_bytes", str(memory["limit"])))
    if "swap" in memory:  # never below the limit of memory alone, so after it
        limits.append(("memory", "memory.memsw.limit_in_bytes", str(memory["swap"])))
    if "pids" in resources:
        limits.append(("pids", "pids.max", str(resources["pids"]["limit"])))
    return limits


def _version_2(resources: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    cpu, memory = resources.get("cpu", {}), resources.get("memory", {})
    limits = []
    if "shares" in cpu:  # 2 to 262144 as 1 to 10000, as runc does it
        limits.append(("cpu", "cpu.weight", str(1 + (cpu["shares"] - 2) * 9999 // 262142)))
    if "quota" in cpu:
        limits.append(("cpu", "cpu.max", f"{cpu['quota']} {cpu['period']}"))
    if "limit" in memory:
        limits.append(("memory", "memory.max", str(memory["limit"])))
    if "swap" in memory:  # this counts swap alone
        limits.append(("memory", "memory.swap.max", str(memory["swap"] - memory["limit"])))
    if "pids" in resources:
        limits.append(("pids", "pids.max", str(resources["pids"]["limit"])))
    return limits
