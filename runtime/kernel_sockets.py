"""The sockets of a Jupyter kernel in a container: bound here, listened on there.

The kernel cannot bind a socket where this machine sees it: nothing that a container can write to is a folder
of the machine's. So the host binds the five sockets in the container's own folder, where only the host's user
can connect to them, and gives the runner the descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path

from skylift.runtime.unix_sockets import bind_in

HANDOVER_SOCKET = "kernel.sock"
"""Beside the runner's socket: whoever connects is sent the descriptors, in one message."""

CHANNELS = 5
"""Shell, iopub, stdin, control, heartbeat."""

_BACKLOG = 64

log = logging.getLogger(__name__)


class KernelSockets:
    """Those of one kernel; there is one at most in a container."""

    def __init__(self, folder: Path, handover: Path) -> None:
        """Bind them in `folder`, which is made; the container sees `handover`. Raises OSError."""
        self.folder = folder
        self._handover = handover
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            for number in range(1, CHANNELS + 1):
                listening = socket.socket(socket.AF_UNIX)
                self._sockets.append(listening)
                bind_in(folder, f"kernel-{number}", listening)
                # Who connects before the kernel listens waits for it.
                listening.listen(_BACKLOG)
            bind_in(handover, HANDOVER_SOCKET, self._door)
            self._door.listen(1)
        except BaseException:
            self.close()
            raise
        self._loop.add_reader(self._door, self._hand_over)

    def close(self) -> None:
        """Close what is open here, and take the names away. Idempotent."""
        self._close_door()
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()
        for number in range(1, CHANNELS + 1):
            (self.folder / f"kernel-{number}").unlink(missing_ok=True)

    def _close_door(self) -> None:
        if self._door.fileno() >= 0:
            self._loop.remove_reader(self._door)
            self._door.close()
            (self._handover / HANDOVER_SOCKET).unlink(missing_ok=True)

    def _hand_over(self) -> None:
        with contextlib.suppress(BlockingIOError):
            connection, _ = self._door.accept()
            with connection:
                try:
                    socket.send_fds(connection, [b"kernel"], [each.fileno() for each in self._sockets])
                except OSError as error:
                    log.warning("A kernel did not take its sockets: %s", error)
                    return
            # The kernel alone has them now: when it is gone, they refuse who connects.
            self._close_door()
            for listening in self._sockets:
                listening.close()
