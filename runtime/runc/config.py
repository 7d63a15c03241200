"""A container's plan as the OCI configuration that runc reads (``config.json``)."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from skylift.runtime.cdi import Edits
from skylift.runtime.gpus import visible_devices
from skylift.runtime.isolation import Bind, ContainerPlan
from skylift.runtime.runc.build import as_build
from skylift.runtime.runc.id_map import Extent, IdMaps
from skylift.runtime.runc.mounts import oci_mount
from skylift.runtime.runc.seccomp import seccomp_filter
from skylift.runtime.runc.template import as_template
from skylift.wire import ImageSpec

OCI_VERSION = "1.0.2"
HOME = "/root"

BASE_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": HOME,
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
    "TMPDIR": "/tmp",  # noqa: S108  (the container's own)
}

MAX_OPEN_FILES = 1_048_576
OOM_SCORE = 500
"""Where the whole machine runs out of memory, containers go before the host and the gateway."""

MASKED_PATHS = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
]
"""What tells of the machine and of others on it."""

READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where this machine puts a container."""

    maps: IdMaps
    root: Path
    """Where its root is mounted."""
    user_namespace: str = ""
    """Path of one to join; "" makes new ones (user and network)."""
    network_namespace: str = ""
    cgroup: str = ""
    """Path in the cgroup trees; "" where containers have none."""
    resources: Mapping[str, Any] = {}
    shm_size: int = 0
    """Bytes that ``/dev/shm`` may take; 0 is half of the machine's memory."""


def build_config(
    plan: ContainerPlan, placement: Placement, binds: Iterable[Bind], edits: Edits
) -> dict[str, Any]:
    """The whole configuration. `binds` are all of them, outer folders first."""
    env = environment(plan, edits)
    resources = dict(placement.resources)
    if placement.cgroup and edits.device_rules:
        resources["devices"] = [{"allow": False, "access": "rwm"}, *edits.device_rules]
    linux: dict[str, Any] = {
        "uidMappings": _mappings(placement.maps.users),
        "gidMappings": _mappings(placement.maps.groups),
        "namespaces": _namespaces(placement),
        "maskedPaths": MASKED_PATHS,
        "readonlyPaths": READONLY_PATHS,
        "seccomp": seccomp_filter(),
        "resources": resources,
    }
    if placement.cgroup:
        linux["cgroupsPath"] = placement.cgroup
    config = {
        "ociVersion": OCI_VERSION,
        "hostname": plan.hostname,
        "root": {"path": str(placement.root), "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0, "additionalGids": list(edits.groups)},
            "args": plan.command,
            "env": [f"{name}={value}" for name, value in env.items()],
            "cwd": plan.image.workdir or ("/" if plan.build else HOME),
            "capabilities": {
                kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
            },
            "rlimits": _rlimits(),
            "noNewPrivileges": True,
            "oomScoreAdj": _oom_score(),
        },
        "mounts": [*_own_mounts(placement), *(oci_mount(bind) for bind in binds), *edits.mounts],
        "hooks": {when: list(hooks) for when, hooks in edits.hooks.items()},
        "linux": linux,
    }
    if plan.template:
        as_template(config)
    if plan.build:
        as_build(config)
    return config


def environment(plan: ContainerPlan, edits: Edits) -> dict[str, str]:
    """All environment variables of a container."""
    return {
        **BASE_ENV,
        "PATH": _path(plan.image),
        **dict(entry.partition("=")[::2] for entry in edits.env),
        **visible_devices(plan.gpus),
        **plan.image.env,
        **plan.env,
    }


def _path(image: ImageSpec) -> str:
    if image.kind == "layers":
        return BASE_ENV["PATH"]
    return f"{os.path.dirname(image.python)}:{BASE_ENV['PATH']}"


def terminal_options(maps: IdMaps) -> list[str]:
    """How a container's terminals are mounted."""
    options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if not maps.single:
        options.append("gid=5")
    return options


def _namespaces(placement: Placement) -> list[dict[str, str]]:
    namespaces = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]
    if placement.cgroup:
        namespaces.append({"type": "cgroup"})
    for kind, path in (("user", placement.user_namespace), ("network", placement.network_namespace)):
        namespaces.append({"type": kind, "path": path} if path else {"type": kind})
    return namespaces


def _mappings(extents: Iterable[Extent]) -> list[dict[str, int]]:
    return [
        {"containerID": extent.inside, "hostID": extent.outside, "size": extent.size} for extent in extents
    ]


def _own_mounts(placement: Placement) -> list[dict[str, Any]]:
    shm = ["nosuid", "noexec", "nodev", "mode=1777"]
    if placement.shm_size:
        shm.append(f"size={placement.shm_size}")
    return [
        _mount("/proc", "proc", ["nosuid", "noexec", "nodev"]),
        _mount("/dev", "tmpfs", ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", terminal_options(placement.maps)),
        _mount("/dev/shm", "tmpfs", shm),  # noqa: S108
        _mount("/dev/mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        _mount("/sys", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
    ]


def _mount(destination: str, kind: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": options}


def _oom_score() -> int:
    """Not below the host's own: without privileges it can only be raised."""
    return max(OOM_SCORE, int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii")))


def _rlimits() -> list[dict[str, Any]]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    return [
        {"type": "RLIMIT_NOFILE", "soft": files, "hard": files},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
