"""Which of the faster ways to a container this machine can take: see `machine_checks` for the rest."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from skylift.runtime.criu import HOW_TO_GET_IT, Criu, CriuMissingError, find_criu
from skylift.runtime.cuda_checkpoint import HOW_TO_WRITE_GPU_MEMORY, why_no_gpu_memory
from skylift.runtime.machine_checks import Finding
from skylift.runtime.nvml import Nvml
from skylift.runtime.runc.commands import CommandError, run
from skylift.runtime.settings import HostSettings

_OUTER = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork")
_INNER = ("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork")
_CHILD = (
    'mount -t proc proc /proc && cd "$1" && mkdir lower upper work root && '
    "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,userxattr root"
)
"""What a forked container does inside its template's namespaces."""

_WHY_FORK = "A container that is forked from one that has done its imports starts in milliseconds."
_WHY_RESTORE = "Imports are done once, and not again after a restart or on another host."
_WHY_SLEEP = "An idle session is written to the disk with all its variables, and frees its memory and GPU."


async def examine_start_paths(settings: HostSettings, home: Path) -> AsyncIterator[Finding]:
    """Look at forking, snapshots and sleeping sessions. Changes nothing that lasts."""
    if sys.platform != "linux":
        return
    if settings.isolation == "process":
        for name in ("templates", "snapshots", "sleeping sessions"):
            yield Finding(name=name, state="ok", text='none, as configured (isolation = "process")')
        return
    yield await _templates(home)
    try:
        criu: Criu | None = await find_criu(settings.criu)
        reason = ""
    except CriuMissingError as error:
        criu, reason = None, str(error).removesuffix(HOW_TO_GET_IT).strip()
    yield _snapshots(criu, reason)
    yield _sleeping(criu)


async def _templates(home: Path) -> Finding:
    where = next(path for path in (home, *home.parents) if path.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".skylift-doctor-", dir=where) as folder:
            try:
                await run([*_OUTER, *_INNER, "sh", "-c", _CHILD, "sh", folder])
            finally:
                _open_work_folder(Path(folder))
    except (CommandError, OSError) as error:
        return Finding(
            name="templates",
            state="warning",
            text=f"none can be forked ({str(error).splitlines()[0].rpartition(': ')[2]})",
            why=_WHY_FORK,
            fix="Use Linux 5.11 or newer, which lets user namespaces mount overlays, with SKYLIFT_HOME on "
            "ext4, XFS or Btrfs; see user namespaces above.",
        )
    return Finding(name="templates", state="ok", text="containers can be forked from them")


def _snapshots(criu: Criu | None, reason: str) -> Finding:
    if criu is None:
        return Finding(name="snapshots", state="warning", text=reason, why=_WHY_RESTORE, fix=HOW_TO_GET_IT)
    if shutil.which("iptables-restore") is None:
        return Finding(
            name="snapshots",
            state="warning",
            text=f"CRIU {criu.version} ({criu.path}), but not iptables",
            why="CRIU uses it to write containers that have a network of their own.",
            fix="Install the package iptables.",
        )
    return Finding(name="snapshots", state="ok", text=f"CRIU {criu.version} ({criu.path})")


def _sleeping(criu: Criu | None) -> Finding:
    name = "sleeping sessions"
    if criu is None:
        return Finding(
            name=name,
            state="warning",
            text="none without CRIU: idle sessions are kept or ended (--idle-policy)",
            why=_WHY_SLEEP,
            fix=HOW_TO_GET_IT,
        )
    nvml = Nvml.load()
    if nvml is None or not nvml.gpus():
        return Finding(name=name, state="ok", text="idle sessions can sleep")
    lacking = why_no_gpu_memory(nvml.driver())
    if lacking:
        return Finding(
            name=name,
            state="warning",
            text=f"only those that have not used their GPU: {lacking}",
            why=_WHY_SLEEP,
            fix=HOW_TO_WRITE_GPU_MEMORY,
        )
    return Finding(name=name, state="ok", text="idle sessions can sleep, and their GPU memory with them")


def _open_work_folder(folder: Path) -> None:
    """The overlay leaves one of mode 0, which an ordinary user could not remove."""
    for path in folder.glob("work/work"):
        path.chmod(0o700)
