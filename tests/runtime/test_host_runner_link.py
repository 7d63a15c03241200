"""The host's side of docs/protocol.md, against runners that are plain sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from skylift.runtime.runner_frames import DataMessage, Ready, Recalled, RunnerEvents, encode_frame
from skylift.runtime.runner_link import SOCKET_NAME, RunnerLink

PREFIX = struct.Struct(">IQ")


def runner_frame(header: dict[str, Any], payload: bytes = b"") -> bytes:
    return b"".join(encode_frame(header, payload))


class Listener:
    """Notes what it is told, and can pause the link in the middle of a batch."""

    def __init__(self) -> None:
        self.said: list[DataMessage] = []
        self.payloads: list[bytes] = []
        self.recalled: list[Recalled] = []
        self.broke: list[str] = []
        self.came = 0
        self.away = 0
        self.changed = asyncio.Event()
        self.on_data: Callable[[], None] = lambda: None

    def runner_said(self, message: DataMessage, payload: memoryview) -> None:
        self.said.append(message)
        self.payloads.append(bytes(payload))
        self.changed.set()
        self.on_data()

    def runner_recalled(self, message: Recalled) -> None:
        self.recalled.append(message)
        self.changed.set()

    def runner_came(self) -> None:
        self.came += 1
        self.changed.set()

    def runner_away(self) -> None:
        self.away += 1
        self.changed.set()

    def runner_broke(self, reason: str) -> None:
        self.broke.append(reason)
        self.changed.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(10) if hasattr(asyncio, "timeout") else contextlib.AsyncExitStack():
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Channel:
    """One connection of a runner."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.hello: dict[str, Any] = {}

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        self.writer.write(runner_frame(header, payload))

    async def receive(self) -> tuple[dict[str, Any], bytes]:
        prefix = await asyncio.wait_for(self.reader.readexactly(PREFIX.size), 10)
        head, length = PREFIX.unpack(prefix)
        header: dict[str, Any] = json.loads(await self.reader.readexactly(head))
        return header, await self.reader.readexactly(length)

    async def ended(self) -> bool:
        return b"" == await asyncio.wait_for(self.reader.read(), 10)


class Both:
    def __init__(self, link: RunnerLink, listener: Listener) -> None:
        self.link, self.listener = link, listener

    async def dial(self, channel: str, sent: int = 0, got: int = 0, protocol: int = 1) -> Channel:
        path = self.link.folder / SOCKET_NAME
        dialled = Channel(*await asyncio.open_unix_connection(str(path)))
        dialled.send(
            {"t": "hello", "channel": channel, "protocol": protocol, "pid": 1, "sent": sent, "got": got}
        )
        with contextlib.suppress(asyncio.IncompleteReadError):
            dialled.hello, _ = await dialled.receive()
        return dialled


@contextlib.asynccontextmanager
async def linked(folder: Path) -> AsyncIterator[Both]:
    listener = Listener()
    link = RunnerLink(folder / "run", folder, listener)
    await link.listen()
    try:
        yield Both(link, listener)
    finally:
        link.close()
        await asyncio.sleep(0)


def run(folder: Path, scenario: Callable[[Both], Awaitable[None]]) -> None:
    folder.mkdir(exist_ok=True)

    async def main() -> None:
        async with linked(folder) as both:
            await scenario(both)

    asyncio.run(main())


def events(call: str, *texts: str) -> tuple[dict[str, Any], bytes]:
    data = [text.encode() for text in texts]
    header = {"t": "events", "call": call, "events": [["yield", {}, len(each)] for each in data]}
    return header, b"".join(data)


class TestFrames:
    def test_both_ways(self, tmp_path: Path) -> None:
        async def scenario(both: Both) -> None:
            data = await both.dial("data")
            control = await both.dial("control")
            await both.listener.until(lambda: both.listener.came)
            assert {"t": "hello", "sent": 0, "got": 0} == data.hello
            both.link.send({"t": "call", "call": "fc-1"}, b"arguments")
            both.link.control({"t": "window", "call": "fc-1", "consumed": 5})
            assert ({"t": "call", "call": "fc-1"}, b"arguments") == await data.receive()
            assert ({"t": "window", "call": "fc-1", "consumed": 5}, b"") == await control.receive()
            data.send({"t": "ready", "python": "3.12.1", "pid": 7, "something": "new"})
            data.send(*events("fc-1", "one", "two"))
            control.send({"t": "recalled", "call": "fc-1", "indexes": [3, 4]})
            await both.listener.until(lambda: len(both.listener.said) == 2 and both.listener.recalled)
            assert Ready(python="3.12.1", pid=7) == both.listener.said[0]
            assert RunnerEvents("fc-1", [("yield", {}, 3), ("yield", {}, 3)]) == both.listener.said[1]
            assert b"onetwo" == both.listener.payloads[1]
            assert [Recalled("fc-1", (3, 4))] == both.listener.recalled

        run(tmp_path, scenario)

    def test_cut_anywhere(self, tmp_path: Path) -> None:
        async def scenario(both: Both) -> None:
            data = await both.dial("data")
            stream = b"".join(runner_frame(*events("fc-1", f"item {n}")) for n in range(20))
            for byte in stream:
                data.writer.write(bytes([byte]))
                await data.writer.drain()
            await both.listener.until(lambda: len(both.listener.said) == 20)
            assert [f"item {n}".encode() for n in range(20)] == both.listener.payloads

        run(tmp_path, scenario)

    @pytest.mark.parametrize("size", [4_000, 40_000, 200_000])
    def test_a_large_payload(self, tmp_path: Path, size: int) -> None:
        async def scenario(both: Both) -> None:
            data = await both.dial("data")
            payload = bytes(range(256)) * size
            data.send({"t": "events", "call": "fc-1", "events": [["result", {}, len(payload)]]}, payload)
            data.send(*events("fc-1", "after"))
            await both.listener.until(lambda: len(both.listener.said) == 2)
            assert [payload, b"after"] == both.listener.payloads

        run(tmp_path, scenario)

    def test_unknown_frames_are_ignored(self, tmp_path: Path) -> None:
        async def scenario(both: Both) -> None:
            data = await both.dial("data")
            control = await both.dial("control")
            data.send({"t": "weather", "sun": True})
            control.send({"t": "weather", "sun": True})
            data.send({"t": "ready"})
            await both.listener.until(lambda: both.listener.said)
            assert [Ready()] == both.listener.said

        run(tmp_path, scenario)

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (PREFIX.pack(1 << 31, 0), "a header of 2147483648 and a payload of 0 bytes are no frame"),
            (
                PREFIX.pack(2, 1 << 60),
                "a header of 2 and a payload of 1152921504606846976 bytes are no frame",
            ),
            (PREFIX.pack(4, 0) + b"nope", "a frame without a valid header"),
            (runner_frame({"t": "events", "call": 3}), "malformed data frame: Expected `str`, got `int`"),
        ],
    )
    def test_malformed_frames_close_the_link_with_a_reason(
        self, tmp_path: Path, data: bytes, reason: str
    ) -> None:
        async def scenario(both: Both) -> None:
            channel = await both.dial("data")
            channel.writer.write(data)
            await both.listener.until(lambda: both.listener.broke)
            assert both.listener.broke[0].startswith(reason)
            assert await channel.ended()

        run(tmp_path, scenario)

    def test_a_runner_of_another_protocol_is_refused(self, tmp_path: Path) -> None:
        async def scenario(both: Both) -> None:
            await both.dial("data", protocol=9)
            assert ["the runner speaks protocol 9, this host 1"] == both.listener.broke

        run(tmp_path, scenario)

    def test_a_second_connection_of_a_channel_is_refused(self, tmp_path: Path) -> None:
        async def scenario(both: Both) -> None:
            first = await both.dial("data")
            second = await both.dial("data")
            assert {} == second.hello
            first.send({"t": "ready"})
            await both.listener.until(lambda: both.listener.said)

        run(tmp_path, scenario)


class TestLettingGo:
    def test_what_was_not_got_is_sent_again(self, tmp_path: Path) -> None:
        async def scenario(both: Both) -> None:
            data, control = await both.dial("data"), await both.dial("control")
            for number in range(5):
                both.link.send({"t": "call", "call": f"fc-{number}"})
            for number in range(2):
                assert f"fc-{number}" == (await data.receive())[0]["call"]
            data.send({"t": "ready"})
            await both.listener.until(lambda: both.listener.said)
            for channel in (data, control):
                channel.writer.close()
            await both.listener.until(lambda: both.listener.away == 2)
            both.link.send({"t": "call", "call": "fc-5"})
            both.link.control({"t": "cancel", "call": "fc-0"})

            data, control = await both.dial("data", sent=3, got=2), await both.dial("control")
            assert {"t": "hello", "sent": 6, "got": 1} == data.hello
            again = [(await data.receive())[0]["call"] for _ in range(4)]
            assert ["fc-2", "fc-3", "fc-4", "fc-5"] == again
            assert "cancel" == (await control.receive())[0]["t"]
            await both.listener.until(lambda: both.listener.came == 2)

        run(tmp_path, scenario)

    def test_acknowledged_frames_are_not_kept(self, tmp_path: Path) -> None:
        async def scenario(both: Both) -> None:
            data, control = await both.dial("data"), await both.dial("control")
            for number in range(5):
                both.link.send({"t": "call", "call": f"fc-{number}"})
            control.send({"t": "ack", "got": 4})
            control.send({"t": "recalled", "call": "fc-1", "indexes": []})
            await both.listener.until(lambda: both.listener.recalled)
            for channel in (data, control):
                channel.writer.close()
            await both.listener.until(lambda: both.listener.away == 2)
            data = await both.dial("data", got=4)
            assert "fc-4" == (await data.receive())[0]["call"]

        run(tmp_path, scenario)

    def test_the_runner_hears_that_its_frames_were_got(self, tmp_path: Path) -> None:
        async def scenario(both: Both) -> None:
            data, control = await both.dial("data"), await both.dial("control")
            for _ in range(64):
                data.send(*events("fc-1", "x"))
            assert ({"t": "ack", "got": 64}, b"") == await control.receive()
            data.send(*events("fc-1", "x" * 1_100_000))
            assert ({"t": "ack", "got": 65}, b"") == await control.receive()

        run(tmp_path, scenario)


class TestPauses:
    def test_in_the_middle_of_a_batch(self, tmp_path: Path) -> None:
        async def scenario(both: Both) -> None:
            data = await both.dial("data")
            listener, link = both.listener, both.link
            listener.on_data = lambda: link.pause("store")
            data.writer.write(b"".join(runner_frame(*events("fc-1", str(n))) for n in range(5)))
            for count in range(1, 6):
                await listener.until(lambda: len(listener.said) == count)  # noqa: B023
                await asyncio.sleep(0.01)
                assert count == len(listener.said)
                link.resume("store")
            assert [b"0", b"1", b"2", b"3", b"4"] == listener.payloads

        run(tmp_path, scenario)

    def test_each_reason_counts(self, tmp_path: Path) -> None:
        async def scenario(both: Both) -> None:
            both.link.pause("gateway")
            both.link.pause("log")
            data = await both.dial("data")
            data.send({"t": "ready"})
            both.link.resume("gateway")
            await asyncio.sleep(0.02)
            assert [] == both.listener.said
            both.link.resume("log")
            await both.listener.until(lambda: both.listener.said)

        run(tmp_path, scenario)

    def test_the_end_comes_after_all_data_even_if_paused(self, tmp_path: Path) -> None:
        async def scenario(both: Both) -> None:
            data = await both.dial("data")
            both.link.pause("gateway")
            both.link.pause("store")
            for number in range(100):
                data.send(*events("fc-1", str(number)))
            await data.writer.drain()
            data.writer.close()
            assert not await both.link.finish(0.05)
            both.link.resume("store")
            assert await both.link.finish(10)
            assert 100 == len(both.listener.said)

        run(tmp_path, scenario)


def test_a_folder_whose_path_is_too_long_for_an_address(tmp_path: Path) -> None:
    async def scenario(both: Both) -> None:
        assert (both.link.folder / SOCKET_NAME).is_socket()
        both.link.close()
        assert not (both.link.folder / SOCKET_NAME).exists()

    run(tmp_path / ("x" * 150), scenario)
