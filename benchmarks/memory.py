"""What containers take of the machine's memory, counted in two ways."""

from __future__ import annotations

import contextlib
from pathlib import Path

MB = 1e6


def cgroup_memory(container: str) -> int:
    """Bytes that the memory cgroup of a container has been charged with, but for files of which the kernel
    keeps a copy: who reads a file first is charged with it, and others then read it for nothing.

    Page tables and other memory of the kernel are in it.
    """
    folder = _memory_cgroup(container)
    for usage, counted in (("memory.current", "file"), ("memory.usage_in_bytes", "total_cache")):
        if (folder / usage).exists():
            lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return int((folder / usage).read_text()) - int(dict(lines)[counted])
    raise RuntimeError(f"{folder} is no memory cgroup")


def pss(containers: list[str]) -> int:
    """Bytes that the processes of some containers take in memory. What several processes share is counted
    with a part for each, so that the sum over all that share it is what it takes."""
    total = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            place = (folder / "cgroup").read_text()
            if any(container in place for container in containers):
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def _memory_cgroup(container: str) -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind != "cgroup2" and not (kind == "cgroup" and "memory" in options.split(",")):
            continue
        for folder in Path(before.split(" ")[4]).rglob(f"*{container}*"):
            if (folder / "memory.stat").exists():
                return folder
    raise RuntimeError(f"container {container} has no memory cgroup, so its memory cannot be counted")
