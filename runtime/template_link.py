"""The host's end of a template's socket (see `runner/template.py`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from skylift.runtime.unix_sockets import bind_in

SOCKET_NAME = "template.sock"
MAX_MESSAGE = 1 << 18
"""Bytes of a message; a request to fork has a container's whole environment."""


class TemplateGoneError(Exception):
    """The template's process has ended, or says nothing that makes sense."""


class Prepared:
    """What a template says once its imports are done."""

    def __init__(self, message: Mapping[str, Any]) -> None:
        self.problem = str(message.get("problem", ""))
        """What its code raised, or ""."""
        self.unforkable = str(message.get("unforkable", ""))
        """Why it cannot be forked, or ""."""


class TemplateLink:
    """Listens for one template; sends it requests, and hears how its children end."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds the socket, and the template sees it."""
        self.folder = folder
        self._loop = asyncio.get_running_loop()
        self._listening: socket.socket | None = None
        self._socket: socket.socket | None = None
        self._came = asyncio.Event()
        self._gone: TemplateGoneError | None = None
        self._let_go: asyncio.Future[None] = self._loop.create_future()
        self._prepared: asyncio.Future[Prepared] = self._loop.create_future()
        self._forks: dict[str, asyncio.Future[None]] = {}
        self._statuses: dict[str, asyncio.Future[int]] = {}
        self._sending = asyncio.Lock()
        self._has_room: asyncio.Future[None] = self._loop.create_future()

    def listen(self) -> None:
        """Make the socket, at first and after `release`. Raises OSError."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        (self.folder / SOCKET_NAME).unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            bind_in(self.folder, SOCKET_NAME, listening)
            listening.listen(1)
        except BaseException:
            listening.close()
            raise
        self._listening = listening
        self._loop.add_reader(listening.fileno(), self._accept)

    async def came(self) -> None:
        """Wait until the template is connected. Raises `TemplateGoneError`."""
        await self._came.wait()
        self._check()

    async def preload(
        self, modules: Sequence[str], *, session: bool = False, code: tuple[str, bytes] | None = None
    ) -> Prepared:
        """Have it import modules, what the cells of a session need, and the class of a function with that id.

        Raises `TemplateGoneError`.
        """
        message: dict[str, Any] = {"t": "preload", "modules": list(modules), "session": session}
        descriptors: list[int] = []
        if code is not None:
            message["code"] = code[0]
            descriptors.append(memory_file("code", code[1]))
        try:
            await self._send(message, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return await self._prepared

    async def fork(self, container_id: str, request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        """Have it fork; returns when it has. Raises `TemplateGoneError`, or `OSError` where it cannot."""
        forked = self._forks[container_id] = self._loop.create_future()
        self._statuses[container_id] = self._loop.create_future()
        try:
            await self._send({"t": "fork", "id": container_id, **request}, descriptors)
            await forked
        except BaseException:
            self._statuses.pop(container_id, None)
            raise
        finally:
            self._forks.pop(container_id, None)

    def become(self, request: Mapping[str, Any]) -> None:
        """Have a restored template become the container itself. Raises `TemplateGoneError`."""
        with self._unreachable():
            self._send_now({"t": "become", **request}, [])

    def status(self, container_id: str) -> asyncio.Future[int]:
        """How a container that was forked will have ended: its exit code, or minus a signal."""
        status = self._statuses.get(container_id)
        if status is None:
            status = self._statuses[container_id] = self._loop.create_future()
            if self._gone is not None:
                status.set_result(-9)
        status.add_done_callback(lambda _: self._statuses.pop(container_id, None))
        return status

    async def release(self) -> None:
        """Have it let go of its connection until `listen` is called again: it is about to be written.

        Raises `TemplateGoneError`.
        """
        self._stop_listening()
        (self.folder / SOCKET_NAME).unlink(missing_ok=True)
        if self._socket is not None:
            self._let_go = self._loop.create_future()
            await self._send({"t": "release"}, [])
            await self._let_go

    def gone(self, reason: str) -> None:
        """Its process has ended: so have its children."""
        if self._gone is None:
            self._gone = TemplateGoneError(reason)
        self._came.set()
        waiting: list[asyncio.Future[Any]] = [self._prepared, *self._forks.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(self._gone)
                future.exception()  # nobody need be waiting
        for status in self._statuses.values():
            if not status.done():
                status.set_result(-9)
        self.close()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._stop_listening()
        if self._socket is not None:
            self._close(self._socket)

    # --- its messages ----------------------------------------------------------------------------

    def _accept(self) -> None:
        if self._listening is None or self._socket is not None:
            return
        try:
            sock, _ = self._listening.accept()
        except OSError:
            return
        sock.setblocking(False)
        self._socket = sock
        self._loop.add_reader(sock.fileno(), self._read, sock)
        self._came.set()

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # If its process has ended, whoever waits for that says so; else it dials again.
            self._close(sock)
            return
        try:
            self._heard(json.loads(data))
        except (ValueError, AttributeError, TypeError):
            self.gone("the template sent what is not a message")

    def _heard(self, message: Mapping[str, Any]) -> None:
        kind, container_id = message.get("t"), str(message.get("id", ""))
        if kind == "prepared" and not self._prepared.done():
            self._prepared.set_result(Prepared(message))
        elif kind == "ended":
            # It is kept until somebody has asked for it.
            status = self._statuses.get(container_id)
            if status is not None and not status.done():
                status.set_result(int(message.get("status", -9)))
        elif kind in ("forked", "failed"):
            forked = self._forks.get(container_id)
            if forked is not None and not forked.done():
                if kind == "forked":
                    forked.set_result(None)
                else:
                    forked.set_exception(OSError(str(message.get("reason", ""))))

    async def _send(self, message: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        """Waits while the template has more to read than the socket takes."""
        async with self._sending:
            with self._unreachable():
                while not self._sent(message, descriptors):
                    await self._room()

    def _sent(self, message: Mapping[str, Any], descriptors: Sequence[int]) -> bool:
        try:
            self._send_now(message, descriptors)
        except BlockingIOError:
            return False
        return True

    def _send_now(self, message: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        self._check()
        if self._socket is None:
            raise TemplateGoneError("the template is not connected")
        socket.send_fds(self._socket, [json.dumps(message).encode()], list(descriptors))

    @contextlib.contextmanager
    def _unreachable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TemplateGoneError(f"the template cannot be reached: {error.strerror}") from error

    async def _room(self) -> None:
        """Until the socket takes more, or is closed."""
        assert self._socket is not None
        self._has_room = self._loop.create_future()
        self._loop.add_writer(self._socket.fileno(), _done, self._has_room)
        try:
            await self._has_room
        finally:
            if self._socket is not None:
                self._loop.remove_writer(self._socket.fileno())

    def _check(self) -> None:
        if self._gone is not None:
            raise self._gone

    def _stop_listening(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            self._loop.remove_reader(listening.fileno())
            listening.close()

    def _close(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock.fileno())
        self._loop.remove_writer(sock.fileno())
        sock.close()
        _done(self._has_room)
        if self._socket is sock:
            self._socket = None
            if self._gone is None:
                self._came.clear()
            _done(self._let_go)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def memory_file(name: str, data: bytes) -> int:
    """A descriptor of an unnamed file with that content."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    return descriptor
