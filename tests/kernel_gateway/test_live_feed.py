"""``/v1/live``: what those who watch are told, by the real control plane and a host that only pretends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import urllib3
from raw_client import RawClient, raw_client
from raw_host import RawHost, raw_host
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from skylift.backend.control import VERSION, ControlPlane
from skylift.backend.database import Database
from skylift.backend.settings import Settings
from skylift.kernel_gateway.home import GatewayHome
from skylift.kernel_gateway.host_socket import HostServer
from skylift.kernel_gateway.live_socket import FRAME_LIMIT, WATCH_LIMIT
from skylift.kernel_gateway.outbox import Outbox
from skylift.kernel_gateway.server import GatewayApplication, GatewayServer
from skylift.lazyfs.store import LocalStore
from skylift.wire import (
    CallTimes,
    ContainerChanged,
    ContainerInfo,
    End,
    Event,
    Events,
    RunCall,
    StartContainer,
    TemplateInfo,
    TemplatesChanged,
    Usage,
    UsageReport,
    encode_events,
    event_cost,
)

pytestmark = pytest.mark.anyio

PATIENCE = 20.0


def work(value: object) -> object:
    return value


class Watcher:
    """A connection to the feed."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket

    async def say(self, **frame: Any) -> None:
        await self.websocket.send(json.dumps(frame))

    async def watch(self, topic: str, watch_id: str = "w", **what: Any) -> None:
        await self.say(type="watch", id=watch_id, topic=topic, **what)

    async def frame(self) -> Any:
        return json.loads(await asyncio.wait_for(self.websocket.recv(), PATIENCE))

    async def expect(self, kind: str, holds: Callable[[Any], Any] = lambda frame: True) -> Any:
        """The next frame of that type of which that holds; others are dropped."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            frame = await self.frame()
            if frame["type"] == kind and holds(frame):
                return frame
        raise AssertionError(f"no {kind}")

    async def state_of(self, call_id: str, state: str) -> Any:
        """Wait until the watched calls have that one in that state: its row."""

        def rows(frame: Any) -> Any:
            return [row for row in frame["calls"] if (row["call_id"], row["state"]) == (call_id, state)]

        return rows(await self.expect("calls", rows))[0]


class Host:
    """A host that starts containers at once; of calls it says what the test says."""

    def __init__(self, link: RawHost) -> None:
        self.link = link
        self.containers: list[str] = []
        self._seq: dict[str, int] = {}
        self._runs: dict[str, RunCall] = {}
        self._news = asyncio.Event()

    async def serve(self) -> None:
        while (command := await self.link.receive()) is not None:
            if isinstance(command, StartContainer):
                self.containers.append(command.container_id)
                info = ContainerInfo(
                    container_id=command.container_id,
                    host_id="ho-00000000",
                    state="ready",
                    app=command.spec.app,
                    function=command.spec.name,
                    session=command.spec.session,
                    started=time.time(),
                )
                self.link.send(ContainerChanged(info=info))
            elif isinstance(command, RunCall):
                self._runs[command.call_id] = command
                self._news.set()

    async def running(self, call_id: str) -> str:
        """Wait until a call is to run; its container."""
        while call_id not in self._runs:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), PATIENCE)
        return self._runs[call_id].container_id

    def emit(self, call_id: str, *events: Event, end: str = "", summary: str = "") -> None:
        now = time.time()
        seq = self._seq.get(call_id, 0)
        self._seq[call_id] = seq + len(events)
        times = CallTimes(started=now, ended=now)
        self.link.send(
            Events(
                call_id=call_id,
                seq=seq,
                count=len(events),
                body=encode_events(list(events)),
                cost=sum(event_cost(len(event.data)) for event in events),
                end=End(state=end, summary=summary, times=times) if end else None,  # type: ignore[arg-type]
            )
        )

    def say(self, call_id: str, *lines: str) -> None:
        self.emit(call_id, *(Event("output", {"stream": "stdout"}, line.encode()) for line in lines))

    def sample(self, container_id: str, **use: Any) -> None:
        self.link.send(UsageReport(samples=(Usage(container_id=container_id, time=time.time(), **use),)))


@dataclass
class Live:
    """A gateway, a client of it, and its host."""

    url: str
    token: str
    other_token: str
    control: ControlPlane
    application: GatewayApplication
    client: RawClient
    host: Host

    @contextlib.asynccontextmanager
    async def watcher(self, token: str = "", **headers: str) -> AsyncIterator[Watcher]:
        fields = {"Authorization": f"Bearer {token or self.token}", **headers}
        url = self.url.replace("http", "ws") + "/v1/live"
        async with connect(url, additional_headers=fields, proxy=None, compression=None) as websocket:
            watcher = Watcher(websocket)
            hello = await watcher.frame()
            expected = {"type": "hello", "gateway_id": self.control.gateway_id, "version": VERSION}
            assert expected == hello
            yield watcher

    async def get(self, path: str, token: str = "") -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return await asyncio.to_thread(urllib3.request, "GET", self.url + path, headers=headers)

    async def running(self, **what: Any) -> tuple[str, str]:
        """A call that runs, and its container."""
        call_id = await self.client.submit(work, 1, **what)
        return call_id, await self.host.running(call_id)


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    settings = Settings(home=tmp_path, prices={"cpu": 3600.0})
    store = LocalStore(tmp_path / "store")
    control = ControlPlane(settings, Database(tmp_path / "skylift.db"), store, [])
    await control.start()
    outbox = Outbox(asyncio.get_running_loop())
    application = GatewayApplication(control, store, settings.gateway, GatewayHome(tmp_path), outbox)
    application.feed_volumes()
    server = GatewayServer(application)
    hosts = HostServer(tmp_path, control, outbox)
    await hosts.listen()
    url = server.bind("127.0.0.1", 0)
    server.serve()
    token = (tmp_path / "token").read_text().strip()
    host_token = (tmp_path / "host-token").read_text().strip()
    other = await control.tokens.create("other", "for a test")
    async with raw_host(tmp_path, host_token) as link, raw_client(url, token) as client:
        host = Host(link)
        serving = asyncio.create_task(host.serve())
        yield Live(url, token, other, control, application, client, host)
        serving.cancel()
    server.stop_listening()
    await control.stop(end_hosts=False)
    await hosts.close()
    await server.close()


async def test_calls_come_as_they_change(live: Live) -> None:
    before, _ = await live.running()
    async with live.watcher() as watcher:
        await watcher.watch("calls")
        first = await watcher.expect("calls")
        assert ("w", [before]) == (first["id"], [row["call_id"] for row in first["calls"]])
        call_id, container_id = await live.running()
        row = await watcher.state_of(call_id, "running")
        assert (container_id, "work", "test.ipynb") == (row["container_id"], row["function"], row["notebook"])
        live.host.emit(
            call_id, Event("error", {"type": "ValueError"}), end="failed", summary="ValueError: no"
        )
        row = await watcher.state_of(call_id, "failed")
        assert "ValueError: no" == row["error"]
        assert row == (await live.get(f"/v1/calls/{call_id}")).json()["call"]


async def test_without_calls_the_list_is_empty_at_once(live: Live) -> None:
    async with live.watcher() as watcher:
        await watcher.watch("calls")
        assert {"type": "calls", "id": "w", "calls": []} == await watcher.frame()


async def test_the_cost_of_a_call_that_runs_goes_on(live: Live) -> None:
    call_id, container_id = await live.running()
    async with live.watcher() as watcher:
        await watcher.watch("calls")
        cost = (await watcher.state_of(call_id, "running"))["cost"]
        live.host.sample(container_id, cpu=1.0)
        assert cost < (await watcher.state_of(call_id, "running"))["cost"]


async def test_more_calls_than_a_frame_takes(live: Live) -> None:
    await live.running()
    for _ in range(600):
        await live.client.submit(work, 1)
    async with live.watcher() as watcher:
        await watcher.watch("calls")
        counts = [len((await watcher.expect("calls"))["calls"]) for _ in range(2)]
        assert [500, 101] == counts


async def test_one_call_whole(live: Live) -> None:
    call_id, container_id = await live.running()
    async with live.watcher() as watcher:
        await watcher.watch("call", call_id=call_id)
        detail = (await watcher.expect("call"))["call"]
        assert (call_id, container_id) == (detail["call"]["call_id"], detail["container"]["container_id"])
        live.host.say(call_id, "line\n")
        live.host.sample(container_id, cpu=0.5, memory=1000)
        detail = (await watcher.expect("call", lambda frame: frame["call"]["events"]))["call"]
        assert 0.5 == detail["usage"]["cpu"]
        live.host.emit(call_id, Event("result", {}, b"42"), end="done")
        detail = (await watcher.expect("call", lambda frame: frame["call"]["call"]["state"] == "done"))[
            "call"
        ]
        whats = [entry["what"] for entry in detail["timeline"]]
        assert {"queued", "starting container", "container ready", "started", "done"} <= set(whats)
        assert whats == [
            entry["what"] for entry in (await live.get(f"/v1/calls/{call_id}")).json()["timeline"]
        ]


async def lines_of(watcher: Watcher, kind: str = "output") -> tuple[list[str], Any]:
    """The text of the items up to the end, and the last frame."""
    lines: list[str] = []
    following = None
    while True:
        frame = await watcher.expect("output")
        for item in frame["items"]:
            assert following in (None, item["seq"])
            following = item["seq"] + 1
            if item["kind"] == kind:
                lines.append(item["text"])
        if frame["over"]:
            return lines, frame


async def test_output_while_it_comes_and_from_the_log(live: Live) -> None:
    call_id, _ = await live.running()
    live.host.say(call_id, "one\n", "two\n")
    async with live.watcher() as watcher, live.watcher() as late:
        await watcher.watch("output", call_id=call_id)
        first = await watcher.expect("output", lambda frame: frame["items"])
        assert (["one\n", "two\n"], 2) == ([item["text"] for item in first["items"]], first["next_seq"])
        assert ("running", False) == (first["state"], first["over"])
        live.host.say(call_id, "three\n")
        assert 3 == (await watcher.expect("output", lambda frame: frame["items"]))["next_seq"]
        await late.watch("output", call_id=call_id, from_seq=1)
        live.host.emit(call_id, Event("result", {}, b"42"), end="done")
        assert ([], "done") == (lambda got: (got[0], got[1]["state"]))(await lines_of(watcher))
        lines, last = await lines_of(late)
        assert (["two\n", "three\n"], 4) == (lines, last["next_seq"])
        # It is over, and so is a watch that begins now.
        await watcher.watch("output", call_id=call_id)
        assert ["one\n", "two\n", "three\n"] == (await lines_of(watcher))[0]


async def test_output_before_the_call_has_begun_to_say_anything(live: Live) -> None:
    call_id, _ = await live.running()
    async with live.watcher() as watcher:
        await watcher.watch("output", call_id=call_id)
        first = await watcher.expect("output")
        assert ([], 0, False) == (first["items"], first["next_seq"], first["over"])
        live.host.say(call_id, "at last\n")
        assert "at last\n" == (await watcher.expect("output"))["items"][0]["text"]


async def test_many_lines_a_second_come_in_few_frames(live: Live) -> None:
    call_id, _ = await live.running()
    async with live.watcher() as watcher:
        await watcher.watch("output", call_id=call_id)

        async def speak() -> None:
            for batch in range(100):
                live.host.say(call_id, *(f"{batch * 100 + number} {'x' * 40}\n" for number in range(100)))
                await asyncio.sleep(0.01)
            live.host.emit(call_id, Event("result", {}, b"42"), end="done")

        speaking = asyncio.create_task(speak())
        frames = 0
        lines: list[str] = []
        while True:
            frame = await watcher.expect("output")
            frames += 1
            lines += [item["text"] for item in frame["items"] if item["kind"] == "output"]
            if frame["over"]:
                break
        await speaking
        assert [f"{number} {'x' * 40}\n" for number in range(10_000)] == lines
        assert frames < 60


async def test_a_frame_of_output_is_not_large(live: Live) -> None:
    call_id, _ = await live.running()
    for number in range(64):
        live.host.say(call_id, f"{number:02}" * 16 * 1024)
    live.host.emit(call_id, Event("result", {}, b"42"), end="done")
    async with live.watcher() as watcher:
        await watcher.watch("output", call_id=call_id)
        sizes: list[int] = []
        lines: list[str] = []
        while True:
            text = await asyncio.wait_for(watcher.websocket.recv(), PATIENCE)
            sizes.append(len(text))
            frame = json.loads(text)
            lines += [item["text"][:2] for item in frame["items"] if item["kind"] == "output"]
            if frame["over"]:
                break
        assert [f"{number:02}" for number in range(64)] == lines
        assert max(sizes) < 400 * 1024


async def test_who_does_not_read_holds_up_nobody(live: Live) -> None:
    call_id, _ = await live.running()
    async with live.watcher() as idle, live.watcher() as watcher:
        await idle.watch("output", call_id=call_id)
        await idle.watch("calls", "calls")
        await watcher.watch("output", call_id=call_id)
        text = "y" * 32 * 1024
        for _ in range(640):
            live.host.say(call_id, text)
            await asyncio.sleep(0.001)
        live.host.emit(call_id, Event("result", {}, b"42"), end="done")
        lines, _ = await lines_of(watcher)
        assert 640 == len(lines)
        # Whoever reads at last misses nothing.
        lines, _ = await lines_of(idle)
        assert 640 == len(lines)


async def test_lists_come_whole_when_they_change(live: Live) -> None:
    async with live.watcher() as watcher:
        for topic in ("sessions", "containers", "templates", "hosts", "volumes", "spend"):
            await watcher.watch(topic, topic)
            frame = await watcher.expect("list", lambda frame, topic=topic: frame["id"] == topic)
            assert topic == frame["topic"]
            assert {"hosts": 1, "spend": 1}.get(topic, 0) == len(frame["rows"])
        call_id, container_id = await live.running()
        up = await watcher.expect(
            "list",
            lambda frame: frame["topic"] == "containers" and any(row["running"] for row in frame["rows"]),
        )
        assert (container_id, [call_id]) == (up["rows"][0]["container_id"], up["rows"][0]["running"])
        template = TemplateInfo(template_id="te-1", host_id="ho-00000000", label="work", state="ready")
        live.host.link.send(TemplatesChanged(templates=(template,)))
        listed = await watcher.expect("list", lambda frame: frame["topic"] == "templates")
        assert ["te-1"] == [row["template_id"] for row in listed["rows"]]


async def test_volumes_come_when_they_change(live: Live) -> None:
    async with live.watcher() as watcher, live.watcher(live.other_token) as other:
        for each in (watcher, other):
            await each.watch("volumes")
            assert [] == (await each.expect("list"))["rows"]
        headers = {
            "Authorization": f"Bearer {live.token}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        await asyncio.to_thread(
            urllib3.request,
            "POST",
            live.url + "/v1/volumes",
            body="name=data",
            headers=headers,
        )
        assert ["data"] == [row["name"] for row in (await watcher.expect("list"))["rows"]]
        await other.watch("volumes", "again")
        assert [] == (await other.expect("list", lambda frame: frame["id"] == "again"))["rows"]


async def test_what_containers_use(live: Live) -> None:
    call_id, container_id = await live.running()
    live.host.sample(container_id, cpu=1.5, memory=1000)
    live.host.say(call_id, "sampled\n")
    while (await live.client.expect(Events)).call_id != call_id:
        pass
    async with live.watcher() as watcher:
        await watcher.watch("usage")
        (first,) = (await watcher.expect("usage"))["containers"]
        assert (container_id, [[1.5, 1000, None, None]]) == (
            first["container_id"],
            [sample[1:] for sample in first["samples"]],
        )
        live.host.sample(container_id, cpu=2.5, memory=2000)
        (more,) = (await watcher.expect("usage"))["containers"]
        assert [[2.5, 2000, None, None]] == [sample[1:] for sample in more["samples"]]


async def test_what_a_call_used_is_known_when_it_is_over(live: Live) -> None:
    call_id, container_id = await live.running()
    for number in range(700):
        live.host.sample(container_id, cpu=1.0, memory=number)
    live.host.say(call_id, "sampled\n")
    while (await live.client.expect(Events)).call_id != call_id:
        pass
    running = (await live.get(f"/v1/calls/{call_id}/usage")).json()["samples"]
    live.host.emit(call_id, Event("result", {}, b"42"), end="done")
    async for _ in live.client.events(call_id, 1):
        pass
    over = (await live.get(f"/v1/calls/{call_id}/usage")).json()["samples"]
    assert running == over
    assert 175 <= len(over) <= 300
    assert 699 == over[-1][2]
    assert 404 == (await live.get(f"/v1/calls/{call_id}/usage", live.other_token)).status
    quick, _ = await live.running()
    live.host.emit(quick, Event("result", {}, b"42"), end="done")
    async for _ in live.client.events(quick):
        pass
    assert {"samples": []} == (await live.get(f"/v1/calls/{quick}/usage")).json()


async def test_of_others_nothing_is_told(live: Live) -> None:
    call_id, container_id = await live.running()
    async with live.watcher(live.other_token) as other, live.watcher() as own:
        await own.watch("calls")
        await own.expect("calls")
        for topic in ("calls", "containers", "sessions", "usage"):
            await other.watch(topic, topic)
            frame = await other.frame()
            assert [] == frame.get("calls", frame.get("rows", frame.get("containers")))
        for topic in ("call", "output"):
            await other.watch(topic, topic, call_id=call_id)
            problem = (await other.expect("error"))["problem"]
            assert "NotFoundError" == problem["error"]
            assert problem["message"].startswith(f"There is no call {call_id} of yours.")
        live.host.sample(container_id, cpu=1.0)
        live.host.emit(call_id, Event("result", {}, b"42"), end="done")
        await own.state_of(call_id, "done")
        await other.watch("templates", "last")
        assert "last" == (await other.frame())["id"]


async def test_what_is_watched_no_more_is_not_told(live: Live) -> None:
    call_id, _ = await live.running()
    async with live.watcher() as watcher:
        await watcher.watch("calls")
        await watcher.watch("output", "out", call_id=call_id)
        await watcher.expect("output")
        await watcher.say(type="unwatch", id="out")
        await watcher.say(type="unwatch", id="never watched")
        live.host.say(call_id, "nobody hears\n")
        live.host.emit(call_id, Event("result", {}, b"42"), end="done")
        await watcher.state_of(call_id, "done")
        await watcher.watch("templates", "last")
        assert "last" == (await watcher.frame())["id"]


async def test_when_nobody_watches_nothing_is_kept(live: Live) -> None:
    call_id, _ = await live.running()
    async with live.watcher() as watcher:
        for topic in ("calls", "usage", "hosts", "spend"):
            await watcher.watch(topic, topic)
        for topic in ("call", "output"):
            await watcher.watch(topic, topic, call_id=call_id)
            await watcher.expect(topic)
        feed = live.control.live
        assert 6 == len(feed._all)
    while live.application.live._open:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    for kept in (feed._all, feed._calls, feed._usage, feed._following, feed._lists):
        assert not kept
    assert live.control._log.on_changes is None
    assert not live.control.registry.calls[call_id].waiters


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ("{", "malformed frame: Input data was truncated"),
        ('{"type": "look"}', "malformed frame: Invalid value 'look' - at `$.type`"),
        ('{"type": "watch", "id": "a", "topic": "moon"}', "Invalid enum value 'moon' - at `$.topic`"),
        (b"{}", "the frames of this link are text"),
    ],
)
async def test_a_bad_frame_is_answered(live: Live, frame: str | bytes, why: str) -> None:
    async with live.watcher() as watcher:
        await watcher.websocket.send(frame)
        answer = await watcher.frame()
        assert ("error", "", "InvalidError") == (answer["type"], answer["id"], answer["problem"]["error"])
        assert why in answer["problem"]["message"]
        await watcher.watch("calls")
        assert "calls" == (await watcher.frame())["type"]


async def test_too_many_watches(live: Live) -> None:
    async with live.watcher() as watcher:
        for number in range(WATCH_LIMIT + 1):
            await watcher.watch("templates", f"w{number}")
        problem = (await watcher.expect("error"))["problem"]
        assert f"at most {WATCH_LIMIT} watches" in problem["message"]


async def test_a_frame_that_is_too_large_ends_the_connection(live: Live) -> None:
    async with live.watcher() as watcher:
        await watcher.websocket.send("x" * (FRAME_LIMIT + 1))
        with pytest.raises(ConnectionClosed):
            await watcher.frame()
        assert 1009 == watcher.websocket.close_code


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Origin": "https://evil.example"}, 403),
    ],
)
async def test_who_is_let_in(live: Live, headers: dict[str, str], status: int) -> None:
    url = live.url.replace("http", "ws") + "/v1/live"
    if "Origin" in headers:
        headers = {**headers, "Authorization": f"Bearer {live.token}"}
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, additional_headers=headers, proxy=None):
            pass
    assert status == refused.value.response.status_code


async def test_code_in_a_container_watches_nothing(live: Live) -> None:
    _, container_id = await live.running()
    token = live.control.tokens.mint(container_id, "local")
    with pytest.raises(InvalidStatus) as refused:
        async with live.watcher(token):
            pass
    assert 403 == refused.value.response.status_code


async def test_a_plain_request_is_told_what_it_is(live: Live) -> None:
    answer = await live.get("/v1/live")
    assert (426, "/v1/live is a WebSocket.") == (answer.status, answer.json()["message"])


async def test_a_gateway_that_stops_says_so(live: Live) -> None:
    async with live.watcher() as watcher:
        await watcher.watch("calls")
        await watcher.frame()
        live.application.live.close_all("the gateway stops")
        with pytest.raises(ConnectionClosed):
            await watcher.frame()
        assert (1001, "the gateway stops") == (watcher.websocket.close_code, watcher.websocket.close_reason)
