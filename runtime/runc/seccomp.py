"""The seccomp filter of containers: ``seccomp.json``, for this machine's processor."""

from __future__ import annotations

import functools
import json
import platform
from importlib.resources import files
from typing import Any

ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64"],
    "aarch64": ["SCMP_ARCH_AARCH64"],
    "ppc64le": ["SCMP_ARCH_PPC64LE"],
    "riscv64": ["SCMP_ARCH_RISCV64"],
}
"""Only the native one: a program for another (32-bit x86) is ended, for its calls would pass unfiltered."""


@functools.cache
def seccomp_filter(machine: str = "") -> dict[str, Any]:
    """The filter in the form of the OCI configuration. Raises ValueError for an unknown processor."""
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        raise ValueError(f"No seccomp filter for the processor {machine}; known: {', '.join(ARCHITECTURES)}.")
    profile = json.loads(files(__package__).joinpath("seccomp.json").read_text(encoding="utf-8"))
    rules = [{key: value for key, value in rule.items() if key != "comment"} for rule in profile["syscalls"]]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": ARCHITECTURES[machine],
        "syscalls": rules,
    }
