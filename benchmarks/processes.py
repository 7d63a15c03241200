"""Making sure that what a benchmark started is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

import psutil

_MARK = "SKYLIFT_BENCHMARK"


@contextlib.contextmanager
def ended_with_us(patience: float = 10.0) -> Iterator[None]:
    """Ends, at the close of the block, every process that was started in it and is still there.

    They are known by a mark in their environment, since some leave the tree of our children. Each gets
    SIGTERM, and after `patience` seconds SIGKILL: by its own process id, never by name.
    """
    before = os.environ.get(_MARK)
    mark = os.environ[_MARK] = f"{before or ''}/{secrets.token_hex(8)}"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_MARK]
        else:
            os.environ[_MARK] = before
        # Twice: one that is just beginning to run another program has no environment for a moment.
        for _ in range(2):
            started = _marked(mark)
            for process in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.terminate()
            _, alive = psutil.wait_procs(started, timeout=patience)
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(alive, timeout=patience)


def _marked(mark: str) -> list[psutil.Process]:
    """Processes whose mark is `mark`, or was made in a block within its block."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(_MARK, "").startswith(mark):
                found.append(process)
    return found
