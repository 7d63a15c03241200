"""``/v1/blobs/{hash}``: arguments and results over `INLINE_LIMIT`, by their BLAKE3."""

from __future__ import annotations

import asyncio
import logging
import queue
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from blake3 import blake3
from tornado.iostream import StreamClosedError

from skylift.kernel_gateway.handler import Handler, RequestError
from skylift.lazyfs.store import BlobMissingError, Store, StoreError, StoreFullError
from skylift.wire import MAX_BLOB, Problem

UPLOADS = 8
"""That are written at once; further ones wait for their turn."""

STALL_SECONDS = 60.0
"""An upload of which nothing comes for so long is dropped."""

T = TypeVar("T")

log = logging.getLogger(__name__)

_PIECE = 1024 * 1024
_PIECES_AHEAD = 4
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class WrongHashError(Exception):
    """The bytes that came do not have the hash that they were announced with."""


class BlobThreads:
    """Threads for what may block on the disk."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.upload_turn = asyncio.Semaphore(UPLOADS)
        self.writers = ThreadPoolExecutor(UPLOADS, thread_name_prefix="skylift-upload")
        self.readers = ThreadPoolExecutor(4, thread_name_prefix="skylift-download")

    def close(self) -> None:
        """Wait for no one: an upload that is not finished leaves nothing behind."""
        self.writers.shutdown(wait=False, cancel_futures=True)
        self.readers.shutdown(wait=False, cancel_futures=True)


class Upload:
    """One blob on its way to the store: pieces that come on the event loop, and a thread that writes them."""

    def __init__(self, threads: BlobThreads, blob: str) -> None:
        """The caller holds `BlobThreads.upload_turn`, so a thread is free."""
        self._blob = blob
        self._piece = bytearray()
        self._pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(_PIECES_AHEAD)
        self._loop = asyncio.get_running_loop()
        self.written = asyncio.wrap_future(threads.writers.submit(threads.store.put_stream, self._chunks()))
        """The end: the blob is in the store, or `WrongHashError`, TimeoutError, or what the store raised."""
        # Whoever waits for room goes on when the thread has failed.
        self.written.add_done_callback(lambda _: self._room.release())

    async def write(self, data: bytes) -> None:
        """Add bytes; waits while the disk is behind. When it has failed they are dropped."""
        self._piece += data
        if len(self._piece) >= _PIECE:
            await self._hand_over()

    async def finish(self) -> None:
        """All bytes have been added: wait until `written` is done, well or not."""
        await self._hand_over()
        self._pieces.put(None)
        await asyncio.wait([self.written])

    def abandon(self) -> None:
        """Keep nothing of it. Harmless after `finish`."""
        self._blob = ""
        self._pieces.put(None)

    async def _hand_over(self) -> None:
        if not self.written.done():
            await self._room.acquire()
            self._pieces.put(bytes(self._piece))
        self._piece.clear()

    def _chunks(self) -> Iterator[bytes]:
        hasher = blake3()
        try:
            while (piece := self._pieces.get(timeout=STALL_SECONDS)) is not None:
                hasher.update(piece)
                yield piece
                self._loop.call_soon_threadsafe(self._room.release)
        except queue.Empty:
            raise TimeoutError(f"nothing came for {STALL_SECONDS:g} seconds") from None
        if hasher.hexdigest() != self._blob:
            raise WrongHashError


class BlobHandler(Handler):
    """One blob: is it there, take it, give it (or a range of it)."""

    body_limit = MAX_BLOB
    for_containers = True
    _upload: Upload | None = None
    _holds_turn = False

    async def prepare(self) -> None:
        """Called by Tornado before the body is read."""
        await super().prepare()
        if self.request.method == "PUT" and self._refusal is None:
            await self.gateway.blobs.upload_turn.acquire()
            self._holds_turn = True
            self._upload = Upload(self.gateway.blobs, self.path_args[0])
            self._upload.written.add_done_callback(self._written)

    async def take(self, chunk: bytes) -> None:
        """See `Handler.take`."""
        if self._upload is not None:
            await self._upload.write(chunk)

    async def put(self, blob: str) -> None:
        """The body becomes a blob: 201, or 400 when its hash is another, 507 when the disk is full."""
        assert self._upload is not None
        await self._upload.finish()
        if not self._finished:
            self.set_status(201)

    def _written(self, written: asyncio.Future[tuple[str, int]]) -> None:
        error = written.exception()
        if isinstance(error, WrongHashError):
            blob = self.path_args[0]
            message = f"The body has another BLAKE3 than {blob}; it was not kept. Send it again."
            self.refuse(RequestError(400, message))
        elif isinstance(error, StoreFullError):
            self.refuse(RequestError(507, str(error)))
        elif isinstance(error, TimeoutError):
            self.refuse(RequestError(408, f"The upload was given up: {error}. Send it again."), at_once=True)
        elif isinstance(error, StoreError):
            self.refuse(unreachable(error))
        elif error is not None:
            log.error("An upload failed.", exc_info=error)
            self.refuse(RequestError(500, f"The store cannot keep the blob: {error}."))

    async def head(self, blob: str) -> None:
        """200 with its size, or 404."""
        await self.gateway.control.blob_asked_for(blob)
        self._announce(blob, await self._read(lambda: self.gateway.store.size(blob)))

    async def get(self, blob: str) -> None:
        """The bytes; with ``Range: bytes=from-to`` only these, so that a broken download can go on."""
        size = await self._read(lambda: self.gateway.store.size(blob))
        first, last = wanted_range(self.request.headers.get("Range", ""), size, "This blob")
        file = await self._read(lambda: self.gateway.store.path(blob).open("rb", buffering=0))
        self._announce(blob, last + 1 - first)
        if (first, last) != (0, size - 1):
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {first}-{last}/{size}")
        loop, readers = asyncio.get_running_loop(), self.gateway.blobs.readers
        with file:
            file.seek(first)
            left = last + 1 - first
            try:
                while left:
                    piece = await loop.run_in_executor(readers, file.read, min(left, _PIECE))
                    left -= len(piece)
                    self.write(piece)
                    await self.flush()
            except StreamClosedError:
                return
            finally:
                self._abandon()

    def on_finish(self) -> None:
        """Called by Tornado when the answer is out."""
        self._abandon()

    def on_connection_close(self) -> None:
        """Called by Tornado when the client is gone early."""
        super().on_connection_close()
        self._abandon()

    def _abandon(self) -> None:
        if self._upload is not None:
            self._upload.abandon()
        if self._holds_turn:
            self._holds_turn = False
            self.gateway.blobs.upload_turn.release()

    async def _read(self, work: Callable[[], T]) -> T:
        """Do it in a thread: a store may be far away."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.gateway.blobs.readers, work)
        except BlobMissingError as error:
            raise RequestError(404, str(error)) from None
        except StoreError as error:
            raise unreachable(error) from error

    def _announce(self, blob: str, length: int) -> None:
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Length", str(length))
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("ETag", f'"{blob}"')


def unreachable(error: StoreError) -> RequestError:
    """The answer where the store does not do what was asked."""
    refusal = RequestError(503, str(error))
    refusal.problem = Problem(error="ConnectionError", message=str(error))
    return refusal


def wanted_range(header: str, size: int, what: str) -> tuple[int, int]:
    """First and last byte that a ``Range`` header asks for; all of them where it asks for none.

    `what` begins the message. Raises `RequestError` (416) for what lies behind the end.
    """
    wanted = _RANGE.fullmatch(header)
    if wanted is None or wanted.groups() == ("", ""):
        return 0, size - 1
    first, last = wanted.groups()
    if not first:
        begin, end = max(size - int(last), 0), size - 1
    else:
        begin, end = int(first), min(int(last), size - 1) if last else size - 1
    if begin > end:
        raise RequestError(
            416,
            f"{what} has {size:,} bytes: there is no range {wanted[0]}.",
            Content_Range=f"bytes */{size}",
        )
    return begin, end
