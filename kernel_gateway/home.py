"""The files by which one gateway owns a machine's folder, is found there, and keeps its address."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

import msgspec

from skylift.backend.control import VERSION


class GatewayFile(msgspec.Struct, frozen=True, kw_only=True):
    """``gateway.json``: where the running gateway is."""

    url: str
    pid: int
    gateway_id: str
    version: str


class AlreadyRunningError(Exception):
    """Another gateway has this folder. The message says which, and how to end it."""


class GatewayHome:
    """``$SKYLIFT_HOME``, as the gateway uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "gateway.log"
        self.token = folder / "token"
        self._announcement = folder / "gateway.json"
        self._port = folder / "gateway.port"
        self._lock_file = folder / "gateway.lock"

    def lock(self) -> None:
        """Make the folder, close it to other users (tokens and code are in it), and take it for this process,
        until it ends.

        Raises `AlreadyRunningError`, and OSError where the folder cannot be made.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise AlreadyRunningError(
                f"A gateway is running for {self.folder} already{self._other()}."
            ) from None
        # Never closed: the lock ends with the process, however that ends.
        self._lock = descriptor

    def announce(self, url: str, gateway_id: str) -> None:
        """Write ``gateway.json``: from now on clients find this gateway."""
        content = GatewayFile(url=url, pid=os.getpid(), gateway_id=gateway_id, version=VERSION)
        _write(self._announcement, msgspec.json.encode(content) + b"\n")

    def withdraw(self) -> None:
        """Remove ``gateway.json``."""
        self._announcement.unlink(missing_ok=True)

    def last_port(self) -> int:
        """The port of the gateway that ran here before, or 0. With the same one, clients of a restarted
        gateway find it where it was."""
        with contextlib.suppress(OSError, ValueError):
            port = int(self._port.read_text(encoding="ascii"))
            return port if 0 < port < 65536 else 0
        return 0

    def remember_port(self, port: int) -> None:
        """For the next gateway's `last_port`."""
        _write(self._port, f"{port}\n".encode("ascii"))

    def _other(self) -> str:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            other = msgspec.json.decode(self._announcement.read_bytes(), type=GatewayFile)
            return f": process {other.pid} at {other.url}. To end it: kill {other.pid}"
        return ", and is just starting or stopping"


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
