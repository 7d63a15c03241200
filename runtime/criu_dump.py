"""Writing a tree of processes with CRIU itself.

Not with ``runc checkpoint``: that one fails where a network namespace was joined by the path of a process
that has ended, and it knows only what runc has started, not what was forked from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from skylift.runtime.criu import Criu
from skylift.runtime.criu_complaints import why_not_written
from skylift.runtime.criu_restore import CriuError, with_kernel_facts
from skylift.runtime.process_notes import stat_fields

GHOST_LIMIT = "4G"
"""Files that were deleted and are still open are written up to this size."""

_LOG = "dump.log"
_DEVICES = {
    (1, 3): "null",
    (1, 5): "zero",
    (1, 7): "full",
    (1, 8): "random",
    (1, 9): "urandom",
    (5, 0): "tty",
}


class DumpPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is written, and where to."""

    pid: int
    """The first process of a pid namespace."""
    images: Path
    """Folder for the images."""
    work: Path
    """Folder for CRIU's log."""
    mounts: Sequence[str]
    """Where in its mount namespace something of the host is mounted: `outside_mounts`."""
    kernel_facts: Path | None = None
    """See `criu.kernel_facts`."""


async def dump(criu: Criu, plan: DumpPlan) -> tuple[int, ...]:
    """Write the process and its descendants, which are stopped then: `go_on` lets them run again.

    Those that were stopped before are returned. Raises `CriuError`, which says what it is that cannot be
    written; they run on then, also when this is cancelled.
    """
    paused = tuple(pid for pid in tree(plan.pid) if _state(pid) == "T")
    command = [str(criu.path), "dump", "--tree", str(plan.pid), "--images-dir", str(plan.images)]
    command += ["--work-dir", str(plan.work), "--log-file", _LOG, "-v1", "--leave-stopped"]
    command += ["--empty-ns", "net", "--network-lock", "skip", "--manage-cgroups=ignore"]
    command += ["--file-locks", "--link-remap", "--ghost-limit", GHOST_LIMIT]
    # None of the plugins that may be installed: a host without the same ones could not restore it.
    command += ["--libdir", str(plan.work)]
    for inside in plan.mounts:
        command += ["--external", f"mnt[{inside}]:{inside}"]
    if plan.kernel_facts is not None:
        command = ["unshare", "--mount", *with_kernel_facts(command, plan.kernel_facts)]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    ending = asyncio.ensure_future(process.wait())
    try:
        status = await asyncio.shield(ending)
    except asyncio.CancelledError:
        # Killed, it would leave its own code in the processes.
        ending.add_done_callback(lambda _: go_on(plan.pid, paused))
        await asyncio.shield(ending)
        raise
    if status:
        go_on(plan.pid, paused)
        log = ""
        with contextlib.suppress(OSError):
            log = (plan.work / _LOG).read_text(encoding="utf-8", errors="replace")
        raise CriuError(why_not_written(log, list(tree(plan.pid))))
    return paused


def go_on(pid: int, but: Iterable[int] = ()) -> None:
    """Let a stopped process and its descendants run, except those that were stopped before."""
    for each in {*tree(pid)} - {*but}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGCONT)


def tree(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path("/proc", str(pid), "task").iterdir():
            with contextlib.suppress(OSError):
                for child in (task / "children").read_text(encoding="ascii").split():
                    yield from tree(int(child))


def outside_mounts(pid: int) -> dict[str, str]:
    """Where in a process's mount namespace something of the host is mounted, outer mounts first.

    The value is the host's device (``"/dev/null"``) for what every host has, "" for files and folders. All
    is of the host, but for the root, whose file system is mounted here too.
    """
    ours = {device for device, _ in _mounts("self")}
    found: dict[str, str] = {}
    for device, inside in _mounts(pid):
        if inside != "/" and device in ours:
            found[inside] = _device(Path(f"/proc/{pid}/root{inside}"))
    return found


def _mounts(pid: int | str) -> Iterator[tuple[str, str]]:
    """Device number and mount point of each mount."""
    text = Path("/proc", str(pid), "mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    for line in text.splitlines():
        fields = line.split(" ")
        yield fields[2], _unescaped(fields[4])


def _unescaped(text: str) -> str:
    for code in (" ", "\t", "\n", "\\"):
        text = text.replace(f"\\{ord(code):03o}", code)
    return text


def _device(path: Path) -> str:
    """Of a link in the container nothing is followed: it is a mount point."""
    try:
        status = path.lstat()
    except OSError:
        return ""
    if not stat.S_ISCHR(status.st_mode):
        return ""
    name = _DEVICES.get((os.major(status.st_rdev), os.minor(status.st_rdev)), "")
    return f"/dev/{name}" if name else ""


def _state(pid: int) -> str:
    return (stat_fields(pid) or [""])[0]
