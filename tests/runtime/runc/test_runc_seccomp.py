from __future__ import annotations

import json
from importlib.resources import files

import pytest

from skylift.runtime.runc.seccomp import seccomp_filter


def test_every_rule_says_why() -> None:
    profile = json.loads(files("skylift.runtime.runc").joinpath("seccomp.json").read_text())
    assert all(rule["comment"] for rule in profile["syscalls"])
    assert "SCMP_ACT_ERRNO" == profile["defaultAction"]


def test_no_call_is_both_allowed_and_refused() -> None:
    allowed: set[str] = set()
    refused: set[str] = set()
    for rule in seccomp_filter("x86_64")["syscalls"]:
        (allowed if rule["action"] == "SCMP_ACT_ALLOW" else refused).update(rule["names"])
    assert set() == allowed & refused
    assert {"mount", "bpf", "unshare", "setns", "keyctl", "io_uring_setup", "perf_event_open"} <= refused


def test_only_the_native_architecture() -> None:
    assert ["SCMP_ARCH_AARCH64"] == seccomp_filter("aarch64")["architectures"]


def test_an_unknown_processor() -> None:
    with pytest.raises(ValueError, match="No seccomp filter for the processor vax; known: x86_64"):
        seccomp_filter("vax")
