"""Opens the WebSocket: the connection, the HTTP upgrade, and what the gateway answers to it."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from skylift import exceptions
from skylift.connection import RECEIVE, Connection, ConnectionLost
from skylift.wire import MAX_FRAME

if TYPE_CHECKING:
    from websockets.client import ClientProtocol
    from websockets.protocol import Event

IDLE_TIMEOUT = 20.0
"""Seconds of silence after which the gateway is asked whether it is there."""


def open_connection(url: str, token: str, timeout: float) -> Connection:
    """Connects to the gateway at `url` (http or https) within `timeout` seconds.

    Raises `AuthError` or `PermissionDeniedError` where the gateway says so, `ConnectionLost` where it is not
    there, and `exceptions.ConnectionError` where something else answers.
    """
    from websockets.client import ClientProtocol
    from websockets.uri import parse_uri

    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "localhost", parts.port or (443 if secure else 80)
    where = f"{host}:{port}"
    try:
        sock = socket.create_connection((host, port), timeout=timeout)
    except OSError as error:
        raise ConnectionLost(f"{where}: {error.strerror or error}") from error
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if secure:
            tls = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
            sock = _TlsSocket(tls)  # type: ignore[assignment]
        uri = parse_uri(f"{'wss' if secure else 'ws'}://{parts.netloc}{parts.path.rstrip('/')}/v1/connect")
        protocol = ClientProtocol(uri, max_size=4 * MAX_FRAME)
        request = protocol.connect()
        request.headers["Authorization"] = f"Bearer {token}"
        protocol.send_request(request)
        sock.sendall(b"".join(protocol.data_to_send()))
        events = _answer(sock, protocol, where, time.monotonic() + timeout)
        if protocol.handshake_exc is not None:
            raise _refusal(events[0], url, protocol.handshake_exc)
        sock.settimeout(IDLE_TIMEOUT)
        return Connection(sock, protocol, events[1:])
    except OSError as error:
        sock.close()
        raise ConnectionLost(f"{where}: {error.strerror or error}") from error
    except BaseException:
        sock.close()
        raise


def _answer(sock: socket.socket, protocol: ClientProtocol, where: str, deadline: float) -> list[Event]:
    while True:
        if time.monotonic() > deadline:
            raise ConnectionLost(f"{where} took the connection and does not answer")
        data = sock.recv(RECEIVE)
        if data:
            protocol.receive_data(data)
        else:
            protocol.receive_eof()
        events = protocol.events_received()
        if events:
            return events
        if not data:
            raise ConnectionLost(f"{where} closed the connection before it answered")


def _refusal(answer: Event, url: str, reason: Exception) -> Exception:
    from websockets.http11 import Response

    status = answer.status_code if isinstance(answer, Response) else 0
    message = ""
    if isinstance(answer, Response) and answer.body:
        with contextlib.suppress(ValueError, AttributeError):
            message = str(json.loads(answer.body).get("message", ""))
    if status == 401:
        return exceptions.AuthError(
            message
            or f"the gateway at {url} does not know this token. It is read from $SKYLIFT_TOKEN, "
            "and else from the file `token` in $SKYLIFT_HOME"
        )
    if status == 403:
        return exceptions.PermissionDeniedError(
            message or f"the gateway at {url} does not let this client in"
        )
    if status in (502, 503, 504):
        return ConnectionLost(f"{url} answered {status}")
    return exceptions.ConnectionError(f"what answers at {url} is no Skylift gateway: {message or reason}")


class _TlsSocket:
    """A TLS socket that one thread may read while others write; OpenSSL itself allows one at a time."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        self._timeout = sock.gettimeout()
        sock.setblocking(False)

    def settimeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    def recv(self, size: int) -> bytes:
        while True:
            with self._lock, contextlib.suppress(ssl.SSLWantReadError):
                return self._socket.recv(size)
            self._wait(select.POLLIN)

    def send(self, data: bytes) -> int:
        with self._lock:
            return self._socket.send(data)

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            with self._lock, contextlib.suppress(ssl.SSLWantWriteError):
                view = view[self._socket.send(view) :]
                continue
            self._wait(select.POLLOUT)

    def shutdown(self, how: int) -> None:
        self._socket.shutdown(how)

    def close(self) -> None:
        self._socket.close()

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._socket, event)
        if not poll.poll(None if self._timeout is None else self._timeout * 1000):
            raise TimeoutError
