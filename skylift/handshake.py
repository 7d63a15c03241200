"""Opens the WebSocket: the connection, the HTTP upgrade, and what the gateway answers to it."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from skylift import exceptions
from skylift.connection import RECEIVE, Connection, ConnectionLost
from skylift.gateway_process import UNIX
from skylift.wire import MAX_FRAME

if TYPE_CHECKING:
    from websockets.client import ClientProtocol
    from websockets.protocol import Event

IDLE_TIMEOUT = 20.0
"""Seconds of silence after which the gateway is asked whether it is there."""


def open_connection(url: str, token: str, timeout: float) -> Connection:
    """Connects to the gateway at `url` (http, https or unix) within `timeout` seconds.

    Raises `AuthError` or `PermissionDeniedError` where the gateway says so, `ConnectionLost` where it is not
    there, and `exceptions.ConnectionError` where something else answers.
    """
    from websockets.client import ClientProtocol
    from websockets.uri import parse_uri

    where, websocket_url = url, "ws://localhost/v1/connect"
    sock: socket.socket | None = None
    try:
        if url.startswith(UNIX):
            sock = _dial_unix(url.removeprefix(UNIX), timeout)
        else:
            parts = urlsplit(url)
            secure = parts.scheme == "https"
            host, port = parts.hostname or "localhost", parts.port or (443 if secure else 80)
            where = f"{host}:{port}"
            scheme = "wss" if secure else "ws"
            websocket_url = f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/v1/connect"
            sock = _dial(host, port, secure, timeout)
        protocol = ClientProtocol(parse_uri(websocket_url), max_size=4 * MAX_FRAME)
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
        if sock is not None:
            sock.close()
        raise ConnectionLost(f"{where}: {error.strerror or error}") from error
    except BaseException:
        if sock is not None:
            sock.close()
        raise


def _dial(host: str, port: int, secure: bool, timeout: float) -> socket.socket:
    sock = socket.create_connection((host, port), timeout=timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not secure:
        return sock
    tls: Any = _TlsSocket(ssl.create_default_context().wrap_socket(sock, server_hostname=host))
    return cast(socket.socket, tls)


def _dial_unix(path: str, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


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
        return ConnectionLost(message or f"{url} answered {status}")
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
