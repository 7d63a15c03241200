"""Files of this machine, put in the store as entries of a tree."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO

from skylift.lazyfs.chunked import CHUNK_SIZE, ChangedError, write_chunks, write_small
from skylift.lazyfs.store import Store
from skylift.lazyfs.trees import INLINE_LIMIT, Entry, file_entry, inline_entry

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

Advance = Callable[[int], None]
"""Called with how many bytes more are done."""


@contextlib.contextmanager
def opened(name: bytes | str, folder: int | None = None) -> Iterator[BinaryIO]:
    """An ordinary file, opened where no symlink can lead elsewhere and no pipe makes it wait.

    Raises OSError; ValueError for what is not an ordinary file.
    """
    descriptor = os.open(name, _OPEN, dir_fd=folder)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not an ordinary file")
        yield file


def put_file(file: BinaryIO, name: bytes, store: Store, advance: Advance | None = None) -> Entry:
    """Put an ordinary file that `opened` gave in the store.

    Raises `ChangedError` where it was written to meanwhile, and what the store raises.
    """
    descriptor = file.fileno()
    before = os.fstat(descriptor)
    if before.st_size > CHUNK_SIZE:
        # Pages that are written through a mapping get their time with the next write behind this.
        os.fdatasync(descriptor)
        before = os.fstat(descriptor)
    mode = stat.S_IMODE(before.st_mode)
    os.lseek(descriptor, 0, os.SEEK_SET)
    if before.st_size <= CHUNK_SIZE:
        content = _read(file, before.st_size)
        if content is None:
            raise ChangedError(os.fsdecode(name), "its size changed")
        if len(content) <= INLINE_LIMIT:
            entry = inline_entry(name, content, mode, before.st_mtime_ns)
        else:
            entry = file_entry(name, write_small(content, store), mode, before.st_mtime_ns, store)
        if advance is not None:
            advance(len(content))
    else:
        chunks = write_chunks(file, store, progress=_advancing(advance))
        entry = file_entry(name, chunks, mode, before.st_mtime_ns, store)
    after = os.fstat(descriptor)
    # The time of the change as well: that of the writing can be set back.
    if (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    ):
        raise ChangedError(os.fsdecode(name), "it was written to")
    return entry


def put_stream(
    file: BinaryIO,
    size: int,
    name: bytes,
    mode: int,
    mtime_ns: int,
    store: Store,
    advance: Advance | None = None,
) -> Entry:
    """Put what a file object has from where it stands in the store; `size` is about how much, 0 if unknown.

    Raises what it and the store raise.
    """
    if 0 < size <= INLINE_LIMIT:
        content = file.read()
        if len(content) <= INLINE_LIMIT:
            if advance is not None:
                advance(len(content))
            return inline_entry(name, content, mode, mtime_ns)
        file = io.BytesIO(content)
    chunks = write_chunks(file, store, progress=_advancing(advance))
    return file_entry(name, chunks, mode, mtime_ns, store)


def _read(file: BinaryIO, size: int) -> bytes | None:
    """All of a file; None where it has another size by now."""
    content = b""
    while len(content) <= size:
        more = file.read(size + 1 - len(content))
        if not more:
            break
        content += more
    return content if len(content) == size else None


def _advancing(advance: Advance | None) -> Callable[[int, int], None] | None:
    if advance is None:
        return None
    last = 0

    def progress(done: int, _: int) -> None:
        nonlocal last
        advance(done - last)
        last = done

    return progress
