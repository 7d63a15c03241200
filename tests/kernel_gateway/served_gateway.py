"""A gateway's server in this process, with a control plane that writes down what it is told; and requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import urllib3
from raw_client import RawClient, raw_client

from skylift.backend.control import ClientPort, ControlPlane, HostPort
from skylift.backend.settings import GatewaySettings
from skylift.kernel_gateway.home import GatewayHome
from skylift.kernel_gateway.host_socket import HostServer
from skylift.kernel_gateway.outbox import Outbox
from skylift.kernel_gateway.server import GatewayApplication, GatewayServer
from skylift.lazyfs.store import LocalStore
from skylift.wire import ClientMessage, Hello, HostHello, HostMessage, HostWelcome, Problem, Welcome

TOKEN = "the-token"
CONTAINER_TOKEN = "a-container's-token"
HOST_TOKEN = "the-host-token"


class RecordingControl(ControlPlane):
    """Welcomes everyone and keeps what it is told; what it answers is up to the test."""

    def __init__(self) -> None:
        self.gateway_id = "ga-00000000"
        self.told: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.on_client: Callable[[ClientPort, ClientMessage], None] = lambda port, message: None
        self.on_host: Callable[[HostPort, HostMessage], None] = lambda port, message: None

    def authenticate(self, token: str) -> str | None:
        return "someone" if token in (TOKEN, CONTAINER_TOKEN) else None

    async def blob_asked_for(self, blob: str) -> None:
        pass

    def container_of(self, token: str) -> str:
        return "co-00000001" if token == CONTAINER_TOKEN else ""

    def client_connected(self, port: ClientPort, hello: Hello) -> None:
        self.told.put_nowait(("client connected", port))
        port.send(Welcome(gateway_id=self.gateway_id, version="0"))

    def client_message(self, port: ClientPort, message: ClientMessage) -> None:
        self.told.put_nowait(("client message", message))
        self.on_client(port, message)

    def client_disconnected(self, port: ClientPort) -> None:
        self.told.put_nowait(("client disconnected", port))

    def host_connected(self, port: HostPort, hello: HostHello) -> None:
        if hello.token != HOST_TOKEN:
            raise PermissionError("wrong host token")
        self.told.put_nowait(("host connected", port))
        port.send(HostWelcome(gateway_id=self.gateway_id))

    def host_message(self, port: HostPort, message: HostMessage, frame: bytes = b"") -> None:
        self.told.put_nowait(("host message", message))
        self.on_host(port, message)

    def host_disconnected(self, port: HostPort) -> None:
        self.told.put_nowait(("host disconnected", port))

    async def next(self, what: str) -> Any:
        """Wait until it is told that, and say about what; what it is told before is dropped."""
        while True:
            told, about = await asyncio.wait_for(self.told.get(), 10)
            if told == what:
                return about


class Served:
    """A server that listens, with its parts."""

    def __init__(self, home: Path, settings: GatewaySettings) -> None:
        outbox = Outbox(asyncio.get_running_loop())
        self.home = home
        self.control = RecordingControl()
        self.store = LocalStore(home / "store")
        self.application = GatewayApplication(self.control, self.store, settings, GatewayHome(home), outbox)
        self.server = GatewayServer(self.application)
        self.hosts = HostServer(home, self.control, outbox)
        self.url = self.server.bind("127.0.0.1", 0)
        self.server.serve()

    def client(self, **options: Any) -> contextlib.AbstractAsyncContextManager[RawClient]:
        """See `raw_client`."""
        return raw_client(self.url, TOKEN, **options)


def upgrade(path: str) -> dict[str, str]:
    """Headers that make a request for the WebSocket a whole one."""
    if path != "/v1/connect":
        return {}
    return {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }


async def ask(
    served: Served, method: str, path: str, token: str | None = TOKEN, body: Any = None, **headers: str
) -> urllib3.BaseHTTPResponse:
    """The answer to one request on a connection of its own."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()} | upgrade(path)
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    return await asyncio.to_thread(
        lambda: urllib3.PoolManager().request(
            method, served.url + path, body=body, headers=fields, retries=False, timeout=20
        )
    )


def problem(answer: urllib3.BaseHTTPResponse) -> Problem:
    return msgspec.json.decode(answer.data, type=Problem)


def check(answer: urllib3.BaseHTTPResponse, method: str, status: int, error: str) -> None:
    assert status == answer.status
    assert "application/json" == answer.headers["Content-Type"]
    if method != "HEAD":
        assert error == problem(answer).error
