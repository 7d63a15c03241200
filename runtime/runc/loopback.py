"""Turning on the loopback of a container that has no other network."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import socket
import struct
from concurrent.futures import ThreadPoolExecutor

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_REQUEST = struct.Struct("16sh14x")


async def turn_on_loopback(pid: int) -> None:
    """Turn it on in the network namespace of a process. Raises OSError."""
    # A thread of its own, for it cannot be sure that it gets back to where it was.
    with ThreadPoolExecutor(1, "loopback") as thread:
        await asyncio.get_running_loop().run_in_executor(thread, _turn_on, pid)


def _turn_on(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(namespace, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(namespace)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _REQUEST.pack(b"lo", _IFF_UP))
