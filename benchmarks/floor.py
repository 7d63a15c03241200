"""What restoring memory cannot be faster than."""

from __future__ import annotations

import mmap
import os
import tempfile
import time

_PIECE = 8 * 1024**2


def copy_once(size: int, rounds: int = 5) -> float:
    """Milliseconds, at best, in which `size` bytes get from a file in the page cache into fresh memory, each
    of whose pages is faulted in by it."""
    best = float("inf")
    with tempfile.TemporaryFile() as file:
        piece = os.urandom(_PIECE)
        for start in range(0, size, _PIECE):
            file.write(piece[: min(_PIECE, size - start)])
        file.flush()
        for _ in range(rounds):
            with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
                # As CRIU's restorer has it: small pages.
                memory.madvise(mmap.MADV_NOHUGEPAGE)
                with memoryview(memory) as view:
                    start_time = time.perf_counter()
                    done = 0
                    while done < size:
                        done += os.preadv(file.fileno(), [view[done : done + _PIECE]], done)
                    best = min(best, time.perf_counter() - start_time)
    return best * 1e3
