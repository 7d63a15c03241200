"""What the sidebar lists and does, against the real control plane and a host that only pretends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import urllib3
from raw_client import RawClient, raw_client
from raw_host import raw_host, serve_calls
from served_gateway import check, problem

from skylift.backend.control import VERSION, ControlPlane
from skylift.backend.database import Database
from skylift.backend.settings import Settings
from skylift.kernel_gateway.home import GatewayHome
from skylift.kernel_gateway.host_socket import HostServer
from skylift.kernel_gateway.outbox import Outbox
from skylift.kernel_gateway.server import GatewayApplication, GatewayServer
from skylift.lazyfs.store import LocalStore
from skylift.wire import (
    Define,
    Events,
    FunctionSpec,
    ImageSpec,
    SnapshotRef,
    Submit,
    TemplateInfo,
    TemplatesChanged,
    new_id,
)

pytestmark = pytest.mark.anyio

IMAGE = ImageSpec(
    kind="environment", machine="m", python="p", python_version="3.11.7", mounts=(), sys_path=()
)
SPEC = FunctionSpec(app="notebook", name="train", image=IMAGE)


def echo(value: object) -> object:
    return value


def other(value: object) -> object:
    return value


@dataclass
class Lists:
    """A gateway and a client of it."""

    url: str
    token: str
    control: ControlPlane
    client: RawClient

    async def ask(self, method: str, path: str, body: bytes | None = None) -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": f"Bearer {self.token}"}
        return await asyncio.to_thread(
            urllib3.request, method, self.url + path, body=body, headers=headers, retries=False
        )

    async def get(self, path: str) -> Any:
        answer = await self.ask("GET", path)
        assert 200 == answer.status, answer.data
        return answer.json()

    async def call(self, function: Any = echo) -> str:
        """A call that is over. Ids begin with the time, in milliseconds."""
        await asyncio.sleep(0.002)
        call_id = await self.client.submit(function, 1)
        async for _ in self.client.events(call_id):
            pass
        return call_id

    async def endless(self) -> str:
        """A call that runs on."""
        await asyncio.sleep(0.002)
        call_id = await self.client.submit(echo, 1, kind="generator")
        while (await self.client.expect(Events)).call_id != call_id:
            pass
        return call_id


@pytest.fixture
async def lists(tmp_path: Path) -> AsyncIterator[Lists]:
    settings = Settings(home=tmp_path, prices={"cpu": 0.04})
    store = LocalStore(tmp_path / "store")
    control = ControlPlane(settings, Database(tmp_path / "skylift.db"), store, [])
    await control.start()
    outbox = Outbox(asyncio.get_running_loop())
    server = GatewayServer(
        GatewayApplication(control, store, settings.gateway, GatewayHome(tmp_path), outbox)
    )
    hosts = HostServer(tmp_path, control, outbox)
    await hosts.listen()
    url = server.bind("127.0.0.1", 0)
    server.serve()
    token = (tmp_path / "token").read_text().strip()
    host_token = (tmp_path / "host-token").read_text().strip()
    async with raw_host(tmp_path, host_token) as host, raw_client(url, token) as client:
        serving = asyncio.create_task(serve_calls(host))
        yield Lists(url, token, control, client)
        serving.cancel()
    server.stop_listening()
    await control.stop(end_hosts=False)
    await hosts.close()
    await server.close()


async def test_health_needs_no_token(lists: Lists) -> None:
    answer = await asyncio.to_thread(urllib3.request, "GET", lists.url + "/v1/health")
    assert {"gateway_id": lists.control.gateway_id, "version": VERSION} == answer.json()


async def test_calls_newest_first(lists: Lists) -> None:
    ids = [await lists.call() for _ in range(3)]
    running = await lists.endless()
    page = await lists.get("/v1/calls")
    assert [running, *reversed(ids)] == [call["call_id"] for call in page["calls"]]
    assert "" == page["next"]
    assert ["running", "done", "done", "done"] == [call["state"] for call in page["calls"]]
    assert {"echo"} == {call["function"] for call in page["calls"]}


async def test_calls_page_by_page(lists: Lists) -> None:
    ids = [await lists.call() for _ in range(5)]
    found: list[str] = []
    before = ""
    for length in (2, 2, 1):
        page = await lists.get(f"/v1/calls?limit=2&before={before}")
        assert length == len(page["calls"])
        found += [call["call_id"] for call in page["calls"]]
        before = page["next"]
    assert "" == before
    assert sorted(ids, reverse=True) == found


async def test_calls_that_are_asked_for(lists: Lists) -> None:
    done, of_other = await lists.call(), await lists.call(other)
    running = await lists.endless()
    for query, expected in {
        "state=running": [running],
        "state=done": [of_other, done],
        "state=done,running&limit=2": [running, of_other],
        "state=done&state=failed": [of_other, done],
        "kind=generator": [running],
        "function=other": [of_other],
        "notebook=test.ipynb": [running, of_other, done],
        "notebook=another.ipynb": [],
        "search=oth": [of_other],
        "app=raw": [running, of_other, done],
        "since=99999999999": [],
    }.items():
        page = await lists.get(f"/v1/calls?{query}")
        assert expected == [call["call_id"] for call in page["calls"]], query


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v1/calls?stat=done", "/v1/calls: Object contains unknown field `stat`. Its parameters are state,"),
        ("/v1/calls?state=finished", "/v1/calls: Invalid enum value 'finished' - at `$.state[0]`."),
        ("/v1/calls?since=yesterday", "/v1/calls: Expected `float`, got `str` - at `$.since`."),
        ("/v1/calls?limit=0", "limit must be from 1 to 1000, not 0."),
        ("/v1/containers?running=perhaps", "/v1/containers: Expected `bool`, got `str` - at `$.running`."),
        ("/v1/spend?by=moon", "/v1/spend: Invalid enum value 'moon' - at `$.by`."),
        ("/v1/spend?days=0", "days must be from 1 to 3660, not 0."),
        ("/v1/calls/fc-00000000/output?from_seq=x", "Expected `int`, got `str` - at `$.from_seq`."),
    ],
)
async def test_a_wrong_parameter_is_named(lists: Lists, path: str, message: str) -> None:
    answer = await lists.ask("GET", path)
    check(answer, "GET", 400, "InvalidError")
    assert message in problem(answer).message


async def test_a_call_and_its_output(lists: Lists) -> None:
    call_id = await lists.endless()
    detail = await lists.get(f"/v1/calls/{call_id}")
    assert (call_id, "running") == (detail["call"]["call_id"], detail["call"]["state"])
    assert "echo" == detail["container"]["function"]
    page = await lists.get(f"/v1/calls/{call_id}/output")
    assert [(0, "output", "going on\n")] == [
        (item["seq"], item["kind"], item["text"]) for item in page["items"]
    ]
    assert 1 == page["next_seq"]
    assert [] == (await lists.get(f"/v1/calls/{call_id}/output?from_seq=1"))["items"]


@pytest.mark.parametrize("path", ["", "/output"])
async def test_a_call_that_there_is_not(lists: Lists, path: str) -> None:
    answer = await lists.ask("GET", f"/v1/calls/fc-00000000{path}")
    check(answer, "GET", 404, "NotFoundError")
    assert "There is no call fc-00000000 of yours." in problem(answer).message


async def test_a_call_is_cancelled(lists: Lists) -> None:
    call_id = await lists.endless()
    answer = await lists.ask("POST", f"/v1/calls/{call_id}/cancel", b'{"reason": "enough"}')
    assert (202, {"accepted": True}) == (answer.status, answer.json())
    frame = await lists.client.expect(Events)
    assert frame.end is not None
    assert "cancelled" == frame.end.state
    again = await lists.ask("POST", f"/v1/calls/{call_id}/cancel")
    check(again, "POST", 409, "ConflictError")
    assert f"Call {call_id} is over already: cancelled." == problem(again).message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "Input data was truncated."),
        (b'{"mode": "kill"}', "Invalid enum value 'kill' - at `$.mode`."),
        (b'{"why": ""}', "Object contains unknown field `why`."),
    ],
)
async def test_a_wrong_body_is_named(lists: Lists, body: bytes, message: str) -> None:
    answer = await lists.ask("POST", "/v1/calls/fc-00000000/cancel", body)
    check(answer, "POST", 400, "InvalidError")
    assert f"The body of POST /v1/calls/fc-00000000/cancel: {message}" == problem(answer).message


async def test_cancelling_a_call_that_there_is_not(lists: Lists) -> None:
    check(await lists.ask("POST", "/v1/calls/fc-00000000/cancel"), "POST", 404, "NotFoundError")


async def gone(lists: Lists) -> None:
    while await lists.get("/v1/containers"):
        pass


async def test_containers_come_and_go(lists: Lists) -> None:
    await lists.call()
    (container,) = await lists.get("/v1/containers")
    assert ("ready", "echo", 1) == (container["state"], container["function"], container["calls"])
    path = f"/v1/containers/{container['container_id']}"
    assert 202 == (await lists.ask("DELETE", path)).status
    await asyncio.wait_for(gone(lists), 20)
    (container,) = await lists.get("/v1/containers?running=false")
    assert "exited" == container["state"]
    answer = await lists.ask("DELETE", path)
    check(answer, "DELETE", 404, "NotFoundError")
    assert f"There is no running container {container['container_id']} of yours." == problem(answer).message


async def test_sessions_hosts_and_spend(lists: Lists) -> None:
    await lists.call()
    assert [] == await lists.get("/v1/sessions")
    answer = await lists.ask("DELETE", "/v1/sessions/se-00000000")
    check(answer, "DELETE", 404, "NotFoundError")
    assert "There is no session se-00000000 of yours." == problem(answer).message
    (host,) = await lists.get("/v1/hosts")
    assert ("ho-00000000", True, 1) == (host["host_id"], host["connected"], host["containers"])
    spend = await lists.get("/v1/spend?by=function&days=7")
    assert ("function", "raw.echo") == (spend["by"], spend["rows"][0]["key"])


async def test_garbage_is_collected_when_somebody_asks(lists: Lists) -> None:
    answer = await lists.ask("POST", "/v1/store/collect", b'{"dry_run": true}')
    assert 200 == answer.status
    assert {"deleted": 0, "freed": 0, "left": 0, "reason": ""}.items() <= answer.json().items()
    answer = await lists.ask("POST", "/v1/store/collect", b'{"all": true}')
    check(answer, "POST", 400, "InvalidError")


async def a_session(lists: Lists) -> str:
    """A session that runs a cell."""
    session_id = new_id("se")
    port = lists.control.registry.clients[lists.client.client_id].port
    assert port is not None
    function_id = "fu-" + "0" * 32
    spec = msgspec.structs.replace(SPEC, session=session_id, session_name="train")
    lists.control.client_message(port, Define(function_id=function_id, spec=spec))
    call_id = new_id("fc")
    lists.control.client_message(port, Submit(call_id=call_id, function_id=function_id, kind="cell"))
    while (await lists.client.expect(Events)).call_id != call_id:
        pass
    return session_id


async def test_a_session_is_put_to_sleep_and_woken(lists: Lists) -> None:
    session_id = await a_session(lists)
    path = f"/v1/sessions/{session_id}"
    busy = await lists.ask("POST", f"{path}/sleep")
    check(busy, "POST", 409, "ConflictError")
    assert "session train is running a cell: interrupt it or wait." == problem(busy).message
    (session,) = await lists.get("/v1/sessions")
    await lists.ask("POST", f"/v1/calls/{session['running']}/cancel")
    while (await lists.client.expect(Events)).end is None:
        pass
    answer = await lists.ask("POST", f"{path}/sleep")
    assert 200 == answer.status, answer.data
    assert {"seconds": 0.8, "size": 210_000_000, "unpacked": 600_000_000} == answer.json()
    (session,) = await lists.get("/v1/sessions")
    assert ("asleep", 210_000_000, "") == (session["state"], session["size"], session["problem"])
    assert session["since"] > 0
    assert 0 == (await lists.ask("POST", f"{path}/sleep")).json()["seconds"]
    answer = await lists.ask("POST", f"{path}/wake")
    assert (200, {"seconds"}) == (answer.status, set(answer.json()))
    (session,) = await lists.get("/v1/sessions")
    assert ("idle", 0.0) == (session["state"], session["since"])
    assert 200 == (await lists.ask("POST", f"{path}/sleep")).status
    assert 202 == (await lists.ask("DELETE", path)).status
    assert [] == await lists.get("/v1/sessions")


@pytest.mark.parametrize("what", ["sleep", "wake"])
async def test_what_is_no_session_neither_sleeps_nor_wakes(lists: Lists, what: str) -> None:
    answer = await lists.ask("POST", f"/v1/sessions/se-00000000/{what}")
    check(answer, "POST", 404, "NotFoundError")
    assert "There is no session se-00000000 of yours." == problem(answer).message
    answer = await lists.ask("POST", f"/v1/sessions/se-00000000/{what}", b'{"force": true}')
    check(answer, "POST", 400, "InvalidError")
    assert "unknown field `force`" in problem(answer).message


async def test_templates_are_listed(lists: Lists) -> None:
    assert [] == await lists.get("/v1/templates")
    (host,) = lists.control.registry.hosts.values()
    assert host.port is not None
    template = TemplateInfo(
        template_id="te-1",
        host_id=host.host_id,
        label="app.f",
        state="ready",
        forks=2,
        snapshot=SnapshotRef(manifest="0" * 64, size=1000, unpacked=4000),
    )
    lists.control.host_message(host.port, TemplatesChanged(templates=(template,)))
    (shown,) = await lists.get("/v1/templates")
    assert ("te-1", "app.f", "ready", "", 2) == tuple(
        shown[key] for key in ("template_id", "label", "state", "reason", "forks")
    )
    assert (1000, 4000, False) == (shown["size"], shown["unpacked"], shown["restored"])


async def test_code_in_a_container_cancels_calls_and_ends_no_containers(lists: Lists) -> None:
    call_id = await lists.endless()
    detail = await lists.get(f"/v1/calls/{call_id}")
    container_id = detail["container"]["container_id"]
    lists.token = lists.control.tokens.mint(container_id, "local")
    refused = await lists.ask("POST", f"/v1/calls/{call_id}/cancel", b'{"mode": "terminate"}')
    check(refused, "POST", 403, "PermissionDeniedError")
    assert (
        "Code in a container cannot end containers (mode terminate). "
        "It may call functions, read and cancel calls, and use the volumes of its user."
    ) == problem(refused).message
    answer = await lists.ask("POST", f"/v1/calls/{call_id}/cancel")
    assert 202 == answer.status
    lists.control.tokens.revoke(container_id)
    check(await lists.ask("GET", "/v1/calls"), "GET", 401, "AuthError")
