"""Uploads, commits of a folder and a collector, all at once, and all the time one of them is killed."""

from __future__ import annotations

import multiprocessing
import random
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

WORK = {"upload": work.upload, "commit": work.commit, "sweep": work.sweep}


class Crew:
    """One process of each kind; who was killed is replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["random_kill_work"])
        self._processes: dict[str, multiprocessing.process.BaseProcess] = {}

    def begin(self, name: str, seed: int) -> None:
        process = self._context.Process(target=WORK[name], args=(self._folder, seed), daemon=True)
        process.start()
        self._processes[name] = process

    def kill(self, name: str) -> None:
        """Fails where it has ended by itself, which none of them does."""
        process = self._processes.pop(name)
        alive = process.is_alive()
        process.kill()
        process.join()
        assert alive, f"{name} ended with {process.exitcode}"

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.join()


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


def deletions(folder: Path) -> list[str]:
    """Of the collections that came to their end those that deleted something."""
    return [line for line in lines(folder / "swept") if line != "0"]


def lines(path: Path) -> list[str]:
    """The last one may have been cut off by a kill."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_kills(crew: Crew, tmp_path: Path) -> None:
    chance = random.Random(7)
    for number, name in enumerate(WORK):
        crew.begin(name, number)
    deadline = time.monotonic() + 60
    while len(lines(tmp_path / "told")) < 2:
        assert time.monotonic() < deadline, "nobody commits"
        time.sleep(0.01)
    for number in range(ROUNDS):
        time.sleep(chance.random() * LONGEST)  # the moment is to be a random one
        name = chance.choice(list(WORK))
        crew.kill(name)
        crew.begin(name, 100 + number)
        if number % 4 == 3:
            check(tmp_path)
        if number % 60 == 59:
            # While somebody writes, nothing is collected. So nobody does, and the collector is killed at it.
            crew.kill("upload")
            crew.kill("commit")
            swept = len(deletions(tmp_path))
            deadline = time.monotonic() + 60
            while len(deletions(tmp_path)) == swept:
                assert time.monotonic() < deadline, "nothing is ever collected"
                time.sleep(chance.random() * LONGEST)
                if chance.random() < 0.1:
                    crew.kill("sweep")
                    crew.begin("sweep", number)
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
