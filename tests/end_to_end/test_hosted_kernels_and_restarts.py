"""Hosted Jupyter kernels when their gateway, or its host, goes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3
from running_gateway import PATIENCE, RunningGateway
from websockets.sync.client import ClientConnection, connect

pytestmark = pytest.mark.root


def ask(gateway: RunningGateway, method: str, path: str, body: Any = None) -> Any:
    answer = urllib3.request(
        method,
        f"{gateway.url}/jupyter{path}",
        headers={"Authorization": f"token {gateway.token}"},
        json=body,
        retries=False,
        timeout=PATIENCE,
    )
    assert answer.status < 300, answer.data
    return answer.json() if answer.data else None


def start_kernel(gateway: RunningGateway) -> str:
    gateway.wait_for("/v1/hosts", lambda hosts: hosts and hosts[0]["connected"])
    return str(ask(gateway, "POST", "/api/kernels", {"name": "skylift-cpu"})["id"])


@contextlib.contextmanager
def channels(gateway: RunningGateway, kernel: str) -> Iterator[ClientConnection]:
    url = gateway.url.replace("http", "ws", 1)
    path = f"/jupyter/api/kernels/{kernel}/channels?session_id=tests&token={gateway.token}"
    with connect(url + path, max_size=None) as socket:
        yield socket


def run(socket: ClientConnection, code: str) -> str:
    """What a cell printed."""
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "tests", "version": "5.3"}
    header |= {"username": "", "date": ""}
    content = {"code": code, "silent": False, "allow_stdin": False}
    message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
    socket.send(json.dumps(message))
    printed = ""
    while True:
        answer = json.loads(socket.recv(timeout=PATIENCE))
        if answer["parent_header"].get("msg_id") == header["msg_id"]:
            printed += answer["content"].get("text", "")
            if answer["content"].get("execution_state") == "idle":
                return printed


@pytest.mark.parametrize("how", ["restart", "restart_politely"])
def test_kernels_outlive_their_gateway(gateway: RunningGateway, how: str) -> None:
    kernel = start_kernel(gateway)
    with channels(gateway, kernel) as socket:
        run(socket, "kept = 6 * 7")
    getattr(gateway, how)()
    found = gateway.wait_for("/jupyter/api/kernels", lambda kernels: len(kernels) == 1)
    assert kernel == found[0]["id"]
    with channels(gateway, kernel) as socket:
        assert "42\n" == run(socket, "print(kept)")
        ask(gateway, "POST", f"/api/kernels/{kernel}/restart")
    # As JupyterLab does after a restart.
    with channels(gateway, kernel) as socket:
        assert "False\n" == run(socket, "print('kept' in vars())")
    states = [call["state"] for call in gateway.get("/v1/calls")["calls"]]
    assert ["running", "done"] == states
    ask(gateway, "DELETE", f"/api/kernels/{kernel}")
    gateway.wait_for("/v1/containers?running=true", lambda running: running == [])
    gateway.restart()
    assert [] == ask(gateway, "GET", "/api/kernels")


def test_one_that_the_next_gateway_cannot_take_up_is_ended(gateway: RunningGateway) -> None:
    start_kernel(gateway)
    gateway.kill()
    (book,) = (gateway.home / "jupyter").glob("*.json")
    book.write_text("{")
    gateway.start()
    gateway.wait_for("/v1/hosts", lambda hosts: hosts and hosts[0]["connected"])
    gateway.wait_for("/v1/containers?running=true", lambda running: running == [])
    (call,) = gateway.get("/v1/calls")["calls"]
    assert "cancelled" == call["state"]
    assert "no client asked for it after the gateway was restarted" in call["error"]
    assert [] == ask(gateway, "GET", "/api/kernels")
    start_kernel(gateway)


def test_kernels_of_a_host_that_was_killed(gateway: RunningGateway) -> None:
    kernel = start_kernel(gateway)
    host = gateway._host()
    assert host is not None

    os.kill(host, signal.SIGKILL)
    # The next host comes, and jupyter_server starts the kernel again there.
    first = gateway.wait_for(
        "/v1/calls", lambda page: len(page["calls"]) == 2 and page["calls"][0]["state"] == "running"
    )["calls"]
    assert ["kernel", "kernel"] == [call["kind"] for call in first]
    assert kernel == ask(gateway, "GET", "/api/kernels")[0]["id"]
