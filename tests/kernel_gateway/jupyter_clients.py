"""What speaks to the gateway's Jupyter API: a kernel's WebSocket, and a stock Jupyter server."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import urllib3
from websockets.sync.client import ClientConnection, connect

PATIENCE = 60.0
"""Seconds after which something that should have happened is missed."""


class Channels:
    """A kernel's WebSocket, as a page of JupyterLab has it (the older protocol, in JSON)."""

    def __init__(self, url: str, kernel: str, token: str, **headers: str) -> None:
        self._session = uuid.uuid4().hex
        query = f"session_id={self._session}" + (f"&token={token}" if token else "")
        self._url = f"{url.replace('http', 'ws', 1)}/api/kernels/{kernel}/channels?{query}"
        self._headers = headers
        self._connect()

    def _connect(self) -> None:
        self._socket: ClientConnection = connect(
            self._url, additional_headers=self._headers, max_size=None
        ).__enter__()

    def reconnect(self) -> None:
        """Hang up, and connect again."""
        self._socket.close()
        self._connect()

    def send(self, code: str) -> str:
        """Run a cell; returns the message's id."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "username": "",
            "session": self._session,
            "date": "",
            "version": "5.3",
        }
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        message = {
            "channel": "shell",
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": content,
            "buffers": [],
        }
        self._socket.send(json.dumps(message))
        return header["msg_id"]

    def until(self, kind: str, of: str = "") -> tuple[Any, list[Any]]:
        """Wait for such a message. Returns it, and those before it."""
        before: list[Any] = []
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message["msg_type"] == kind and (not of or message["parent_header"].get("msg_id") == of):
                return message["content"], before
            before.append(message)

    def run(self, code: str) -> tuple[Any, str]:
        """Run a cell. Returns its reply, and what it printed."""
        sent = self.send(code)
        printed = ""
        reply: Any = None
        idle = False
        while reply is None or not idle:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message["parent_header"].get("msg_id") != sent:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                printed += content["text"]
            elif message["msg_type"] == "execute_reply":
                reply = content
            idle = idle or content.get("execution_state") == "idle"
        return reply, printed

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def channels_of(url: str, kernel: str, token: str, **headers: str) -> Iterator[Channels]:
    channels = Channels(url, kernel, token, **headers)
    try:
        yield channels
    finally:
        channels.close()


class JupyterServer:
    """``jupyter server --gateway-url=…``, as a user starts it."""

    def __init__(self, folder: Path, gateway: str, token: str) -> None:
        self.token = "of-the-user's-own-server"
        self._info = folder / "runtime"
        environment = {
            **os.environ,
            "JUPYTER_RUNTIME_DIR": str(self._info),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
        }
        options = {
            "ServerApp.token": self.token,
            "ServerApp.port": "0",
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.root_dir": str(folder),
            "ServerApp.open_browser": "False",
            "ServerApp.allow_root": "True",
            "GatewayClient.auth_token": token,
        }
        self.log = folder / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "jupyter", "server", f"--gateway-url={gateway}/jupyter"),
                    *(f"--{name}={value}" for name, value in options.items()),
                ],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.url = self._find()

    def _find(self) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            for file in self._info.glob("jpserver-*.json"):
                # It is there a moment before the server listens.
                with contextlib.suppress(ValueError, urllib3.exceptions.HTTPError):
                    url = str(json.loads(file.read_text())["url"]).rstrip("/")
                    urllib3.request("GET", f"{url}/api", retries=False, timeout=PATIENCE)
                    return url
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = urllib3.request(
            method,
            self.url + path,
            headers={"Authorization": f"token {self.token}"},
            json=body,
            retries=False,
            timeout=PATIENCE,
        )
        assert answer.status < 300, (answer.data, self.log.read_text())
        return answer.json() if answer.data else None

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
