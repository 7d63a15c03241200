"""The local engine: one host process, found again, started again, given up with a reason."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skylift.backend.engines.local import LocalEngine, is_host_process, wait_for_end
from skylift.backend.settings import Settings

pytestmark = pytest.mark.anyio

HOST = """
import json, os, pathlib, signal, sys, time
home = pathlib.Path(sys.argv[sys.argv.index("--home") + 1])
(home / "host").mkdir(exist_ok=True)
(home / "host" / "host.json").write_text(json.dumps({"pid": os.getpid()}))
signal.pause()
"""


class Home:
    """A folder, its engines, and whatever processes they started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.news = asyncio.Event()
        self.pids: set[int] = set()
        self.engines: list[LocalEngine] = []

    def engine(self, code: str = HOST) -> LocalEngine:
        command = [sys.executable, "-c", code, "--home", str(self.folder)]
        engine = LocalEngine(Settings(home=self.folder), command)
        self.engines.append(engine)
        return engine

    async def started(self, engine: LocalEngine) -> int:
        """Start it, and wait for a host process."""
        await engine.start(self.news.set)
        return await self.next_pid(engine)

    async def next_pid(self, engine: LocalEngine, not_this: int = 0) -> int:
        async def look() -> int:
            while True:
                if engine._pid and engine._pid != not_this:
                    self.pids.add(engine._pid)
                    return engine._pid
                self.news.clear()
                await self.news.wait()

        return await asyncio.wait_for(look(), 30)

    async def note(self, pid: int) -> None:
        """Wait until the process has written host.json."""
        path = self.folder / "host" / "host.json"
        for _ in range(3000):
            if path.exists() and path.read_text() and json.loads(path.read_text())["pid"] == pid:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("no host.json")


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    home = Home(tmp_path)
    yield home
    for engine in home.engines:
        await engine.stop(end_hosts=False)
    for pid in home.pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        await asyncio.wait_for(wait_for_end(pid), 10)


async def test_it_starts_a_detached_process(home: Home) -> None:
    pid = await home.started(home.engine())
    assert os.getsid(pid) == pid
    assert f"host process {pid} on this machine" == home.engines[0].describe().detail


async def test_a_second_gateway_finds_the_process_of_the_first(home: Home) -> None:
    first = home.engine()
    pid = await home.started(first)
    await home.note(pid)
    await first.stop(end_hosts=False)
    assert pid == await home.started(home.engine())


async def test_a_process_that_ended_is_started_again(home: Home) -> None:
    engine = home.engine()
    pid = await home.started(engine)
    await home.note(pid)
    os.kill(pid, signal.SIGKILL)
    again = await home.next_pid(engine, not_this=pid)
    assert again != pid
    assert "" == engine.describe().problem


async def test_stopping_with_hosts_ends_the_process(home: Home) -> None:
    engine = home.engine()
    pid = await home.started(engine)
    await home.note(pid)
    os.kill(pid, signal.SIGTERM)  # As `Shutdown` would over its link.
    await engine.stop(end_hosts=True)
    assert not is_host_process(pid, home.folder)


async def test_a_process_that_does_not_start_is_given_up_with_its_last_words(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skylift.backend.engines.local.RESTART_SECONDS", 0.01)
    engine = home.engine("import sys; sys.exit('There is no runc on this machine: install it.')")
    await engine.start(home.news.set)

    async def problem() -> str:
        while not engine.describe().problem:
            home.news.clear()
            await home.news.wait()
        return engine.describe().problem

    assert (
        "The host process of this machine does not start: There is no runc on this machine: install it. "
        f"(see {home.folder / 'host' / 'host.log'})" == await asyncio.wait_for(problem(), 30)
    )


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    engine = LocalEngine(Settings(home=tmp_path), ["/nowhere/python"])
    await engine.start(lambda: None)
    await asyncio.wait_for(engine._watch, 10)  # type: ignore[arg-type]
    assert engine.describe().problem.startswith("The host process cannot be started (/nowhere/python): ")


async def test_another_process_with_the_number_of_a_dead_host_is_not_taken_for_it(home: Home) -> None:
    folder = home.folder / "host"
    folder.mkdir()
    (folder / "host.json").write_text(json.dumps({"pid": os.getpid()}))
    pid = await home.started(home.engine())
    assert pid != os.getpid()
