"""Hosted Jupyter kernels when their gateway, or its host, goes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import urllib3
from jupyter_clients import JupyterServer, channels_of
from running_gateway import PATIENCE, RunningGateway

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


@pytest.mark.parametrize("how", ["restart", "restart_politely"])
def test_kernels_outlive_their_gateway(gateway: RunningGateway, how: str) -> None:
    kernel = start_kernel(gateway)
    with channels_of(f"{gateway.url}/jupyter", kernel, gateway.token) as channels:
        channels.run("kept = 6 * 7")
    getattr(gateway, how)()
    found = gateway.wait_for("/jupyter/api/kernels", lambda kernels: len(kernels) == 1)
    assert kernel == found[0]["id"]
    with channels_of(f"{gateway.url}/jupyter", kernel, gateway.token) as channels:
        assert "42\n" == channels.run("print(kept)")[1]
        ask(gateway, "POST", f"/api/kernels/{kernel}/restart")
    # As JupyterLab does after a restart.
    with channels_of(f"{gateway.url}/jupyter", kernel, gateway.token) as channels:
        assert "False\n" == channels.run("print('kept' in vars())")[1]
    states = [call["state"] for call in gateway.get("/v1/calls")["calls"]]
    assert ["running", "done"] == states
    ask(gateway, "DELETE", f"/api/kernels/{kernel}")
    gateway.wait_for("/v1/containers?running=true", lambda running: running == [])
    gateway.restart()
    assert [] == ask(gateway, "GET", "/api/kernels")


def test_a_notebook_goes_on_when_the_gateway_is_restarted(gateway: RunningGateway, tmp_path: Path) -> None:
    gateway.wait_for("/v1/hosts", lambda hosts: hosts and hosts[0]["connected"])
    server = JupyterServer(tmp_path, gateway.url, gateway.token)
    try:
        kernel = server.ask("POST", "/api/kernels", {"name": "skylift-cpu"})["id"]
        with channels_of(server.url, kernel, server.token) as channels:
            channels.run("kept = 6 * 7")
            gateway.restart()
            # Its server dials again within two seconds; the page notices nothing.
            gateway.wait_for("/jupyter/api/kernels", lambda found: found and found[0]["connections"] == 1)
            assert "42\n" == channels.run("print(kept)")[1]
            server.ask("POST", f"/api/kernels/{kernel}/interrupt")
        server.ask("DELETE", f"/api/kernels/{kernel}")
    finally:
        server.close()
        print(server.log.read_text())
    gateway.wait_for("/v1/containers?running=true", lambda running: running == [])


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
