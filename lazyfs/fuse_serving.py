"""What all file systems here have in common: they read the kernel's requests, in threads, until the end."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable

from skylift.lazyfs import fuse_protocol as fuse

log = logging.getLogger(__name__)


def next_request(connection: int, room: int = fuse.REQUEST_ROOM) -> fuse.Request | None:
    """The kernel's next request, which is waited for, of up to `room` bytes; None once there come no more.

    `connection` is the descriptor of ``/dev/fuse`` that was mounted.
    """
    while True:
        try:
            return fuse.parse(os.read(connection, room))
        except OSError as error:  # noqa: PERF203  (a wait, and seldom twice)
            if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):  # taken back before it was read
                continue
            if error.errno != errno.ENODEV:  # which is unmounted
                log.error("The FUSE connection ended: %s", error)
            return None


def serve_in_threads(serve: Callable[[], None], count: int, ended: Callable[[], None]) -> None:
    """Run `serve` in so many threads of its own; `ended` is called once it has returned in all of them."""
    threads = [threading.Thread(target=serve, name=f"fuse-{n}", daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()

    def wait() -> None:
        for thread in threads:
            thread.join()
        ended()

    threading.Thread(target=wait, name="fuse-end", daemon=True).start()
