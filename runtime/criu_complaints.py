"""What CRIU says went wrong, in words for people who do not know CRIU."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

_ERROR = re.compile(r"Error \(\S+\): (.*)")
_NOT_ERRORS = ("RLIMIT_NOFILE",)
"""It always tries to raise its limit of open files, and does well without where it may not."""

_CONNECTED = frozenset({"01", "02", "03", "04", "05", "06", "08", "09", "0B"})
"""States of TCP in ``/proc/net/tcp`` in which there is another end."""
_NAMED = 3
"""Connections that are named; others are counted."""

_NETWORK_SOCKET = re.compile(
    r"inet: (?:Connected TCP socket|In-flight connection)"
    # SO_PASSCRED of any but a Unix socket: an error since Linux 6.16, which CRIU did not expect.
    r"|sockets: Can't get 1:16 opt"
)
_PATTERNS: tuple[tuple[str, str], ...] = (
    (
        r"unix: (?:External socket|Can't dump half of stream|Can't dump name-less|Unix socket \d+ not found)",
        "It has an open Unix socket whose other end is outside of the container. Close it first.",
    ),
    (r"tty: Found dangling|is not a session leader", "It uses a terminal that is not its own."),
    (
        r"Can't dump ghost file (\S+) of (\d+) size",
        "It has a deleted file open that is too large: {0}, {1} bytes.",
    ),
    (
        r"Can't lookup mount=\S+ for fd=\S+ path=(.*)",
        "It has a file open that is outside of the container: {0}.",
    ),
    (
        r"Can't dump file \d+ of that type \[\d+\] \(([^)]*)\)",
        "It has something open that cannot be written: {0}.",
    ),
    (r"Unsupported mapping found", "It has a device or something like it mapped into its memory."),
    (r"Can't dump nested (\w+) namespace", "One of its processes has a namespace of its own ({0})."),
)


def errors_in(log: str) -> list[str]:
    """The errors in a log of CRIU's, the first one first, without the places in its sources."""
    found = (str(line).strip().rstrip(".") for line in _ERROR.findall(log))
    return [line for line in found if not any(each in line for each in _NOT_ERRORS)]


def why_not_written(log: str, pids: Sequence[int]) -> str:
    """Why CRIU, with this log, could not write the processes `pids`, which still run."""
    if any(_tracer(pid) for pid in pids):
        return "One of its processes is being traced (by a debugger, say)."
    gpus = sorted({path for path in _open_files(pids) if path.startswith("/dev/nvidia")})
    if gpus:
        return f"It uses a GPU: {', '.join(gpus)} is open."
    errors = errors_in(log)
    if any(_NETWORK_SOCKET.search(line) for line in errors):
        return _about_sockets(pids)
    for pattern, words in _PATTERNS:
        match = re.search(pattern, "\n".join(errors))
        if match is not None:
            return words.format(*match.groups())
    return f"CRIU could not write it: {errors[0] if errors else 'it does not say why'}."


def _tracer(pid: int) -> int:
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        return int(text.partition("TracerPid:")[2].split()[0])
    return 0


def _about_sockets(pids: Sequence[int]) -> str:
    connections = [remote for _, remote, state in _sockets(pids, ("tcp", "tcp6")) if state in _CONNECTED]
    if connections:
        return f"It has an open TCP connection to {_named(connections)}. Close it first."
    sockets = [local for local, _, _ in _sockets(pids, ("tcp", "tcp6", "udp", "udp6"))]
    where = f" at {_named(sockets)}" if sockets else ""
    return (
        f"It has an open network socket{where}, which this CRIU cannot write on this kernel. Close it first."
    )


def _named(addresses: Sequence[str]) -> str:
    unique = list(dict.fromkeys(addresses))
    more = f" and {len(unique) - _NAMED} more" if len(unique) > _NAMED else ""
    return ", ".join(unique[:_NAMED]) + more


def _sockets(pids: Sequence[int], tables: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Local and remote address and state of the sockets that the processes have open."""
    inodes = {path[len("socket:[") : -1] for path in _open_files(pids) if path.startswith("socket:[")}
    for table in tables:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pids[0]}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                _, local, remote, state, *_, inode = line.split()[:10]
                if inode in inodes:
                    yield address_of(local), address_of(remote), state


def address_of(text: str) -> str:
    """``"0100007F:1F90"`` of ``/proc/net/tcp`` as ``"127.0.0.1:8080"``."""
    host, _, port = text.partition(":")
    words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    name = f"[{address}]" if address.version == 6 else str(address)
    return f"{name}:{int(port, 16)}"


def _open_files(pids: Sequence[int]) -> Iterator[str]:
    """What the processes have open, as ``/proc`` calls it."""
    for pid in pids:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    yield os.readlink(f"/proc/{pid}/fd/{name}")
