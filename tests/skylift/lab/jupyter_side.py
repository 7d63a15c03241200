"""A real Jupyter server with the extension, a real gateway, and what a page would send."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import urllib3
from running_gateway import PATIENCE, RunningGateway, end
from websockets.sync.client import ClientConnection, connect

JUPYTER_TOKEN = "the-jupyter-token"


class LocalGateway(RunningGateway):
    """Its host isolates nothing; the page may have started it again."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, '[host]\nisolation = "process"\n[prices]\ncpu = 1.0\n')

    def close(self) -> None:
        """End gateway and host, whoever started them."""
        if self.process is None or self.process.poll() is not None:
            with contextlib.suppress(OSError, ValueError):
                pid = int(json.loads((self.home / "gateway.json").read_bytes())["pid"])
                if str(self.home).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    end(pid)
        super().close()


class Page:
    """What a page sends to its Jupyter server. All that comes back is kept, to see that no token is in it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[bytes] = []
        self._pool = urllib3.PoolManager(timeout=PATIENCE, retries=False)

    def ask(
        self, method: str, path: str, body: Any = None, *, token: str = JUPYTER_TOKEN, **headers: str
    ) -> urllib3.BaseHTTPResponse:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            fields["Authorization"] = f"token {token}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        answer = self._pool.request(
            method, f"{self.url}skylift/{path}", body=data, headers=fields, redirect=False
        )
        self.seen += [answer.data, repr(answer.headers).encode()]
        return answer

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert 200 == answer.status, answer.data
        return answer.json()

    @contextlib.contextmanager
    def live(self, **headers: str) -> Iterator[LivePage]:
        fields = {"Authorization": f"token {JUPYTER_TOKEN}", **headers}
        url = self.url.replace("http", "ws", 1) + "skylift/live"
        with connect(url, additional_headers=fields, proxy=None) as websocket:
            yield LivePage(websocket, self.seen)


class LivePage:
    """The page's end of the live feed."""

    def __init__(self, websocket: ClientConnection, seen: list[bytes]) -> None:
        self.websocket = websocket
        self._seen = seen

    def say(self, **frame: Any) -> None:
        self.websocket.send(json.dumps(frame))

    def expect(self, kind: str, holds: Callable[[Any], Any] = lambda frame: True) -> Any:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            text = self.websocket.recv(timeout=PATIENCE)
            self._seen.append(text.encode() if isinstance(text, str) else text)
            frame = json.loads(text)
            if frame["type"] == kind and holds(frame):
                return frame
        raise AssertionError(f"no {kind}")


@contextlib.contextmanager
def jupyter_server(folder: Path, environment: dict[str, str]) -> Iterator[Page]:
    """``jupyter server`` on the loopback, with the extension."""
    folder.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("SKYLIFT", "JUPYTER"))
    }
    places = {f"JUPYTER_{what}_DIR": str(folder / what.lower()) for what in ("CONFIG", "DATA", "RUNTIME")}
    with (folder / "jupyter.log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"),
                *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
                f"--IdentityProvider.token={JUPYTER_TOKEN}",
                "--ServerApp.base_url=/user/me/",
                f"--ServerApp.root_dir={folder}",
                "--ServerApp.jpserver_extensions={'skylift.lab': True}",
            ],
            stdout=log,
            stderr=log,
            env={**inherited, **places, **environment},
        )
        try:
            page = Page(f"http://127.0.0.1:{port}/user/me/")
            deadline = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(urllib3.exceptions.HTTPError):
                    if page.ask("GET", "status").status == 200:
                        break
                assert process.poll() is None, (folder / "jupyter.log").read_text()
                assert time.monotonic() < deadline, (folder / "jupyter.log").read_text()
                time.sleep(0.1)
            yield page
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    assert "Traceback" not in (text := (folder / "jupyter.log").read_text()), text
