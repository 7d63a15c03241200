"""A whole gateway in this process, with a real host and containers, for kernel managers in any thread."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import urllib3

from scripts.own_gateway import left_behind
from skylift.backend.settings import load_settings
from skylift.kernel_gateway.gateway import Gateway
from skylift.kernel_gateway.home import GatewayHome
from skylift.kernel_gateway.jupyter_application import JupyterApplication

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which something that should have happened is missed."""


@contextlib.contextmanager
def hosting_in(home: Path, config: str) -> Iterator[Hosting]:
    """One that has its host. Afterwards nothing of it is left, or the test fails."""
    hosting = Hosting(home, config)
    try:
        hosting.wait_for_hosts()
        yield hosting
    finally:
        hosting.close()
        sys.stderr.write(hosting.log())
    assert [] == left_behind(home)


class Hosting:
    """Its event loop has a thread of its own."""

    def __init__(self, folder: Path, config: str) -> None:
        folder.mkdir(mode=0o700, parents=True)
        (folder / "config.toml").write_text(config)
        self.home = GatewayHome(folder)
        self.home.lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.run(self._start())

    async def _start(self) -> None:
        self._gateway = Gateway(self.home, load_settings(self.home.folder))
        self.url = await self._gateway.start("127.0.0.1", 0)
        self.control = self._gateway.control
        self.gateway = self._gateway._application

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it on the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def on_loop(self, work: Callable[[], T]) -> T:
        async def doing() -> T:
            return work()

        return self.run(doing())

    def jupyter(self, user: str = "local") -> JupyterApplication:
        """The Jupyter server of a user."""
        return self.run(self.gateway.jupyter.of(user))

    def manager(self, kind: type[T], kernel: str, folder: Path, **traits: Any) -> T:
        """A stock kernel manager of jupyter_client, whose kernels are ours."""
        application = self.jupyter()
        made: Any = kind(
            kernel_name=kernel,
            kernel_spec_manager=application.settings["kernel_spec_manager"],
            connection_file=str(folder / "kernel.json"),
            **traits,
        )
        made.kernel_starter = application.kernels.kernel_starter
        return made  # type: ignore[no-any-return]

    @property
    def token(self) -> str:
        return self.home.token.read_text().strip()

    def token_of(self, user: str) -> str:
        """A new one."""
        return self.run(self.control.tokens.create(user, "a test"))

    def ask(
        self, method: str, path: str, token: str | None = None, body: Any = None, **headers: str
    ) -> urllib3.BaseHTTPResponse:
        """A request to ``/jupyter``, as Jupyter's clients send it."""
        given = {"Authorization": f"token {self.token if token is None else token}", **headers}
        return urllib3.request(
            method, f"{self.url}/jupyter{path}", headers=given, json=body, retries=False, timeout=PATIENCE
        )

    def calls(self) -> list[Any]:
        """All, newest first."""
        answer = urllib3.request(
            "GET", f"{self.url}/v1/calls", headers={"Authorization": f"Bearer {self.token}"}
        )
        calls: list[Any] = answer.json()["calls"]
        return calls

    def wait_for_containers(self, holds: Callable[[int], bool]) -> None:
        """Until so many are there."""
        deadline = time.monotonic() + PATIENCE
        while not holds(count := self.on_loop(lambda: len(self.control.registry.containers))):
            assert time.monotonic() < deadline, f"there are {count} containers"
            time.sleep(0.02)

    def wait_for_hosts(self) -> None:
        """Until there is one."""
        deadline = time.monotonic() + PATIENCE
        while not self.on_loop(lambda: any(host.connected for host in self.control.hosts())):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def close(self) -> None:
        """End it all."""
        with contextlib.suppress(AttributeError):
            self.run(self._gateway.stop(end_hosts=True))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def log(self) -> str:
        file = self.home.folder / "host" / "host.log"
        return file.read_text(errors="replace") if file.exists() else ""
