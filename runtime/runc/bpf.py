"""A container's seccomp filter as the program that the kernel runs, for containers that runc does not start.

libseccomp does the compiling; runc depends on it, so it is there.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import functools
import os
from collections.abc import Mapping
from typing import Any

from skylift.runtime.runc.commands import CommandError
from skylift.runtime.runc.seccomp import seccomp_filter

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_uint),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


@functools.cache
def seccomp_program() -> bytes:
    """The filter of `seccomp_filter`, as instructions of classic BPF. Raises `CommandError`."""
    return compile_filter(seccomp_filter())


def compile_filter(profile: Mapping[str, Any]) -> bytes:
    """`profile` in the form of the OCI configuration, for this machine's processor. Raises `CommandError`."""
    library = _load()
    context = library.seccomp_init(_action(profile["defaultAction"], profile["defaultErrnoRet"]))
    if not context:
        raise CommandError("libseccomp cannot make a filter.")
    try:
        for rule in profile["syscalls"]:
            action = _action(rule["action"], rule.get("errnoRet", errno.EPERM))
            for name in rule["names"]:
                _add(library, context, action, name, rule.get("args", ()))
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise CommandError("libseccomp (libseccomp.so.2) is not installed.") from error
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    ]
    return library


def _action(name: str, number: int) -> int:
    return {"SCMP_ACT_ALLOW": _ALLOW, "SCMP_ACT_ERRNO": _ERRNO | number}[name]


def _add(library: ctypes.CDLL, context: int, action: int, name: str, arguments: Any) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number < 0:
        return  # a system call of another processor, or a newer one than this libseccomp knows
    comparisons = (_Comparison * max(len(arguments), 1))()
    for comparison, argument in zip(comparisons, arguments, strict=False):
        comparison.argument = argument["index"]
        comparison.operator = _OPERATORS[argument["op"]]
        comparison.first, comparison.second = argument["value"], argument.get("valueTwo", 0)
    result = library.seccomp_rule_add_array(context, action, number, len(arguments), comparisons)
    # EACCES: the rule says what the filter does anyway.
    if result not in (0, -errno.EACCES, -errno.EEXIST):
        raise CommandError(f"libseccomp refuses the rule for {name}: {os.strerror(-result)}.")


def _export(library: ctypes.CDLL, context: int) -> bytes:
    descriptor = os.memfd_create("seccomp")
    try:
        result = library.seccomp_export_bpf(context, descriptor)
        if result:
            raise CommandError(f"libseccomp cannot export the filter: {os.strerror(-result)}.")
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)
