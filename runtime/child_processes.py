"""Waiting for a process through its pidfd, also for one that a helper program started for us."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal

_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Have orphaned descendants become children of this process, so that it learns how they end.

    ``runc run --detach`` exits once a container runs; its first process is then ours to wait for.
    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class ChildProcess:
    """A child of this process (or one that will be, see `become_subreaper`), waited for on the event loop."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError where there is no such process."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._status: int | None = None
        """As ``subprocess`` has it: an exit code, or minus a signal."""
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_end)

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self._ended.done()

    async def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens where it has ended. Never hits another process with its old pid."""
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except ChildProcessError:
            status = -signal.SIGKILL  # somebody else's child: how it ended cannot be known
        else:
            if result is None:  # pragma: no cover  (only with WNOHANG)
                return
            status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        os.close(self._pidfd)
        self._ended.set_result(status)
