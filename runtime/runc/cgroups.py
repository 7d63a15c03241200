"""The cgroups of a host's containers: where they are, what they used, and their removal.

runc makes them and writes their limits. Version 1 (a tree for each controller) and version 2 (one tree)
differ in where figures are; a hybrid system has both, and the controllers in the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from skylift.runtime.isolation import ResourceUse

PARENT = "skylift"
CPU_PERIOD = 100_000
"""Microseconds."""
REMOVE_TRIES = 100
REMOVE_PAUSE = 0.01
"""Seconds. A cgroup cannot be removed until the kernel has let go of its last process; nothing tells when."""


class CgroupMount(msgspec.Struct, frozen=True):
    """One mounted tree."""

    path: Path
    controllers: tuple[str, ...]
    """Of version 1; empty for version 2."""


class Cgroups:
    """The cgroups of one host: ``skylift/KEY/CONTAINER`` in every tree."""

    def __init__(
        self, mounts: Sequence[CgroupMount], key: str, *, base: str = "", usable: bool = True
    ) -> None:
        """`base` is the cgroup below which ours are (version 2, where only a part is delegated to us)."""
        self.mounts = tuple(mounts)
        self.usable = usable
        """Whether containers can be limited and measured at all."""
        self.key = key
        self._base = base
        self._group = f"{base.rstrip('/')}/{PARENT}/{key}"
        by_controller = {name: mount.path for mount in mounts for name in mount.controllers}
        unified = next((mount.path for mount in mounts if not mount.controllers), None)
        self.version: Literal[1, 2] = 1 if "memory" in by_controller or unified is None else 2
        self._memory = by_controller.get("memory") if self.version == 1 else unified
        self._cpu = by_controller.get("cpuacct") if self.version == 1 else unified

    @classmethod
    def of_machine(cls, key: str, mountinfo: Path = Path("/proc/self/mountinfo")) -> Cgroups:
        """Those of this machine, as this process may use them."""
        mounts = read_mounts(mountinfo)
        if os.geteuid() == 0:
            return cls(mounts, key, usable=any(os.access(mount.path, os.W_OK) for mount in mounts))
        base = _delegated(mounts, Path("/proc/self/cgroup"))
        return cls(mounts, key, base=base or "", usable=base is not None)

    def path_in_tree(self, container_id: str) -> str:
        """What the OCI configuration calls ``cgroupsPath``."""
        return f"{self._group}/{container_id}"

    def folders(self, container_id: str) -> list[Path]:
        """Its cgroup in each of the `mounts`."""
        return [self._in(mount.path, container_id) for mount in self.mounts]

    def base_in(self, tree: Path) -> Path:
        """The cgroup below which ours are."""
        return tree / self._base.lstrip("/")

    def limits(
        self, *, cpu: float, cpu_limit: float | None, memory_limit: int, pids_limit: int
    ) -> dict[str, object]:
        """What the OCI configuration calls ``resources``. `memory_limit` in bytes; 0 is none."""
        processor: dict[str, int] = {"shares": min(max(int(cpu * 1024), 2), 262_144)}
        if cpu_limit is not None:
            processor |= {"quota": max(int(cpu_limit * CPU_PERIOD), 1000), "period": CPU_PERIOD}
        resources: dict[str, object] = {"cpu": processor, "pids": {"limit": pids_limit}}
        if memory_limit:
            memory = {"limit": memory_limit}
            if self._swap_is_counted():
                memory["swap"] = memory_limit  # memory and swap together: so none of it is swap
            resources["memory"] = memory
        return resources

    def use(self, container_id: str) -> ResourceUse | None:
        """What a container uses; None once its cgroup is gone, or where there are none."""
        if self._memory is None or self._cpu is None:
            return None
        memory, cpu = self._in(self._memory, container_id), self._in(self._cpu, container_id)
        if self.version == 1:
            seconds = _number(cpu / "cpuacct.usage")
            now = _number(memory / "memory.usage_in_bytes")
            peak = _number(memory / "memory.max_usage_in_bytes")
            cache = _field(memory / "memory.stat", "total_inactive_file")
            seconds = None if seconds is None else seconds / 1e9
        else:
            micro = _field(cpu / "cpu.stat", "usage_usec")
            seconds = None if micro is None else micro / 1e6
            now = _number(memory / "memory.current")
            cache = _field(memory / "memory.stat", "inactive_file")
            peak = _number(memory / "memory.peak")  # since Linux 5.19
        if seconds is None and now is None:
            return None
        in_use = max(
            (now or 0) - (cache or 0), 0
        )  # file pages that the kernel would drop at once do not count
        return ResourceUse(cpu_seconds=seconds or 0.0, memory=int(in_use), peak_memory=int(peak or now or 0))

    def oom_kills(self, container_id: str) -> int:
        """How many of its processes the kernel has killed for memory."""
        if self._memory is None:
            return 0
        folder = self._in(self._memory, container_id)
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        return _field(folder / name, "oom_kill") or 0

    def members(self, container_id: str) -> list[int]:
        """The processes in it."""
        pids: set[int] = set()
        for mount in self.mounts:
            with contextlib.suppress(OSError):
                text = (self._in(mount.path, container_id) / "cgroup.procs").read_text(encoding="ascii")
                pids.update(int(pid) for pid in text.split())
        return sorted(pids - {0})

    def containers(self) -> set[str]:
        """The ids of containers that have a cgroup."""
        found: set[str] = set()
        for mount in self.mounts:
            with contextlib.suppress(OSError):
                found.update(path.name for path in self._parent_in(mount.path).iterdir() if path.is_dir())
        return found

    def keys(self) -> set[str]:
        """The keys of all hosts that have cgroups here."""
        found: set[str] = set()
        for mount in self.mounts:
            with contextlib.suppress(OSError):
                found.update(
                    path.name for path in self._parent_in(mount.path).parent.iterdir() if path.is_dir()
                )
        return found

    def of_host(self, key: str) -> Cgroups:
        """Those of another host."""
        return Cgroups(self.mounts, key, base=self._base, usable=self.usable)

    async def remove(self, container_id: str) -> list[Path]:
        """Remove a container's cgroups, killing what is in them. What could not be removed is returned."""
        left = [self._in(mount.path, container_id) for mount in self.mounts]
        for attempt in range(REMOVE_TRIES):
            left = [path for path in left if not _remove_tree(path)]
            if not left:
                break
            if attempt:
                for pid in self.members(container_id):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(REMOVE_PAUSE)
        return left

    def remove_parents(self) -> None:
        """Remove the host's own cgroups, where no container is in them.

        The one that all hosts of a machine share stays: another may be about to make its own in it.
        """
        for mount in self.mounts:
            with contextlib.suppress(OSError):
                self._parent_in(mount.path).rmdir()

    def _parent_in(self, tree: Path) -> Path:
        return tree / self._group.lstrip("/")

    def _in(self, tree: Path, container_id: str) -> Path:
        return self._parent_in(tree) / container_id

    def _swap_is_counted(self) -> bool:
        if self._memory is None:
            return False
        if self.version == 1:
            return (self._memory / "memory.memsw.limit_in_bytes").exists()
        return any(path.exists() for path in self._memory.glob("*/memory.swap.max"))


def read_mounts(mountinfo: Path = Path("/proc/self/mountinfo")) -> list[CgroupMount]:
    """The cgroup trees that are mounted here."""
    mounts: list[CgroupMount] = []
    for line in mountinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, super_options = right.partition(" ")
        path = Path(left.split()[4].replace("\\040", " "))
        if kind == "cgroup2":
            mounts.append(CgroupMount(path, ()))
        elif kind == "cgroup":
            options = super_options.split()[-1].split(",")
            mounts.append(CgroupMount(path, tuple(each for each in options if each not in ("rw", "ro"))))
    return mounts


def _delegated(mounts: Sequence[CgroupMount], own: Path) -> str | None:
    """The cgroup of version 2 below which this ordinary user may make others; None without one."""
    unified = [mount.path for mount in mounts if not mount.controllers]
    if not unified or len(mounts) > 1:
        return None
    try:
        group = next(
            line.split("::", 1)[1]
            for line in own.read_text(encoding="utf-8").splitlines()
            if line[:3] == "0::"
        )
    except (OSError, StopIteration):
        return None
    # A cgroup with processes cannot have children with controllers: so next to ours, below its parent.
    parent = group.rpartition("/")[0]
    folder = unified[0] / parent.lstrip("/")
    writable = os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)
    controllers = _text(folder / "cgroup.controllers").split()
    return parent if writable and {"memory", "pids"} <= set(controllers) else None


def _remove_tree(path: Path) -> bool:
    """Remove a cgroup and those in it; whether it is gone."""
    for child in _folders(path):
        _remove_tree(child)
    try:
        path.rmdir()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return True


def _folders(path: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from [child for child in path.iterdir() if child.is_dir()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _field(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdecimal():
            return int(value)
    return None
