"""The host's end of a template's socket, against templates that are plain sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from skylift.runtime.template_link import SOCKET_NAME, TemplateGoneError, TemplateLink, memory_file

TIMEOUT = 10.0
MAX_MESSAGE = 1 << 18


class Fake:
    """A template of which the test says what it does."""

    def __init__(self, folder: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        self.sock.connect(str(folder / SOCKET_NAME))
        self.descriptors: list[int] = []

    async def receive(self) -> dict[str, Any]:
        """The next message; empty where the host has closed."""
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.sock.fileno(), readable.set)
        try:
            await asyncio.wait_for(readable.wait(), TIMEOUT)
        finally:
            loop.remove_reader(self.sock.fileno())
        data, descriptors, _, _ = socket.recv_fds(self.sock, MAX_MESSAGE, 32)
        self.descriptors += descriptors
        message: dict[str, Any] = json.loads(data or b"{}")
        return message

    def say(self, message: object) -> None:
        self.sock.send(json.dumps(message).encode())

    def close(self) -> None:
        self.sock.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()


@contextlib.asynccontextmanager
async def linked(folder: Path) -> AsyncIterator[tuple[TemplateLink, Fake]]:
    link = TemplateLink(folder / "run")
    link.listen()
    fake = Fake(link.folder)
    try:
        await asyncio.wait_for(link.came(), TIMEOUT)
        yield link, fake
    finally:
        fake.close()
        link.close()
        link.close()


def run(folder: Path, scenario: Callable[[TemplateLink, Fake], Awaitable[None]]) -> None:
    async def main() -> None:
        async with linked(folder) as (link, fake):
            await asyncio.wait_for(scenario(link, fake), 3 * TIMEOUT)

    asyncio.run(main())


def test_it_is_told_what_to_import(tmp_path: Path) -> None:
    async def scenario(link: TemplateLink, fake: Fake) -> None:
        prepared = asyncio.ensure_future(
            link.preload(["json", "numpy"], session=True, code=("fu-1", b"its code"))
        )
        assert {
            "t": "preload",
            "modules": ["json", "numpy"],
            "session": True,
            "code": "fu-1",
        } == await fake.receive()
        (descriptor,) = fake.descriptors
        assert b"its code" == os.pread(descriptor, 100, 0)
        fake.say({"t": "prepared", "problem": "", "unforkable": "the template started a thread (pool)"})
        said = await prepared
        assert ("", "the template started a thread (pool)") == (said.problem, said.unforkable)

    run(tmp_path, scenario)


def test_a_fork_and_its_end(tmp_path: Path) -> None:
    async def scenario(link: TemplateLink, fake: Fake) -> None:
        descriptor = memory_file("given", b"given")
        forking = asyncio.ensure_future(link.fork("co-1", {"hostname": "a"}, [descriptor]))
        assert {"t": "fork", "id": "co-1", "hostname": "a"} == await fake.receive()
        os.close(descriptor)
        assert b"given" == os.pread(fake.descriptors[0], 100, 0)
        fake.say({"t": "forked", "id": "co-1"})
        await forking
        status = link.status("co-1")
        fake.say({"t": "ended", "id": "co-other", "status": 1})
        fake.say({"t": "ended", "id": "co-1", "status": 3})
        assert 3 == await status

    run(tmp_path, scenario)


def test_an_end_that_is_told_before_somebody_asks(tmp_path: Path) -> None:
    async def scenario(link: TemplateLink, fake: Fake) -> None:
        forking = asyncio.ensure_future(link.fork("co-1", {}, []))
        await fake.receive()
        fake.say({"t": "forked", "id": "co-1"})
        fake.say({"t": "ended", "id": "co-1", "status": -11})
        await forking
        other = asyncio.ensure_future(link.fork("co-2", {}, []))
        await fake.receive()
        fake.say({"t": "failed", "id": "co-2", "reason": "no"})
        with pytest.raises(OSError, match="no"):
            await other  # so what came before has been read
        assert -11 == await link.status("co-1")

    run(tmp_path, scenario)


def test_a_fork_that_fails_says_why(tmp_path: Path) -> None:
    async def scenario(link: TemplateLink, fake: Fake) -> None:
        forking = asyncio.ensure_future(link.fork("co-1", {}, []))
        await fake.receive()
        fake.say({"t": "failed", "id": "co-1", "reason": "cannot fork: Cannot allocate memory"})
        with pytest.raises(OSError, match=r"^cannot fork: Cannot allocate memory$"):
            await forking

    run(tmp_path, scenario)


def test_a_template_that_has_ended(tmp_path: Path) -> None:
    async def scenario(link: TemplateLink, fake: Fake) -> None:
        preloading = asyncio.ensure_future(link.preload([]))
        forking = asyncio.ensure_future(link.fork("co-1", {}, []))
        status = link.status("co-2")
        await fake.receive()
        await fake.receive()
        link.gone("the template ran out of memory")
        link.gone("for another reason")
        for waiting in (preloading, forking):
            with pytest.raises(TemplateGoneError, match=r"^the template ran out of memory$"):
                await waiting
        assert -9 == await status
        assert -9 == await link.status("co-3")
        assert {} == await fake.receive()
        for attempt in (link.fork("co-4", {}, []), link.preload([]), link.came()):
            with pytest.raises(TemplateGoneError, match="ran out of memory"):
                await attempt

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    "said", [b"no json", b"[]", b'"text"', b'{"t": "ended", "id": "co-1", "status": []}']
)
def test_what_is_not_a_message_ends_it(tmp_path: Path, said: bytes) -> None:
    async def scenario(link: TemplateLink, fake: Fake) -> None:
        status = link.status("co-1")
        fake.sock.send(said)
        assert -9 == await status
        with pytest.raises(TemplateGoneError, match="sent what is not a message"):
            await link.fork("co-2", {}, [])

    run(tmp_path, scenario)


def test_messages_that_it_does_not_know_are_ignored(tmp_path: Path) -> None:
    async def scenario(link: TemplateLink, fake: Fake) -> None:
        for message in ({"t": "news"}, {}, {"t": "forked", "id": "co-none"}):
            fake.say(message)
        preloading = asyncio.ensure_future(link.preload([]))
        await fake.receive()
        fake.say({"t": "prepared"})
        assert "" == (await preloading).problem
        fake.say({"t": "prepared", "problem": "again"})
        forking = asyncio.ensure_future(link.fork("co-1", {}, []))
        await fake.receive()
        fake.say({"t": "forked", "id": "co-1"})
        await forking

    run(tmp_path, scenario)


def test_it_lets_go_and_comes_back(tmp_path: Path) -> None:
    async def scenario(link: TemplateLink, fake: Fake) -> None:
        status = link.status("co-1")
        releasing = asyncio.ensure_future(link.release())
        assert {"t": "release"} == await fake.receive()
        assert not (link.folder / SOCKET_NAME).exists()
        assert not releasing.done()
        fake.close()
        await releasing
        with pytest.raises(TemplateGoneError, match="the template is not connected"):
            await link.fork("co-2", {}, [])
        with pytest.raises(TemplateGoneError, match="the template is not connected"):
            link.become({})
        link.listen()
        again = Fake(link.folder)
        await link.came()
        again.say({"t": "ended", "id": "co-1", "status": 0})
        assert 0 == await status
        link.become({"fork": False})
        assert {"t": "become", "fork": False} == await again.receive()
        again.close()

    run(tmp_path, scenario)


def test_a_connection_that_ended_just_before_it_is_let_go(tmp_path: Path) -> None:
    async def scenario(link: TemplateLink, fake: Fake) -> None:
        fake.close()
        with pytest.raises(TemplateGoneError, match="the template cannot be reached: Broken pipe"):
            await link.release()

    run(tmp_path, scenario)


def test_one_connection_at_a_time(tmp_path: Path) -> None:
    async def scenario(link: TemplateLink, fake: Fake) -> None:
        second = Fake(link.folder)
        second.say({"t": "ended", "id": "co-1", "status": 7})
        fake.say({"t": "ended", "id": "co-1", "status": 0})
        assert 0 == await link.status("co-1")
        second.close()

    run(tmp_path, scenario)


def test_more_than_the_socket_takes_waits(tmp_path: Path) -> None:
    """So many forks at once that the template reads them only one by one."""
    env = {"A": "x" * 20_000}

    async def scenario(link: TemplateLink, fake: Fake) -> None:
        forks = [asyncio.ensure_future(link.fork(f"co-{n}", {"env": env}, [])) for n in range(60)]
        for n in range(60):
            message = await fake.receive()
            assert (f"co-{n}", env) == (message["id"], message["env"])
            fake.say({"t": "forked", "id": message["id"]})
        await asyncio.gather(*forks)

    run(tmp_path, scenario)


def test_a_template_that_ends_while_others_wait_to_send(tmp_path: Path) -> None:
    env = {"A": "x" * 20_000}

    async def scenario(link: TemplateLink, fake: Fake) -> None:
        forks = [asyncio.ensure_future(link.fork(f"co-{n}", {"env": env}, [])) for n in range(60)]
        await fake.receive()
        link.gone("the template ended by itself")
        for fork in forks:
            with pytest.raises(TemplateGoneError, match="the template ended by itself"):
                await fork

    run(tmp_path, scenario)
