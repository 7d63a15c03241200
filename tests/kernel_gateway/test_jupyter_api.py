"""The gateway's Jupyter API, as JupyterLab and VS Code use it, and a stock Jupyter server before it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from hosting import PATIENCE, Hosting, hosting_in
from jupyter_clients import Channels, JupyterServer, channels_of

pytestmark = [pytest.mark.slow, pytest.mark.root]

CONFIG = """
[host]
simulate_gpus = { H100 = 1 }

[gateway]
origins = ["https://lab.example"]

[[kernels]]
name = "Short-lived"
idle_timeout = 1
"""


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with hosting_in(tmp_path_factory.mktemp("hosting") / "home", CONFIG) as hosting:
        yield hosting


@contextlib.contextmanager
def kernel_of(hosting: Hosting, name: str = "skylift-cpu", token: str | None = None) -> Iterator[str]:
    """A kernel, by REST."""
    answer = hosting.ask("POST", "/api/kernels", token, {"name": name})
    assert 201 == answer.status, answer.data
    kernel = answer.json()["id"]
    try:
        yield kernel
    finally:
        hosting.ask("DELETE", f"/api/kernels/{kernel}", token)


# --- what is there -----------------------------------------------------------------------------------


def test_kernelspecs_for_what_is_offered(hosting: Hosting) -> None:
    answer = hosting.ask("GET", "/api/kernelspecs").json()
    assert "skylift-cpu" == answer["default"]
    assert {
        "skylift-cpu": "Python 3 · CPU",
        "skylift-h100": "Python 3 · H100 (simulated)",
        "skylift-short-lived": "Short-lived",
    } == {name: each["spec"]["display_name"] for name, each in answer["kernelspecs"].items()}
    h100 = answer["kernelspecs"]["skylift-h100"]
    assert {"provisioner_name": "skylift-provisioner", "config": {"gpu": "H100"}} == h100["spec"]["metadata"][
        "kernel_provisioner"
    ]
    icon = urllib3.request(
        "GET",
        hosting.url + h100["resources"]["logo-64x64"],
        headers={"Authorization": f"token {hosting.token}"},
    )
    assert icon.data.startswith(b"\x89PNG")


def test_what_vs_code_asks_for(hosting: Hosting) -> None:
    headers = {"Authorization": ""}
    for path in (
        "/api",
        "/api/kernelspecs",
        "/api/kernels",
        "/api/sessions",
        "/api/me",
        "/api/status",
        "/api/contents",
    ):
        answer = urllib3.request("GET", f"{hosting.url}/jupyter{path}?token={hosting.token}", headers=headers)
        assert 200 == answer.status, path
    made = hosting.ask("POST", "/api/contents", body={"type": "notebook"})
    assert 201 == made.status, made.data
    path = made.json()["path"]
    renamed = hosting.ask("PATCH", f"/api/contents/{path}", body={"path": "mine.ipynb"})
    assert 200 == renamed.status, renamed.data
    read = hosting.ask("GET", "/api/contents/mine.ipynb?content=1")
    assert "notebook" == read.json()["type"]
    session = hosting.ask(
        "POST",
        "/api/sessions",
        body={"path": "mine.ipynb", "name": "mine", "type": "notebook", "kernel": {"name": "skylift-cpu"}},
    )
    assert 201 == session.status, session.data
    assert "mine.ipynb" == hosting.calls()[0]["notebook"]
    kernel = session.json()["kernel"]["id"]
    with channels_of(f"{hosting.url}/jupyter", kernel, hosting.token) as channels:
        assert "2\n" == channels.run("print(1 + 1)")[1]
    assert 204 == hosting.ask("DELETE", f"/api/sessions/{session.json()['id']}").status
    assert [] == hosting.ask("GET", "/api/kernels").json()
    assert 204 == hosting.ask("DELETE", "/api/contents/mine.ipynb").status
    assert 404 == hosting.ask("GET", "/api/contents/mine.ipynb").status


def test_other_parts_of_a_jupyter_server_are_not_there(hosting: Hosting) -> None:
    answer = hosting.ask("GET", "/lab")
    assert 404 == answer.status
    assert "Of a Jupyter server, a Skylift gateway has the kernels only." == answer.json()["message"]
    assert 404 == hosting.ask("POST", "/api/terminals").status


def test_a_kernel_that_is_not_there(hosting: Hosting) -> None:
    answer = hosting.ask("POST", "/api/kernels", body={"name": "skylift-abacus"})
    assert 404 == answer.status
    assert "There is no kernel 'skylift-abacus' here." == answer.json()["message"]
    impossible = hosting.ask("POST", "/api/kernels", body={"name": "skylift-b200"})
    assert impossible.status in (400, 503)
    assert impossible.json()["message"].startswith("Python 3 · B200 did not start: ")


# --- who may -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "wrong"])
def test_no_way_in_without_the_right_token(hosting: Hosting, token: str) -> None:
    for method, path in (
        ("GET", "/api"),
        ("POST", "/api/kernels"),
        ("GET", "/api/kernels/a-b-c-d-e/channels"),
    ):
        answer = hosting.ask(method, path, token)
        assert 401 == answer.status
        assert "--GatewayClient.auth_token=<token>" in answer.json()["message"]


def test_code_in_a_container_has_none(hosting: Hosting) -> None:
    token = hosting.on_loop(lambda: hosting.control.tokens.mint("co-00000001", "local"))
    answer = hosting.ask("GET", "/api/kernels", token)
    hosting.on_loop(lambda: hosting.control.tokens.revoke("co-00000001"))
    assert 403 == answer.status
    assert answer.json()["message"].startswith("Code in a container cannot use Jupyter kernels.")


def test_pages_of_other_origins(hosting: Hosting) -> None:
    refused = hosting.ask("GET", "/api/kernels", Origin="https://evil.example")
    assert 403 == refused.status
    assert "Pages of https://evil.example may not use this gateway." in refused.json()["message"]
    allowed = hosting.ask("GET", "/api/kernels", Origin="https://lab.example")
    assert (200, "https://lab.example") == (allowed.status, allowed.headers["Access-Control-Allow-Origin"])
    asked = urllib3.request(
        "OPTIONS", f"{hosting.url}/jupyter/api/kernels", headers={"Origin": "https://lab.example"}
    )
    assert 204 == asked.status


def test_users_do_not_see_each_others_kernels(hosting: Hosting) -> None:
    other = hosting.token_of("somebody-else")
    with kernel_of(hosting) as mine, kernel_of(hosting, token=other) as theirs:
        assert [mine] == [kernel["id"] for kernel in hosting.ask("GET", "/api/kernels").json()]
        assert [theirs] == [kernel["id"] for kernel in hosting.ask("GET", "/api/kernels", other).json()]
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/interrupt"), ("POST", "/restart")):
            answer = hosting.ask(method, f"/api/kernels/{mine}{path}", other)
            # Whatever goes wrong with a restart is a 500 to jupyter_server.
            assert answer.status == (500 if path == "/restart" else 404)
        with pytest.raises(Exception, match="404"):
            Channels(f"{hosting.url}/jupyter", mine, other)
        assert ["kernel"] == [call["kind"] for call in hosting.calls() if call["state"] == "running"]


# --- their lives -------------------------------------------------------------------------------------


def test_interrupt_and_restart_by_rest(hosting: Hosting) -> None:
    with (
        kernel_of(hosting, "skylift-h100") as kernel,
        channels_of(f"{hosting.url}/jupyter", kernel, hosting.token) as channels,
    ):
        assert "H100\n" == channels.run("import os; print(os.environ['SKYLIFT_SIMULATED_GPU'])")[1]
        sent = channels.send("print('begun', flush=True); import time; time.sleep(600)")
        channels.until("stream", sent)
        assert 204 == hosting.ask("POST", f"/api/kernels/{kernel}/interrupt").status
        assert "KeyboardInterrupt" == channels.until("execute_reply", sent)[0]["ename"]
        restarted = hosting.ask("POST", f"/api/kernels/{kernel}/restart")
        assert 200 == restarted.status, restarted.data
        # As JupyterLab does after a restart.
        channels.reconnect()
        assert "NameError" == channels.run("os")[0]["ename"]


def test_one_that_crashes_is_started_again_and_the_page_is_told(hosting: Hosting) -> None:
    with (
        kernel_of(hosting) as kernel,
        channels_of(f"{hosting.url}/jupyter", kernel, hosting.token) as channels,
    ):
        channels.run("import os")
        channels.send("os._exit(3)")
        while "restarting" not in channels.until("status")[0]["execution_state"]:
            pass
        channels.reconnect()
        assert "NameError" == channels.run("os")[0]["ename"]


def test_one_whose_run_is_cancelled_is_not_started_again(hosting: Hosting) -> None:
    with (
        kernel_of(hosting) as kernel,
        channels_of(f"{hosting.url}/jupyter", kernel, hosting.token) as channels,
    ):
        channels.run("kept = 1")
        call = hosting.calls()[0]["call_id"]
        answer = urllib3.request(
            "POST",
            f"{hosting.url}/v1/calls/{call}/cancel",
            headers={"Authorization": f"Bearer {hosting.token}"},
            json={"reason": "too dear"},
        )
        assert 202 == answer.status
        while "dead" != channels.until("status")[0]["execution_state"]:
            pass
        assert [] == hosting.ask("GET", "/api/kernels").json()
    hosting.wait_for_containers(lambda count: count == 0)
    assert ("cancelled", call) == (hosting.calls()[0]["state"], hosting.calls()[0]["call_id"])
    assert {} == hosting.jupyter().kernels.kernel_starter.book.kernels


def test_idle_ones_are_ended(hosting: Hosting) -> None:
    with kernel_of(hosting) as kept, kernel_of(hosting, "skylift-short-lived") as short:
        deadline = time.monotonic() + PATIENCE
        while [kept] != (left := [kernel["id"] for kernel in hosting.ask("GET", "/api/kernels").json()]):
            assert {kept, short} == set(left)
            assert time.monotonic() < deadline
            time.sleep(0.1)


# --- a stock Jupyter server before it -------------------------------------------------------------------


@pytest.fixture
def server(hosting: Hosting, tmp_path: Path) -> Iterator[JupyterServer]:
    server = JupyterServer(tmp_path, hosting.url, hosting.token)
    try:
        yield server
    finally:
        server.close()
        sys.stderr.write(server.log.read_text())


def test_a_notebook_server_with_our_gateway(server: JupyterServer, hosting: Hosting) -> None:
    specs = server.ask("GET", "/api/kernelspecs")["kernelspecs"]
    assert "Python 3 · H100 (simulated)" == specs["skylift-h100"]["spec"]["display_name"]
    session = server.ask(
        "POST",
        "/api/sessions",
        {"path": "study.ipynb", "name": "study", "type": "notebook", "kernel": {"name": "skylift-h100"}},
    )
    kernel = session["kernel"]["id"]
    with channels_of(server.url, kernel, server.token) as channels:
        assert "H100\n" == channels.run("import os; print(os.environ['SKYLIFT_SIMULATED_GPU'])")[1]
        sent = channels.send("import matplotlib.pyplot as plt; _ = plt.plot([1, 2])")
        assert "image/png" in channels.until("display_data", sent)[0]["data"]
        sent = channels.send("print('begun', flush=True); import time; time.sleep(600)")
        channels.until("stream", sent)
        server.ask("POST", f"/api/kernels/{kernel}/interrupt")
        assert "KeyboardInterrupt" == channels.until("execute_reply", sent)[0]["ename"]
        server.ask("POST", f"/api/kernels/{kernel}/restart")
    with channels_of(server.url, kernel, server.token) as channels:
        assert "NameError" == channels.run("os")[0]["ename"]
    server.ask("DELETE", f"/api/sessions/{session['id']}")
    hosting.wait_for_containers(lambda count: count == 0)
    assert "done" == hosting.calls()[0]["state"]
