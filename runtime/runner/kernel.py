"""System calls that Python has no function for, for templates and newborn containers."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x40000
MS_STRICTATIME = 0x1000000
MNT_DETACH = 2

_PR_CAPBSET_DROP, _PR_SET_SECCOMP, _PR_SET_NAME, _PR_CAP_AMBIENT = 24, 22, 15, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION = 0x20080522
_SIOCADDRT, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x890B, 0x8914, 0x8916, 0x891C
_UP, _RUNNING = 0x1, 0x40
_RTF_UP, _RTF_GATEWAY = 0x1, 0x2

_libc = ctypes.CDLL(None, use_errno=True)
_PIVOT_ROOT = {"x86_64": 155, "ppc64le": 203}.get(os.uname().machine, 41)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Move this process into new namespaces. Raises OSError, as all of these do."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Move this process into a namespace that is there."""
    _check(_libc.setns(descriptor, kind), "setns")


def mount(
    source: str, target: str, kind: str | None = None, flags: int = 0, options: str | None = None
) -> None:
    """As in mount(2)."""
    result = _libc.mount(
        source.encode("utf-8", "surrogateescape"),
        target.encode("utf-8", "surrogateescape"),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        None if options is None else options.encode("utf-8", "surrogateescape"),
    )
    _check(result, f"mount {target}")


def enter_root(folder: str) -> None:
    """Make a mounted folder the root of this mount namespace, and let go of the old one."""
    os.chdir(folder)
    _check(_libc.syscall(_PIVOT_ROOT, b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")


def set_host_name(name: str) -> None:
    """In this UTS namespace."""
    socket.sethostname(name)


def drop_capabilities() -> None:
    """All of them, for ever."""
    number = 0
    while _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
        number += 1
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    _check(_libc.capset(header, bytes(24)), "capset")


def load_seccomp(program: bytes) -> None:
    """Have a BPF program decide on this process's system calls from now on."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    loaded = Program(len(program) // 8, program)
    _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0), "seccomp")


def set_process_name(name: str) -> None:
    """As ``ps`` shows it; 15 bytes."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


# --- this network namespace ----------------------------------------------------------------------


def bring_up(device: str) -> None:
    """Switch a network interface on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", device.encode(), _UP | _RUNNING))


def set_address(device: str, address: str, mask: str) -> None:
    """Give a network interface its IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, mask)):
            fcntl.ioctl(sock, request, struct.pack("16s", device.encode()) + _address(value))


def route_by(gateway: str) -> None:
    """Send what is for elsewhere to this IPv4 address."""
    anywhere = _address("0.0.0.0")  # noqa: S104
    # struct rtentry: padding, destination, gateway, mask, flags; the rest is zero.
    entry = struct.pack("@L", 0) + anywhere + _address(gateway) + anywhere
    entry += struct.pack("=H", _RTF_UP | _RTF_GATEWAY) + bytes(96)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCADDRT, entry)


def _address(text: str) -> bytes:
    """As ``struct sockaddr_in``."""
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))
