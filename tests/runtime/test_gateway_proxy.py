"""A container's way to the gateway, with plain sockets at both ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from skylift.runtime import gateway_proxy
from skylift.runtime.gateway_proxy import GatewayProxy, gateway_address

pytestmark = pytest.mark.anyio

PATIENCE = 20.0
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class World:
    """A proxy, gateways behind it, and connections to it; all closed afterwards."""

    def __init__(self, folder: Path) -> None:
        self.announcement = folder / "gateway.json"
        self.socket = folder / "gateway.sock"
        self.proxy = GatewayProxy(folder, "gateway.sock", self.announcement)
        self._servers: list[asyncio.Server] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def gateway(self, serve: Serve) -> asyncio.Server:
        """One that listens and has announced itself."""

        async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            with contextlib.suppress(ConnectionError):
                await serve(reader, writer)

        server = await asyncio.start_server(served, "127.0.0.1", 0)
        self._servers.append(server)
        port = server.sockets[0].getsockname()[1]
        self.announcement.write_text(json.dumps({"url": f"http://127.0.0.1:{port}", "pid": 1}))
        return server

    async def connect(self) -> Stream:
        """As the container does."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        self._writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        self.proxy.close()
        for writer in self._writers:
            writer.transport.abort()
        for server in self._servers:
            server.close()
            await server.wait_closed()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.proxy.listen()
    yield world
    await world.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def soon(awaited: Awaitable[bytes]) -> bytes:
    return await asyncio.wait_for(awaited, PATIENCE)


async def test_bytes_pass_both_ways_to_their_end(world: World) -> None:
    await world.gateway(echo)
    reader, writer = await world.connect()
    sent = bytes(range(256)) * 32768

    async def send() -> None:
        for start in range(0, len(sent), 100_000):
            writer.write(sent[start : start + 100_000])
            await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    assert sent == await soon(reader.read(-1))
    await sending


async def test_what_is_said_before_the_gateway_is_there_arrives(world: World) -> None:
    reader, writer = await world.connect()
    writer.write(b"early")
    await writer.drain()
    await world.gateway(echo)
    assert b"early" == await soon(reader.readexactly(5))


async def test_a_gateway_that_was_started_again_is_found(world: World) -> None:
    first = await world.gateway(lambda reader, writer: answer(writer, b"first"))
    reader, _ = await world.connect()
    assert b"first" == await soon(reader.read(-1))
    first.close()
    await world.gateway(lambda reader, writer: answer(writer, b"second"))
    reader, _ = await world.connect()
    assert b"second" == await soon(reader.read(-1))


async def answer(writer: asyncio.StreamWriter, text: bytes) -> None:
    writer.write(text)
    writer.close()


async def test_a_gateway_that_breaks_off_breaks_the_connection(world: World) -> None:
    async def vanish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.transport.abort()

    await world.gateway(vanish)
    reader, writer = await world.connect()
    writer.write(b"x")
    with contextlib.suppress(ConnectionResetError):
        assert b"" == await soon(reader.read(-1))


async def test_a_container_that_breaks_off_breaks_the_connection(world: World) -> None:
    ended = asyncio.Event()

    async def wait_for_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        ended.set()

    await world.gateway(wait_for_end)
    _, writer = await world.connect()
    writer.write(b"x")
    await writer.drain()
    writer.transport.abort()
    await asyncio.wait_for(ended.wait(), PATIENCE)


async def test_a_reader_that_is_slow_holds_the_other_side_back(world: World) -> None:
    held = asyncio.Event()
    got = bytearray()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        got.extend(await reader.read(-1))
        writer.close()

    await world.gateway(slow)
    reader, writer = await world.connect()
    writer.transport.set_write_buffer_limits(high=0)
    sent = 0
    piece = bytes(1 << 20)
    while True:
        writer.write(piece)
        sent += len(piece)
        try:
            await asyncio.wait_for(writer.drain(), 1.0)
        except asyncio.TimeoutError:
            break
        assert sent < 64 << 20, "nothing holds the writer back"
    held.set()
    await asyncio.wait_for(writer.drain(), PATIENCE)
    writer.write_eof()
    await soon(reader.read(-1))
    assert sent == len(got)


async def test_without_a_gateway_it_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_proxy, "PATIENCE", 0.0)
    reader, writer = await world.connect()
    writer.write(b"GET /v1/connect HTTP/1.1\r\n\r\n")
    head, body = await refused(reader)
    assert head.startswith("HTTP/1.1 503 ")
    assert {"error": "ConnectionError", "message": "The gateway is not running."} == body


async def test_one_connection_too_many_is_refused_and_leaves_the_others_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_proxy, "MAX_CONNECTIONS", 2)
    await world.gateway(echo)
    streams = [await world.connect() for _ in range(2)]
    for reader, writer in streams:
        writer.write(b"x")
        assert b"x" == await soon(reader.readexactly(1))
    extra, _ = await world.connect()
    _, body = await refused(extra)
    assert body["message"].startswith("This container has 2 connections to the gateway, which is the limit.")
    for reader, writer in streams:
        writer.write(b"y")
        assert b"y" == await soon(reader.readexactly(1))


async def refused(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    head, _, body = (await soon(reader.read(-1))).partition(b"\r\n\r\n")
    return head.decode(), json.loads(body)


async def test_its_end_cuts_what_is_connected(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.gateway(echo)
    reader, writer = await world.connect()
    writer.write(b"x")
    assert b"x" == await soon(reader.readexactly(1))
    world.announcement.unlink()
    came, taken_in = world.proxy.came, asyncio.Event()
    monkeypatch.setattr(world.proxy, "came", lambda near: (came(near), taken_in.set()))
    waiting, _ = await world.connect()
    await asyncio.wait_for(taken_in.wait(), PATIENCE)
    world.proxy.close()
    world.proxy.close()
    for each in (reader, waiting):
        with contextlib.suppress(ConnectionResetError):
            assert b"" == await soon(each.read(-1))
    assert not world.socket.exists()


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"url": 7}', '{"url": "http://host"}', "{}"])
def test_an_announcement_that_says_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gateway.json"
    assert gateway_address(file) is None
    file.write_text(text)
    assert gateway_address(file) is None


def test_addresses(tmp_path: Path) -> None:
    file = tmp_path / "gateway.json"
    file.write_text('{"url": "http://[::1]:8080"}')
    assert ("::1", 8080) == gateway_address(file)
