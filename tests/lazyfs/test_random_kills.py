"""Uploads, commits of a folder and a collector, all at once, and all the time one of them is killed."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import random_kill_work as work

from skylift.lazyfs.garbage import collect
from skylift.lazyfs.leases import LEASE_SECONDS
from skylift.lazyfs.listing import stored_blobs
from skylift.lazyfs.names import LocalNames
from skylift.lazyfs.store import LocalStore
from skylift.lazyfs.volume_commits import volumes_reach

ROUNDS = 200
LONGEST = 0.05
"""Seconds until the next one is killed, at most."""

KINDS = ("upload", "commit", "sweep")


class Crew:
    """One process of each kind; who was killed is replaced."""

    def __init__(self, folder: Path) -> None:
        program = [sys.executable, work.__file__, str(folder)]
        self._starter = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._pids: dict[str, int] = {}

    def begin(self, kind: str, seed: int) -> None:
        assert self._starter.stdin is not None
        assert self._starter.stdout is not None
        self._starter.stdin.write(f"{kind} {seed}\n")
        self._pids[kind] = int(self._starter.stdout.readline())

    def kill(self, kind: str) -> None:
        """Raises ProcessLookupError where it has ended by itself, which none of them does."""
        self._kill(self._pids.pop(kind))

    def close(self) -> None:
        for pid in self._pids.values():
            self._kill(pid)
        self._pids.clear()
        self._starter.kill()
        self._starter.wait()
        for pipe in (self._starter.stdin, self._starter.stdout):
            assert pipe is not None
            pipe.close()

    def _kill(self, pid: int) -> None:
        pidfd = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            select.select([pidfd], [], [])
        finally:
            os.close(pidfd)


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    work.opened(tmp_path).create("data")
    made = Crew(tmp_path)
    try:
        yield made
    finally:
        made.close()


def check(folder: Path) -> int:
    """Everything in the newest version is whole, and it is no older than any that somebody was told of."""
    told = max(map(int, lines(folder / "told")), default=0)
    volume = work.opened(folder).from_name("data")
    assert volume.info().version >= told
    view, count = volume.view(), 0
    for found in view.listdir("/", recursive=True):
        if found.kind == "file":
            count += 1
            assert work.is_whole(b"".join(view.read_file(found.path))), found.path
    return count


def collections(folder: Path) -> int:
    """How many have come to their end, with nothing left to do."""
    return sum(1 for line in lines(folder / "swept") if line.endswith(" 0"))


def lines(path: Path) -> list[str]:
    """The last one may have been cut off by a kill."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_kills(crew: Crew, tmp_path: Path) -> None:
    chance = random.Random(7)
    for number, name in enumerate(KINDS):
        crew.begin(name, number)
    deadline = time.monotonic() + 60
    while len(lines(tmp_path / "told")) < 2:
        assert time.monotonic() < deadline, "nobody commits"
        time.sleep(0.01)
    for number in range(ROUNDS):
        time.sleep(chance.random() * LONGEST)  # the moment is to be a random one
        name = chance.choice(KINDS)
        crew.kill(name)
        crew.begin(name, 100 + number)
        if number % 4 == 3:
            check(tmp_path)
        if number % 60 == 59:
            # While somebody writes, nothing is collected. So nobody does, and the collector is killed at it.
            crew.kill("upload")
            crew.kill("commit")
            for _ in range(5):
                time.sleep(chance.random() * LONGEST)
                crew.kill("sweep")
                crew.begin("sweep", number)
            swept = collections(tmp_path)
            deadline = time.monotonic() + 120
            while collections(tmp_path) == swept:
                assert time.monotonic() < deadline, "nothing is ever collected"
                time.sleep(0.02)
            check(tmp_path)
            crew.begin("upload", 1000 + number)
            crew.begin("commit", 2000 + number)
    crew.close()
    assert check(tmp_path) > 20

    # What the killed ones have left goes, when they count no more, and nothing else does.
    store, names = LocalStore(tmp_path / "blobs"), LocalNames(tmp_path / "names")
    collect(
        store,
        names,
        [volumes_reach(store, names)],
        grace=0.0,
        clock=lambda: time.time() + LEASE_SECONDS + 3600,
    )
    reached = set(volumes_reach(store, names)([]))
    assert reached == {found.blob for found in stored_blobs(store)}
    assert check(tmp_path) > 20
