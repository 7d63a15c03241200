"""The host's link, against gateways that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from skylift.runtime.gateway_link import SOCKET_NAME, GatewayLink
from skylift.wire import (
    PROTOCOL,
    FrameBuffer,
    HostCommand,
    HostFacts,
    HostHello,
    HostMessage,
    HostWelcome,
    Shutdown,
    UsageReport,
    decode_host_message,
    frame,
)

FACTS = HostFacts(
    host_id="ho-00000001",
    machine="m",
    hostname="h",
    cpus=1,
    memory=1,
    gpus=(),
    isolation="process",
    rootless=True,
    kernel="6",
)
HELLO = HostHello(protocol=PROTOCOL, token="secret", facts=FACTS)
WELCOME = HostWelcome(gateway_id="gw-1")


class Listener:
    def __init__(self) -> None:
        self.welcomes: list[HostWelcome] = []
        self.commands: list[HostCommand] = []
        self.slow: list[bool] = []
        self.lost = 0
        self.changed = asyncio.Event()
        self.missing_token = 0

    def hello(self) -> HostHello:
        if self.missing_token:
            self.missing_token -= 1
            raise FileNotFoundError("host-token")
        return HELLO

    def welcomed(self, welcome: HostWelcome) -> None:
        self.welcomes.append(welcome)
        self.changed.set()

    def commanded(self, command: HostCommand) -> None:
        self.commands.append(command)
        self.changed.set()

    def gateway_slow(self, slow: bool) -> None:
        self.slow.append(slow)
        self.changed.set()

    def gateway_lost(self) -> None:
        self.lost += 1
        self.changed.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 10)


class Gateway:
    """Accepts links one after another; the test says what each hears."""

    def __init__(self) -> None:
        self.links: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def accept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.wait_for(self.links.get(), 10)


async def receive(reader: asyncio.StreamReader) -> HostMessage:
    head = await asyncio.wait_for(reader.readexactly(4), 10)
    body = await reader.readexactly(int.from_bytes(head, "big"))
    return decode_host_message(body)


@contextlib.asynccontextmanager
async def listening(home: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway()
    folder = os.open(home, os.O_PATH)
    server = await asyncio.start_unix_server(
        lambda *both: gateway.links.put_nowait(both), f"/proc/self/fd/{folder}/{SOCKET_NAME}"
    )
    try:
        yield gateway
    finally:
        server.close()
        (home / SOCKET_NAME).unlink(missing_ok=True)
        os.close(folder)


def run(home: Path, scenario: Callable[[GatewayLink, Listener, Gateway], Awaitable[None]]) -> None:
    async def main() -> None:
        listener = Listener()
        link = GatewayLink(home, listener)
        async with listening(home) as gateway:
            dialling = asyncio.create_task(link.run())
            try:
                await scenario(link, listener, gateway)
            finally:
                dialling.cancel()
                await asyncio.gather(dialling, return_exceptions=True)

    asyncio.run(main())


def test_hello_welcome_and_commands(tmp_path: Path) -> None:
    async def scenario(link: GatewayLink, listener: Listener, gateway: Gateway) -> None:
        reader, writer = await gateway.accept()
        assert HELLO == await receive(reader)
        assert not link.up
        link.send(UsageReport(samples=()))
        writer.write(frame(WELCOME) + frame(Shutdown(grace=3.0)))
        await listener.until(lambda: listener.commands)
        assert ([WELCOME], [Shutdown(grace=3.0)]) == (listener.welcomes, listener.commands)
        link.send(UsageReport(samples=()))
        assert UsageReport(samples=()) == await receive(reader)

    run(tmp_path, scenario)


def test_it_dials_until_a_gateway_comes(tmp_path: Path) -> None:
    async def main() -> None:
        listener = Listener()
        listener.missing_token = 2
        link = GatewayLink(tmp_path, listener)
        dialling = asyncio.create_task(link.run())
        await asyncio.sleep(0.2)
        async with listening(tmp_path) as gateway:
            for _ in range(2):
                reader, _ = await gateway.accept()
                assert b"" == await reader.read()
            reader, writer = await gateway.accept()
            assert HELLO == await receive(reader)
            writer.write(frame(WELCOME))
            await listener.until(lambda: link.up)
        dialling.cancel()
        await asyncio.gather(dialling, return_exceptions=True)

    asyncio.run(main())


def test_it_dials_again_when_the_link_is_cut(tmp_path: Path) -> None:
    async def scenario(link: GatewayLink, listener: Listener, gateway: Gateway) -> None:
        for count in range(1, 4):
            _, writer = await gateway.accept()
            writer.write(frame(WELCOME))
            await listener.until(lambda: len(listener.welcomes) == count)  # noqa: B023
            writer.transport.abort()
            await listener.until(lambda: listener.lost == count)  # noqa: B023
            assert not link.up

    run(tmp_path, scenario)


def test_a_refusal_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(link: GatewayLink, listener: Listener, gateway: Gateway) -> None:
        for _ in range(3):
            reader, writer = await gateway.accept()
            await receive(reader)
            writer.close()
        reader, writer = await gateway.accept()
        writer.write(frame(WELCOME))
        await listener.until(lambda: link.up)

    with caplog.at_level(logging.WARNING):
        run(tmp_path, scenario)
    message = (
        "The gateway closed the link without a welcome. Either the token in "
        f"{tmp_path}/host-token is not the one it knows, or it speaks another version; trying again."
    )
    assert [message] == [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    "data",
    [b"\0\0\0\1\xc1", b"\xff\xff\xff\xff", frame(Shutdown())],
    ids=["no message", "too long", "no welcome"],
)
def test_a_malformed_message_costs_the_link_and_no_more(
    tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(link: GatewayLink, listener: Listener, gateway: Gateway) -> None:
        _, writer = await gateway.accept()
        writer.write(data)
        _, writer = await gateway.accept()
        writer.write(frame(WELCOME))
        await listener.until(lambda: link.up)
        assert [] == listener.commands

    run(tmp_path, scenario)
    assert "The gateway sent a malformed message, the link is closed" in caplog.text


def test_a_gateway_that_does_not_read_is_slow_until_it_does(tmp_path: Path) -> None:
    async def scenario(link: GatewayLink, listener: Listener, gateway: Gateway) -> None:
        reader, writer = await gateway.accept()
        await receive(reader)
        writer.write(frame(WELCOME))
        await listener.until(lambda: link.up)
        written = 0
        while not listener.slow:
            link.send_encoded(b"\0\0\0\4" + bytes(4))
            written += 8
            if written % 8000 == 0:
                await asyncio.sleep(0)
        assert written < 8 << 20
        frames = FrameBuffer()
        count = 0
        while count < written // 8:
            count += len(frames.feed(await asyncio.wait_for(reader.read(1 << 20), 10)))
        await listener.until(lambda: listener.slow == [True, False])

    run(tmp_path, scenario)


def test_closing_sends_what_waits(tmp_path: Path) -> None:
    async def scenario(link: GatewayLink, listener: Listener, gateway: Gateway) -> None:
        reader, writer = await gateway.accept()
        await receive(reader)
        writer.write(frame(WELCOME))
        await listener.until(lambda: link.up)
        body = bytes(3_000_000)
        link.send_encoded(len(body).to_bytes(4, "big") + body)
        closing = asyncio.create_task(link.close(10.0))
        assert len(body) + 4 == len(await asyncio.wait_for(reader.read(-1), 10))
        await closing
        assert not link.up

    run(tmp_path, scenario)
