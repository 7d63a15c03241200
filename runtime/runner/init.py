"""The first process of a container: forks the runner and outlives it by a moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import NoReturn

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> None:
    """Runs the runner in a child process and exits with its status, or with 128 + the signal that ended
    it."""
    supervise(_serve)


def _serve() -> NoReturn:
    if "SKYLIFT_TEMPLATE" in os.environ:
        from .template import main as template

        template()
    from .serve import main as serve

    serve()


def supervise(serve: Callable[[], NoReturn], keep_not: int = -1) -> NoReturn:
    """Runs `serve` in a child process, passes signals on to it, reaps whatever ends up with this process, and
    ends as the child did. `keep_not` is a descriptor that the child alone has."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        serve()
    if keep_not >= 0:
        os.close(keep_not)

    def forward(number: int, _frame: object) -> None:
        os.kill(child, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    os._exit(_reap_until(child))


def _reap_until(child: int) -> int:
    """Waits for every process that ends up with us; returns the exit code to pass on once `child` has
    ended."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
