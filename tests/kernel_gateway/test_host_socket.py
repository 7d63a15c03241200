"""The Unix socket that hosts dial."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest
from raw_host import raw_host
from served_gateway import RecordingControl, Served

from skylift.kernel_gateway import host_socket
from skylift.kernel_gateway.host_socket import HostServer
from skylift.kernel_gateway.outbox import Outbox
from skylift.wire import (
    CallStarted,
    EndMap,
    Events,
    HostWelcome,
    Persisted,
    frame,
)

pytestmark = pytest.mark.anyio


async def test_a_host_is_welcomed(served: Served) -> None:
    async with raw_host(served.home) as host:
        port = await served.control.next("host connected")
        assert HostWelcome(gateway_id=served.control.gateway_id) == await host.receive()
    assert port is await served.control.next("host disconnected")


async def test_messages_pass_in_order_both_ways(served: Served) -> None:
    started = [CallStarted(call_id=f"fc-{number:08}", time=number) for number in range(1000)]
    served.control.on_host = lambda port, message: port.send(EndMap(call_id=message.call_id))  # type: ignore[union-attr]
    async with raw_host(served.home) as host:
        await host.receive()
        host.send(*started)
        assert [EndMap(call_id=each.call_id) for each in started] == [await host.receive() for _ in started]


async def test_a_wrong_token_is_turned_away(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger=host_socket.__name__)
    async with raw_host(served.home, token="wrong") as host:
        assert await host.receive() is None
    assert served.control.told.empty()
    assert "The link of a host is closed: wrong host token." in caplog.text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xff\xff\xff", "a frame of 4294967295 bytes is over the limit"),
        (b"\x00\x00\x00\x01\xc1", "malformed message"),
        (frame(EndMap(call_id="fc-00000000")), "malformed message: Invalid value 'EndMap' - at `$.t`"),
        (frame(CallStarted(call_id="fc-00000000", time=0)), "the first message must be HostHello"),
    ],
)
async def test_what_is_no_host_is_turned_away(
    served: Served, data: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger=host_socket.__name__)
    async with raw_host(served.home, hello=False) as host, raw_host(served.home) as bystander:
        await served.control.next("host connected")
        host.writer.write(data)
        assert await host.receive() is None
        assert reason in caplog.text
        bystander.send(CallStarted(call_id="fc-00000000", time=0))
        await served.control.next("host message")


async def test_who_says_nothing_is_let_go(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_socket, "HELLO_SECONDS", 0.05)
    async with raw_host(served.home, hello=False) as host:
        assert await host.receive() is None


async def test_a_fault_of_ours_costs_one_link(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    def fail(port: object, message: object) -> None:
        raise ZeroDivisionError("a bug")

    served.control.on_host = fail
    async with raw_host(served.home) as host:
        await host.receive()
        host.send(CallStarted(call_id="fc-00000000", time=0))
        assert await host.receive() is None
    await served.control.next("host disconnected")
    assert "ZeroDivisionError: a bug" in caplog.text
    async with raw_host(served.home) as host:
        assert isinstance(await host.receive(), HostWelcome)


async def test_a_host_that_has_stopped_reading_loses_its_link(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_socket, "BACKLOG_LIMIT", 4 * 1024 * 1024)
    async with raw_host(served.home) as host:
        port = await served.control.next("host connected")
        host.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(100):
            port.send(EndMap(call_id="fc-" + "0" * 1_000_000))
            await asyncio.sleep(0)
        assert port is await served.control.next("host disconnected")


async def test_a_closed_link_takes_nothing_more(served: Served) -> None:
    async with raw_host(served.home) as host:
        port = await served.control.next("host connected")
        port.send(Persisted(call_id="fc-00000000", seq=1))
        port.close("enough")
        port.send(Persisted(call_id="fc-00000000", seq=2))
        assert isinstance(await host.receive(), HostWelcome)
        assert Persisted(call_id="fc-00000000", seq=1) == await host.receive()
        assert await host.receive() is None


async def test_the_socket_is_for_its_user_alone(served: Served) -> None:
    assert 0o600 == stat.S_IMODE((served.home / "gateway.sock").stat().st_mode)


async def test_a_home_deeper_than_a_socket_path_may_be(tmp_path: Path) -> None:
    home = tmp_path.joinpath(*["a-rather-long-name-of-a-folder"] * 6)
    home.mkdir(parents=True)
    hosts = HostServer(home, RecordingControl(), Outbox(asyncio.get_running_loop()))
    await hosts.listen()
    folder = os.open(home, os.O_PATH)
    try:
        async with raw_host(Path(f"/proc/self/fd/{folder}")) as host:
            assert isinstance(await host.receive(), HostWelcome)
    finally:
        os.close(folder)
        await hosts.close()
    assert not (home / "gateway.sock").exists()


async def test_a_socket_that_a_killed_gateway_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "gateway.sock").touch()
    hosts = HostServer(tmp_path, RecordingControl(), Outbox(asyncio.get_running_loop()))
    await hosts.listen()
    async with raw_host(tmp_path) as host:
        assert isinstance(await host.receive(), HostWelcome)
    await hosts.close()


async def test_events_of_one_read_leave_in_one_write(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served.client() as client, raw_host(served.home) as host:
        port = await served.control.next("client connected")
        served.control.on_host = lambda _, message: port.send(message)
        writes: list[int] = []
        flush = type(port).flush

        def count(self: object) -> None:
            writes.append(1)
            flush(self)

        monkeypatch.setattr(type(port), "flush", count)
        await host.receive()
        sent = [Events(call_id="fc-00000000", seq=seq, count=1, body=b"") for seq in range(50)]
        host.send(*sent)
        assert sent == [await client.receive() for _ in sent]
        assert 1 == len(writes)
