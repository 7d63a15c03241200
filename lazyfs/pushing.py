"""Bytes for the kernel's cache that it has not asked for yet.

The kernel reads a layer's image in pieces of some 30 KiB, each of which comes here and goes back. So once it
has read a part of a chunk, it is given the rest.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable

from skylift.lazyfs import fuse_protocol
from skylift.lazyfs.store import Bytes

log = logging.getLogger(__name__)

_WAITING = 4096
"""Pieces that may wait for their turn; more are left out."""


class Pushing:
    """One thread that does it: it may have to wait for reads of the same pages, which others answer."""

    def __init__(self, connection: int) -> None:
        """`connection` is the descriptor of ``/dev/fuse``."""
        self._connection = connection
        self._pieces: queue.Queue[tuple[int, int, Callable[[], Bytes | None]]] = queue.Queue(_WAITING)
        threading.Thread(target=self._run, name="push", daemon=True).start()

    def push(self, node: int, offset: int, data: Callable[[], Bytes | None]) -> None:
        """Have the kernel take what `data` returns, when there is time. Never waits, never fails."""
        with contextlib.suppress(queue.Full):
            self._pieces.put_nowait((node, offset, data))

    def _run(self) -> None:
        while True:
            node, offset, data = self._pieces.get()
            try:
                found = data()
                if found is not None:
                    fuse_protocol.store(self._connection, node, offset, found)
            except FileNotFoundError:  # the kernel does not know the file yet, or no more
                continue
            except OSError as error:
                log.debug("The kernel was not given what lies at %d of file %d: %s", offset, node, error)
            except Exception:
                log.exception("The kernel was not given what lies at %d of file %d", offset, node)
