"""A gateway's server in this process, with a control plane that writes down what it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from raw_client import RawClient, raw_client

from skylift.backend.control import ClientPort, ControlPlane, HostPort
from skylift.backend.settings import GatewaySettings
from skylift.kernel_gateway.home import GatewayHome
from skylift.kernel_gateway.host_socket import HostServer
from skylift.kernel_gateway.outbox import Outbox
from skylift.kernel_gateway.server import GatewayApplication, GatewayServer
from skylift.lazyfs.store import LocalStore
from skylift.wire import ClientMessage, Hello, HostHello, HostMessage, HostWelcome, Welcome

TOKEN = "the-token"
HOST_TOKEN = "the-host-token"


class RecordingControl(ControlPlane):
    """Welcomes everyone and keeps what it is told; what it answers is up to the test."""

    def __init__(self) -> None:
        self.gateway_id = "ga-00000000"
        self.told: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.on_client: Callable[[ClientPort, ClientMessage], None] = lambda port, message: None
        self.on_host: Callable[[HostPort, HostMessage], None] = lambda port, message: None

    def authenticate(self, token: str) -> str | None:
        return "someone" if token == TOKEN else None

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
        self.url = self.server.listen("127.0.0.1", 0)

    def client(self, **options: Any) -> contextlib.AbstractAsyncContextManager[RawClient]:
        """See `raw_client`."""
        return raw_client(self.url, TOKEN, **options)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def served(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """Parametrize it indirectly with fields of `GatewaySettings` where the defaults do not do."""
    served = Served(tmp_path, GatewaySettings(**getattr(request, "param", {})))
    await served.hosts.listen()
    yield served
    served.server.stop_listening()
    await served.hosts.close()
    await served.server.close()
