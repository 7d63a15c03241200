"""Making sure that what a benchmark started is gone afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil


@contextlib.contextmanager
def ended_with_us(patience: float = 10.0) -> Iterator[None]:
    """Ends, at the close of the block, every child process that was started in it and is still there.

    Each gets SIGTERM, and after `patience` seconds SIGKILL: by its own process id, never by name.
    """
    me = psutil.Process()
    before = set(me.children(recursive=True))
    seen: set[psutil.Process] = set()
    try:
        yield
        # Grandchildren are only found while their parent lives: look before the peers shut down.
    finally:
        seen.update(set(me.children(recursive=True)) - before)
        for process in seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(seen, timeout=patience)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=patience)
