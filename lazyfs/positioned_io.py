"""Writing at places of a file, whole: the system may take less at once than it is given."""

from __future__ import annotations

import os

from skylift.lazyfs.store import Bytes


def write_at(descriptor: int, data: Bytes, offset: int) -> None:
    """Write all of `data`, from `offset` bytes on. Raises OSError; a part of it may be there then."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
