"""Hosted Jupyter kernels when their gateway, or its host, goes."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import urllib3
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


def containers(gateway: RunningGateway) -> list[Any]:
    running: list[Any] = gateway.get("/v1/containers?running=true")
    return running


def test_kernels_end_with_a_gateway_that_is_stopped(gateway: RunningGateway) -> None:
    start_kernel(gateway)
    gateway.restart_politely()
    gateway.wait_for("/v1/hosts", lambda hosts: hosts and hosts[0]["connected"])
    gateway.wait_for("/v1/containers?running=true", lambda running: running == [])
    (call,) = gateway.get("/v1/calls")["calls"]
    assert "cancelled" == call["state"]
    assert [] == ask(gateway, "GET", "/api/kernels")
    start_kernel(gateway)


def test_nothing_is_left_of_kernels_whose_gateway_was_killed(gateway: RunningGateway) -> None:
    start_kernel(gateway)
    gateway.restart()
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
