"""Whether images can be built here, and how their layers come to containers: see `machine_checks`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator

from skylift.lazyfs.mounts import why_not
from skylift.runtime.machine_checks import Finding
from skylift.runtime.settings import HostSettings

_WHY_MOUNT = "Containers of a built image begin before its files are here; else all of it is fetched first."
_WHY_BUILD = "Image.debian_slim() and what is built on it."


def examine_images(settings: HostSettings) -> Iterator[Finding]:
    """Look at both. Changes nothing."""
    if sys.platform != "linux":
        return
    if settings.isolation == "process":
        yield Finding(name="images", state="ok", text='none, as configured (isolation = "process")')
        return
    lacking = why_not()
    if lacking:
        what, _, fix = lacking.partition(": ")
        yield Finding(
            name="layers of images",
            state="warning",
            text=f"they are unpacked: {what.rstrip('.')}",
            why=_WHY_MOUNT,
            fix=fix or "Run the host as root, with Linux 6.12 or newer.",
        )
    else:
        yield Finding(name="layers of images", state="ok", text="can be mounted and read as they are needed")
    yield _building()


def _building() -> Finding:
    name = "building images"
    if os.geteuid() != 0:
        return Finding(
            name=name,
            state="warning",
            text="not by an ordinary user",
            why=_WHY_BUILD,
            fix="Run the host as root; images that were built elsewhere can be used here.",
        )
    needed = {"mmdebstrap": "mmdebstrap", "apt-get": "apt"}
    missing = {program: package for program, package in needed.items() if shutil.which(program) is None}
    if missing:
        return Finding(
            name=name,
            state="warning",
            text=f"not found: {', '.join(missing)}",
            why=_WHY_BUILD,
            fix=f"Install {', '.join(missing.values())} (on Debian or Ubuntu; elsewhere only images of "
            "registries can be built).",
        )
    return Finding(name=name, state="ok", text="mmdebstrap is there")
