"""Reading volumes: ``/v1/volumes/NAME/entries`` and ``/v1/volumes/NAME/file``."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from tornado.iostream import StreamClosedError

from skylift.kernel_gateway.blobs import wanted_range
from skylift.kernel_gateway.handler import RequestError
from skylift.kernel_gateway.volume_answers import entry_row
from skylift.kernel_gateway.volumes import VolumeHandler
from skylift.lazyfs.store import blob_name
from skylift.lazyfs.trees import Entry
from skylift.lazyfs.volume_errors import PathIsDirectoryError
from skylift.lazyfs.volume_paths import text
from skylift.lazyfs.volume_reading import FileInfo, VolumeView

_ROWS = 2000
"""Entries that are sent at once."""
_PIECE = 1024 * 1024

log = logging.getLogger(__name__)


class EntriesHandler(VolumeHandler):
    """``GET /v1/volumes/NAME/entries``."""

    async def get(self, name: str) -> None:
        """What is in the directory `path`, with `recursive` in those in it too: lines of JSON. Where reading
        fails in between, the last line is ``{"error": …, "message": …}``."""
        path, number, recursive = self.path_of(), self.number("version"), self.flag("recursive")

        def begin() -> tuple[Iterator[FileInfo], list[FileInfo]]:
            found = self.view(name, number).iterdir(path, recursive=recursive)
            return found, list(itertools.islice(found, _ROWS))

        rest, some = await self.run(begin)
        self.set_header("Content-Type", "application/x-ndjson")
        try:
            while some:
                self.write(b"".join(msgspec.json.encode(entry_row(info)) + b"\n" for info in some))
                await self.flush()
                if len(some) < _ROWS:
                    break
                some = await self.run(lambda: list(itertools.islice(rest, _ROWS)))
        except StreamClosedError:
            return
        except RequestError as error:
            self.write(msgspec.json.encode(error.problem) + b"\n")


class _Opened(NamedTuple):
    view: VolumeView
    path: bytes
    entry: Entry


class FileHandler(VolumeHandler):
    """``GET`` and ``HEAD /v1/volumes/NAME/file``."""

    async def head(self, name: str) -> None:
        """Its size, and an ETag that another content does not have."""
        opened = await self._open(name)
        self._announce(opened.entry, opened.entry.size)

    async def get(self, name: str) -> None:
        """The bytes of the file `path`; with ``Range: bytes=from-to`` only these, but all of it where the
        ETag in ``If-Range`` is that of another content."""
        opened = await self._open(name)
        size, tag = opened.entry.size, _tag(opened.entry)
        wanted = self.request.headers.get("Range", "")
        if self.request.headers.get("If-Range", tag) != tag:
            wanted = ""
        first, last = wanted_range(wanted, size, "This file")
        # Before anything is sent: what cannot be read is an answer of its own.
        at = first
        piece = await self._piece(opened, at, last)
        self._announce(opened.entry, last + 1 - first)
        if (first, last) != (0, size - 1):
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {first}-{last}/{size}")
        try:
            while piece:
                self.write(piece)
                await self.flush()
                at += len(piece)
                piece = await self._piece(opened, at, last) if at <= last else b""
        except StreamClosedError:
            return
        except RequestError as error:
            # The client sees that bytes are missing, and gets the reason when it asks for the rest.
            log.warning("%s %s: %s", self.request.method, self.request.path, error.problem.message)
            if self.request.connection is not None and not self._finished:
                self.request.connection.stream.close()  # type: ignore[attr-defined]

    async def _open(self, name: str) -> _Opened:
        path, number = self.path_of(default=None), self.number("version")

        def find() -> _Opened:
            view = self.view(name, number)
            parts, entry = view.find(path)
            if entry.kind == "dir":
                raise PathIsDirectoryError(view.where, text(parts), "Read the files in it: see listdir().")
            return _Opened(view, path, entry)

        return await self.run(find)

    async def _piece(self, opened: _Opened, at: int, last: int) -> bytes:
        # To the end of a chunk, so that none is read twice.
        length = min(last + 1, (at // _PIECE + 1) * _PIECE) - at
        if length <= 0:
            return b""
        return await self.run(lambda: opened.view.read_range(opened.path, at, length))

    def _announce(self, entry: Entry, length: int) -> None:
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Length", str(length))
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("ETag", _tag(entry))
        self.set_header("Last-Modified-Nanoseconds", str(entry.mtime_ns))
        self.set_header("File-Mode", f"{entry.mode:o}")


def _tag(entry: Entry) -> str:
    return f'"{blob_name(b"%d %s " % (entry.size, entry.held.encode()) + entry.content)[:32]}"'
