"""Unix sockets in folders whose paths may be longer than a socket's address can be."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_LONGEST_ADDRESS = 103
"""Bytes of a Unix socket's path, on every system."""


def bind_in(folder: Path, name: str, listening: socket.socket) -> None:
    """Bind a Unix socket to `folder`/`name`, however long that path is, for every user to connect to."""
    path = folder / name
    if fits_address(path):
        listening.bind(str(path))
    else:
        # A home's path may be longer than an address; one through the folder's descriptor is not.
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listening.bind(f"/proc/self/fd/{descriptor}/{name}")
        finally:
            os.close(descriptor)
    # A container's root is another user; who may enter the folder from outside is the home's to say.
    path.chmod(0o666)


def fits_address(path: Path) -> bool:
    """Whether a Unix socket can be bound and connected to by that path."""
    return len(os.fsencode(path)) <= _LONGEST_ADDRESS
