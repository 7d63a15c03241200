"""Who commits is killed at each step: the volume is at its last version; what was left is collected."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from memory_store import Killed, MemoryNames, MemoryStore, World

from skylift.lazyfs.garbage import collect
from skylift.lazyfs.names import LocalNames
from skylift.lazyfs.store import LocalStore
from skylift.lazyfs.volume_commits import volumes_reach
from skylift.lazyfs.volume_workdir import Workdir, _State
from skylift.lazyfs.volumes import Volume, Volumes

DAY = 24 * 3600


class Machine:
    """A store and names, of which a process that uses them can be killed."""

    def __init__(self) -> None:
        self.world = World()
        self.store = MemoryStore(self.world)
        self.names = MemoryNames(self.world)

    def volumes(self) -> Volumes:
        """As another process sees them."""
        return Volumes(self.store, self.names, clock=self.world.clock)

    def kill_before(self, step: int) -> None:
        left = [step]

        def before() -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed

        self.world.before = before

    def revive(self) -> None:
        self.world.before = lambda: None

    def collect(self) -> None:
        """After so long that nothing protects what the killed one has left."""
        self.world.now += 2 * DAY
        reach = volumes_reach(self.store, self.names)
        collect(self.store, self.names, [reach], clock=self.world.clock)
        assert set(self.store.data) == set(volumes_reach(self.store, self.names)([]))
        assert [] == self.names.under("leases")


def contents(volume: Volume) -> dict[str, bytes]:
    return {
        found.path: b"".join(volume.read_file(found.path))
        for found in volume.listdir(recursive=True)
        if found.kind == "file"
    }


def put(volume: Volume, files: dict[str, bytes]) -> None:
    with volume.batch_upload(force=True) as batch:
        for path, content in files.items():
            batch.put_file(io.BytesIO(content), path)


def some_files(chance: random.Random) -> dict[str, bytes]:
    paths = ["a", "b", "d/a", "d/b", "d/e/a", "f/a"]
    return {
        path: chance.randbytes(chance.choice([3, 700])) for path in chance.sample(paths, chance.randint(1, 4))
    }


@pytest.mark.parametrize("seed", range(8))
def test_an_upload_killed_at_each_step(seed: int) -> None:
    chance = random.Random(seed)
    machine = Machine()
    volume = machine.volumes().create("data")
    expected: dict[str, bytes] = {}
    for _ in range(3):
        new = some_files(chance)
        step = 0
        while True:
            machine.kill_before(step)
            killed = True
            try:
                put(machine.volumes().from_name("data"), new)
                killed = False
            except Killed:
                pass
            machine.revive()
            volume = machine.volumes().from_name("data")
            found = contents(volume)
            assert found in (expected, {**expected, **new})
            machine.collect()
            assert found == contents(machine.volumes().from_name("data"))
            if not killed:
                break
            step += 1
        assert step > 8
        expected.update(new)
        assert expected == found
        volume.forget_before(volume.info().version)


@pytest.mark.parametrize("step", range(14))
def test_making_and_deleting_a_volume_killed_at_each_step(step: int) -> None:
    machine = Machine()

    def again_and_again() -> None:
        while True:
            machine.volumes().create("data")
            machine.volumes().delete("data")

    machine.kill_before(step)
    with pytest.raises(Killed):
        again_and_again()
    machine.revive()
    volumes = machine.volumes()
    volume = volumes.from_name("data", create_if_missing=True)
    put(volume, {"/a": b"1"})
    machine.world.now += DAY
    volumes.tidy()
    machine.collect()
    assert {"a": b"1"} == contents(volume)
    assert 1 == len(machine.names.under("volumes"))


class Work(Workdir):
    """One whose process is also killed before its own notes are written."""

    machine: Machine

    def _save(self, state: _State) -> None:
        self.machine.world.before()
        super()._save(state)


@pytest.mark.parametrize("seed", range(200))
def test_a_container_s_commit_killed_at_any_step(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    machine = Machine()
    monkeypatch.setattr(Work, "machine", machine, raising=False)
    volume = machine.volumes().create("data")
    old = {"a": b"old", "b": b"old" * 500, "d/a": b"old"}
    put(volume, old)
    folder, state = tmp_path / "w", tmp_path / "state"
    folder.mkdir()
    work = Work(volume, folder, volume.commits.newest(), overlay=False, state=state)
    new = some_files(chance)
    for path, content in new.items():
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        (folder / path).write_bytes(content)
    if "b" not in new:
        (folder / "b").unlink()
    after = {**old, **new}
    if "b" not in new:
        del after["b"]
    others = chance.random() < 0.5
    if others:  # so that it is merged
        put(volume, {"/z": b"theirs"})
        old["z"] = after["z"] = b"theirs"

    machine.kill_before(chance.randint(0, 40))
    done = False
    try:
        work.commit()
        done = True
    except Killed:
        pass
    machine.revive()
    found = contents(volume)
    assert found == after if done else found in (old, after)
    done = found == after
    machine.collect()
    assert found == contents(machine.volumes().from_name("data"))

    # Another process goes on. What others do meanwhile is newer than what was committed already.
    volume = machine.volumes().from_name("data")
    path = chance.choice(list(new))
    put(volume, {path: b"newer"})
    again = Work(volume, folder, overlay=False, state=state)
    again.commit()
    assert {**after, path: b"newer" if done else new[path]} == contents(volume)
    machine.kill_before(chance.randint(0, 40))
    try:
        again.reload()
    except Killed:
        machine.revive()
        volume = machine.volumes().from_name("data")
        again = Work(volume, folder, overlay=False, state=state)
        again.reload()
    machine.revive()
    assert contents(volume) == {
        str(found.relative_to(folder)): found.read_bytes() for found in folder.rglob("*") if found.is_file()
    }
    machine.collect()
    shutil.rmtree(folder)


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import io, pathlib, sys\n"
        "from skylift.lazyfs.names import LocalNames\n"
        "from skylift.lazyfs.store import LocalStore\n"
        "from skylift.lazyfs.volumes import Volumes\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "volumes = Volumes(LocalStore(folder / 'store'), LocalNames(folder / 'names'))\n"
        "volume = volumes.from_name('data', create_if_missing=True)\n"
        "number = volume.info().version\n"
        "while True:\n"
        "    number += 1\n"
        "    with volume.batch_upload(force=True) as batch:\n"
        "        for name in 'ab':\n"
        "            batch.put_file(io.BytesIO(b'%d' % number * 2000), '/d/' + name)\n"
        "    print(number, flush=True)\n"
    )
    told = 0
    for kills in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process.stdout:
            for _ in range(kills + 1):
                told = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            told = max([told, *map(int, process.stdout.read().split())])
        process.wait()
        volume = Volumes(LocalStore(tmp_path / "store"), LocalNames(tmp_path / "names")).from_name("data")
        number = volume.info().version
        assert number in (told, told + 1)
        assert {"d/a": b"%d" % number * 2000, "d/b": b"%d" % number * 2000} == contents(volume)
