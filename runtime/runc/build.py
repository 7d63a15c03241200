"""What makes a container one that a layer of an image is built in.

Its root installs packages: it may give files to other users and become these, in its own user namespace
alone. It still gains nothing from set-user-id programs, and makes no mounts, namespaces or devices.
"""

from __future__ import annotations

from typing import Any

INPUTS = "/run/skylift/build"
"""Where commands find what a step gives them."""

CAPABILITIES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
]


def as_build(config: dict[str, Any]) -> None:
    """Change the OCI configuration of a container into that of one that builds."""
    config["process"]["capabilities"] = {
        kind: CAPABILITIES if kind not in ("ambient", "inheritable") else []
        for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
    }
    seccomp = config["linux"]["seccomp"]
    allowed = {"action": "SCMP_ACT_ALLOW", "names": ["chroot"]}
    rules = seccomp["syscalls"]
    kept = [{**rule, "names": [name for name in rule["names"] if name != "chroot"]} for rule in rules]
    config["linux"]["seccomp"] = {**seccomp, "syscalls": [allowed, *kept]}
