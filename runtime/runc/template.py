"""What makes a container one that others can be forked from.

Its runner may make namespaces and mounts, within its own user namespace alone: it has capabilities there, a
filter of system calls that lets it use them, and nothing hidden of its ``/proc`` (the kernel lets nobody
mount a ``/proc`` that shows more than his own). Each fork gives all of that up before it runs anything of a
user's.
"""

from __future__ import annotations

from typing import Any

from skylift.runtime.isolation import CHILDREN_FOLDER, Bind, ContainerPlan

CHILDREN = "/.skylift"
"""Where a template sees the folders of the containers that are forked from it."""

CAPABILITIES = [
    "CAP_SYS_ADMIN",
    "CAP_NET_ADMIN",
    "CAP_SETPCAP",
    # An overlay works with the capabilities of who mounted it.
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_MKNOD",
    "CAP_SETFCAP",
]

SYSTEM_CALLS = [
    "mount",
    "pivot_root",
    "seccomp",
    "sethostname",
    "setns",
    "umount2",
    "unshare",
]
"""Those that a fork needs and other containers may not make."""


def children_bind(plan: ContainerPlan) -> Bind:
    """How a template sees its containers' folders."""
    return Bind(plan.folder / CHILDREN_FOLDER, CHILDREN, writable=True)


def as_template(config: dict[str, Any]) -> None:
    """Change the OCI configuration of a container into that of a template."""
    process, linux = config["process"], config["linux"]
    process["capabilities"] = {
        kind: CAPABILITIES if kind != "ambient" else []
        for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
    }
    linux["maskedPaths"] = linux["readonlyPaths"] = []
    linux["seccomp"] = {**linux["seccomp"], "syscalls": _with_more(linux["seccomp"]["syscalls"])}


def _with_more(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = [{**rule, "names": [name for name in rule["names"] if name not in SYSTEM_CALLS]} for rule in rules]
    allowed = {"action": "SCMP_ACT_ALLOW", "names": SYSTEM_CALLS}
    return [allowed, *(rule for rule in kept if rule["names"])]
