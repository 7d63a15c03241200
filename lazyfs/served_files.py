"""A FUSE file system of one flat folder, whose files answer reads when they can.

EROFS on top of such a file keeps all names and attributes in the kernel, so that only large reads come here.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeAlias

from skylift.lazyfs import fuse_protocol as fuse
from skylift.lazyfs.fuse_serving import next_request, serve_in_threads

log = logging.getLogger(__name__)

Reply: TypeAlias = Callable[["bytes | memoryview | OSError"], None]
"""Takes what was read, or why it could not be."""

_THREADS = 4
"""They answer from the local file, and hand on what must be fetched; so few are enough."""


class ServedFile(ABC):
    """A file of fixed size."""

    size: int
    """Bytes."""

    node: int
    """The number by which the kernel knows it: the same in every process that ever serves this file."""

    @abstractmethod
    def read(self, offset: int, length: int, reply: Reply) -> None:
        """Read, and call `reply` once, now or from another thread later. Never blocks for long.

        The range lies within the file.
        """


class ServedFiles:
    """Serves a folder of files over a FUSE connection until that ends."""

    def __init__(self, connection: int, files: Mapping[str, ServedFile]) -> None:
        """`connection` is the descriptor of ``/dev/fuse`` that was mounted; `files` may change meanwhile."""
        self._connection = connection
        self._files = files
        self._ended = threading.Event()

    def start(self, ended: Callable[[], None]) -> None:
        """Answer in threads of its own; `ended` is called once there is nothing to answer any more."""
        serve_in_threads(self._serve, _THREADS, ended)

    def _serve(self) -> None:
        while not self._ended.is_set():
            request = next_request(self._connection)
            if request is None:
                self._ended.set()
                return
            try:
                self._answer(request)
            except Exception:
                log.exception("Request %s of the kernel failed", request.opcode)
                fuse.answer(self._connection, request.unique, error=errno.EIO)

    def _answer(self, request: fuse.Request) -> None:
        opcode, unique = request.opcode, request.unique
        if opcode == fuse.READ:
            self._read(request)
        elif opcode in (fuse.FORGET, fuse.BATCH_FORGET, fuse.INTERRUPT):
            # These want no answer; a read that was interrupted gets its own when it is done.
            pass
        elif opcode == fuse.DESTROY:
            self._say(unique)
            self._ended.set()
        else:
            body = self._body(request)
            if isinstance(body, int):
                fuse.answer(self._connection, unique, error=body)
            else:
                self._say(unique, body)

    def _body(self, request: fuse.Request) -> bytes | int:
        """The answer to what is neither a read nor wants none, or the number of the error."""
        opcode = request.opcode
        if opcode == fuse.INIT:
            return fuse.init_body(request)
        if opcode == fuse.LOOKUP:
            file = self._files.get(os.fsdecode(request.body.rstrip(b"\0")))
            return fuse.entry_body(file.node, file.size) if file else errno.ENOENT
        if opcode == fuse.GETATTR:
            if request.node == fuse.ROOT:
                return fuse.attributes_body(fuse.ROOT, 0)
            found = self._by_node(request.node)
            return fuse.attributes_body(found.node, found.size) if found else errno.ESTALE
        if opcode in (fuse.OPEN, fuse.OPENDIR):
            known = request.node == fuse.ROOT or self._by_node(request.node)
            return fuse.open_body() if known else errno.ESTALE
        if opcode == fuse.READDIR:
            entries = [(fuse.ROOT, "."), (fuse.ROOT, "..")]
            entries += sorted((file.node, name) for name, file in list(self._files.items()))
            return fuse.entries_body(entries, *fuse.read_range(request))
        if opcode == fuse.STATFS:
            return fuse.statfs_body()
        if opcode in (fuse.RELEASE, fuse.RELEASEDIR, fuse.FLUSH, fuse.ACCESS):
            return b""
        return errno.ENOSYS

    def _read(self, request: fuse.Request) -> None:
        unique = request.unique
        file = self._by_node(request.node)
        if file is None:
            log.error("A layer that was removed is still read")
            fuse.answer(self._connection, unique, error=errno.EIO)
            return
        offset, length = fuse.read_range(request)
        length = max(0, min(length, file.size - offset))

        def reply(result: bytes | memoryview | OSError) -> None:
            if isinstance(result, OSError):
                fuse.answer(self._connection, unique, error=result.errno or errno.EIO)
            else:
                self._say(unique, result)

        if length:
            file.read(offset, length, reply)
        else:
            self._say(unique)

    def _say(self, unique: int, body: bytes | memoryview = b"") -> None:
        fuse.answer(self._connection, unique, (body,) if body else ())

    def _by_node(self, node: int) -> ServedFile | None:
        return next((file for file in list(self._files.values()) if file.node == node), None)
