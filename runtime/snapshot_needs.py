"""What a snapshot needs of the machine that restores it, and why another machine cannot."""

from __future__ import annotations

import functools
import os
import platform
import re
from pathlib import Path

import msgspec
from blake3 import blake3

from skylift.runtime.cpu_features import cpu_features, lacking
from skylift.runtime.criu import version_tuple

RUNNER = Path(__file__).parent / "runner"


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """Where a snapshot was written; where it is restored must have all of this, or more of it."""

    machine: str
    """Architecture, as in ``uname -m``."""
    page_size: int
    """Bytes."""
    kernel: str
    """Release of the kernel."""
    cpu_features: tuple[str, ...]
    """Sorted; see `cpu_features`."""
    criu: str
    """Version."""
    runner: str
    """`runner_version`: a frozen runner is as old as its snapshot, and the host must speak as it does."""
    image: str = ""
    """Fingerprint of the image: files that a process has mapped must be the same."""
    gpu_driver: str = ""
    """Version of the NVIDIA driver, where there is GPU memory in the snapshot."""


def needs_of(*, criu: str, image: str = "", gpu_driver: str = "") -> Needs:
    """What a snapshot needs that is written on this machine, by a CRIU of this version."""
    return Needs(
        machine=platform.machine(),
        page_size=os.sysconf("SC_PAGE_SIZE"),
        kernel=platform.release(),
        cpu_features=tuple(sorted(cpu_features())),
        criu=criu,
        runner=runner_version(),
        image=image,
        gpu_driver=gpu_driver,
    )


def why_not(needs: Needs, here: Needs) -> str:
    """Why a snapshot with these needs cannot be restored on a machine of which `here` is true; "" if it can.

    ``here.image`` is the image that the container is to have.
    """
    if needs.machine != here.machine:
        return f"is of another kind of processor ({needs.machine}; this machine is {here.machine})"
    if needs.page_size != here.page_size:
        return f"has memory pages of {needs.page_size} bytes (this machine's are of {here.page_size})"
    if missing := lacking(needs.cpu_features, here.cpu_features):
        features = "feature" if len(missing) == 1 else "features"
        return f"needs CPU {features} {', '.join(missing)}, which this machine lacks"
    if _kernel(needs.kernel) > _kernel(here.kernel):
        return f"needs kernel {_short(needs.kernel)} or newer (this is {_short(here.kernel)})"
    if version_tuple(needs.criu) > version_tuple(here.criu):
        return f"needs CRIU {needs.criu} or newer (here is {here.criu})"
    if needs.runner != here.runner:
        return "was written by another version of Skylift"
    if needs.image != here.image:
        return "is of an image that has changed since"
    if needs.gpu_driver and needs.gpu_driver != here.gpu_driver:
        have = here.gpu_driver or "none"
        return f"has GPU memory of NVIDIA driver {needs.gpu_driver} (here is {have})"
    return ""


@functools.cache
def runner_version(folder: Path = RUNNER) -> str:
    """Changes with every change of the runner's own code; 16 hex digits."""
    hasher = blake3()
    for path in sorted(folder.rglob("*.py")):
        data = path.read_bytes()
        hasher.update(f"{path.relative_to(folder)}\0{len(data)}\0".encode())
        hasher.update(data)
    return hasher.hexdigest()[:16]


def _kernel(release: str) -> tuple[int, ...]:
    """``"6.18.44-cloud"`` as ``(6, 18)``: what a kernel offers to programs does not change within these."""
    return tuple(int(part) for part in re.findall(r"\d+", release)[:2])


def _short(release: str) -> str:
    return ".".join(map(str, _kernel(release))) or release
