"""Run in a container: prints as JSON what can be seen and done there. Knows the standard library alone."""

# ruff: noqa: PERF203, SIM115

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import socket
import stat
import sys

LIBC = ctypes.CDLL(None, use_errno=True)

# Numbers of system calls: x86-64 and 64-bit ARM.
CALLS = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "move_pages": (279, 239),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
ARM = platform.machine() == "aarch64"
CLONE, CLONE3 = (220, 435) if ARM else (56, 435)
CLONE_NEWUSER = 0x10000000


def errno_of(number: int, *arguments: object) -> str:
    ctypes.set_errno(0)
    result = LIBC.syscall(number, *arguments)
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def attempt(function: object, *arguments: object) -> str:
    try:
        function(*arguments)  # type: ignore[operator]
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def write(path: str, text: str = "1") -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def system_calls() -> dict[str, str]:
    path = ctypes.c_char_p(b"/tmp")
    arguments: dict[str, tuple[object, ...]] = {
        "mount": (path, path, None, 4096, None),  # a bind
        "umount2": (ctypes.c_char_p(b"/usr"), 2),
        "chroot": (path,),
        "pivot_root": (path, path),
        "unshare": (CLONE_NEWUSER,),
        "sethostname": (path, 4),
        "bpf": (0, None, 0),
        "perf_event_open": (None, 0, -1, -1, 0),
        "keyctl": (0, -3, 0),
    }
    found = {
        name: errno_of(numbers[ARM], *arguments.get(name, (0, 0, 0, 0, 0))) for name, numbers in CALLS.items()
    }
    found["clone(CLONE_NEWUSER)"] = errno_of(CLONE, CLONE_NEWUSER | 17, 0, 0, 0, 0)
    found["clone3"] = errno_of(CLONE3, None, 0)
    return found


def deeds() -> dict[str, str]:
    """What programs try when they want out."""
    return {
        "make a device file": attempt(os.mknod, "/tmp/sda", stat.S_IFBLK | 0o600, os.makedev(8, 0)),
        "give a file away": attempt(os.chown, make_file(), 1, 1),
        "become another user": attempt(os.setuid, 1),
        "raise its priority": attempt(os.nice, -5),
        "send packets of its own making": attempt(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0),
        "send raw IP": attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1),
        "talk to the hypervisor": attempt(socket.socket, 40, socket.SOCK_STREAM, 0),
        "use the kernel's ciphers": attempt(socket.socket, 38, socket.SOCK_SEQPACKET, 0),
        "set the core pattern": attempt(write, "/proc/sys/kernel/core_pattern", "|/bin/sh"),
        "press sysrq": attempt(write, "/proc/sysrq-trigger", "h"),
        "change the network's settings": attempt(write, "/proc/sys/net/ipv4/ip_forward"),
        "change a device's settings": attempt(write, "/sys/kernel/mm/transparent_hugepage/enabled", "never"),
        "be spared by the OOM killer": attempt(write, "/proc/self/oom_score_adj", "-1000"),
        "read the kernel's memory": attempt(open, "/proc/kcore", "rb")
        if readable("/proc/kcore")
        else "empty",
        "read the kernel's keys": attempt(open, "/proc/keys", "rb") if readable("/proc/keys") else "empty",
        "write to the system": attempt(open, "/usr/bin/skylift-was-here", "w"),
        "write to the environment": attempt(open, os.path.join(sys.prefix, "skylift-was-here"), "w"),
    }


def make_file() -> str:
    with open("/tmp/mine", "w"):
        return "/tmp/mine"


def readable(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return bool(file.read(1))
    except OSError:
        return False


def writable_places() -> dict[str, bool]:
    """Folders down to the third level in which a file can be made, and whether they are the container's own
    layer."""
    found = {}
    own = os.stat("/").st_dev
    for folder, names, _ in os.walk("/"):
        if folder in ("/proc", "/sys") or folder.count("/") >= 3:
            names[:] = []
        probe = os.path.join(folder, ".skylift-probe")
        try:
            with open(probe, "w"):
                found[folder] = os.stat(folder).st_dev == own
            os.unlink(probe)
        except OSError:
            pass
    return found


def mounts() -> list[dict[str, object]]:
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, right = line.split(" - ")
            fields = left.split()
            options = fields[5].split(",")
            found.append({"at": fields[4], "type": right.split()[0], "options": options})
    return found


def status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}").partition(":")[0]
        except OSError:  # the one that listed
            continue
    return found


if __name__ == "__main__":
    now = status()
    print(
        json.dumps(
            {
                "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()),
                "top": sorted(os.listdir("/")),
                "dev": sorted(os.listdir("/dev")),
                "interfaces": sorted(name for _, name in socket.if_nameindex()),
                "sys_interfaces": sorted(os.listdir("/sys/class/net")),
                "capabilities": {key: now[key] for key in now if key.startswith("Cap")},
                "no_new_privileges": now["NoNewPrivs"],
                "seccomp": now["Seccomp"],
                "namespaces": {
                    name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")
                },
                "uid_map": open("/proc/self/uid_map").read().split(),
                "ids": [os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getgroups()],
                "environment": sorted(os.environ),
                "descriptors": descriptors(),
                "mounts": mounts(),
                "calls": system_calls(),
                "deeds": deeds(),
                "writable": writable_places(),
                "hostname": socket.gethostname(),
                "cgroups": sorted({line.strip().split(":", 2)[2] for line in open("/proc/self/cgroup")}),
                "cwd": os.getcwd(),
                "limits": open("/proc/self/limits").read(),
                "shadow": os.path.exists("/etc/shadow"),
                "etc": sorted(os.listdir("/etc")),
                "home": sorted(os.listdir("/root")),
                "seen": [path for path in sys.argv[1:] if os.path.exists(path)],
                "users": sorted(line.split(":")[0] for line in open("/etc/passwd")),
            }
        )
    )
