"""Sessions that are written to the store, and go on in their next cell as if nothing had been."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from running_gateway import PATIENCE, RunningGateway

from skylift import App, exceptions
from skylift.session import CellRun, Session
from skylift.wire import CallStatus, Event

pytestmark = pytest.mark.root

NO_TEMPLATES = pytest.mark.parametrize("gateway", ["templates = false"], indirect=True)


def start(session: Session, code: str, **send: Any) -> CellRun:
    return session.run_cell(code, filename="cell.py", send=send)


def finish(run: CellRun) -> str:
    """What the cell printed. Raises what it raised."""
    return ending(run, [*run])


def ending(run: CellRun, items: list[Any]) -> str:
    if run.error is not None:
        raise run.error
    return b"".join(each.data for each in items if isinstance(each, Event) and each.kind == "output").decode()


def cell(session: Session, code: str, **send: Any) -> str:
    return finish(start(session, code, **send))


def view(gateway: RunningGateway, session: Session) -> Any:
    """What the gateway tells of the session; None where it knows none."""
    found = [each for each in gateway.get("/v1/sessions") if each["session_id"] == session.session_id]
    return found[0] if found else None


def until(gateway: RunningGateway, session: Session, state: str) -> Any:
    def holds(sessions: list[Any]) -> bool:
        return [state] == [each["state"] for each in sessions if each["session_id"] == session.session_id]

    gateway.wait_for("/v1/sessions", holds)
    return view(gateway, session)


def path_of(session: Session) -> str:
    assert session.container is not None
    return session.container.path


def host_pid(gateway: RunningGateway) -> int:
    return int(json.loads((gateway.home / "host" / "host.json").read_bytes())["pid"])


def stored(folder: Path) -> list[Path]:
    """What there is of snapshots in a store."""
    return [path for path in folder.rglob("*") if path.is_file()]


PREPARE = """
import os, random, sys, tempfile, threading, time
import numpy as np, colorsys
array = np.arange(25_000_000, dtype=np.float64)
with open("/root/lines", "w") as file:
    file.write("one\\ntwo\\nthree\\n")
lines = open("/root/lines")
lines.readline()
os.makedirs("/root/work", exist_ok=True)
os.chdir("/root/work")
random.seed(7), np.random.seed(7)
drawn = random.random(), float(np.random.rand())
scratch = tempfile.TemporaryFile("w+")
scratch.write("kept")
scratch.flush()
colorsys.mine = ["state"]
counted = [0]
def count():
    while True:
        time.sleep(0.005)
        counted[0] += 1
threading.Thread(target=count, daemon=True).start()
while not counted[0]: time.sleep(0.001)
began = counted[0]
"""
LOOK = """
scratch.seek(0)
now = counted[0]
while counted[0] == now: time.sleep(0.001)
print(repr((
    float(array[-1]), array.size, lines.readline(), os.getcwd(), random.random(), float(np.random.rand()),
    scratch.read(), sys.modules["colorsys"].mine, now >= began,
)))
"""


def test_all_of_it_is_there_after_a_restart_of_gateway_and_host(gateway: RunningGateway) -> None:
    session = Session(name="train", gpu="H100")
    cell(session, PREPARE)
    slept = session.sleep()
    assert slept.unpacked > 200_000_000 > slept.size > 0
    known = view(gateway, session)
    assert ("asleep", slept.size, "") == (known["state"], known["size"], known["problem"])
    gateway.close()
    gateway.start()
    assert "asleep" == view(gateway, session)["state"]
    expected = random.Random(7)
    expected.random()
    numbers = numpy.random.RandomState(7)
    numbers.rand()
    run = start(session, LOOK)
    items = [*run]
    assert ast.literal_eval(ending(run, items)) == (
        24_999_999.0, 25_000_000, "two\n", "/root/work", expected.random(), float(numbers.rand()),
        "kept", ["state"], True,
    )  # fmt: skip
    assert "waking the session" in {each.detail for each in items if isinstance(each, CallStatus)}
    assert "restore" == path_of(session)
    session.stop()


def test_it_sleeps_by_itself_and_its_gpu_is_free(gateway: RunningGateway) -> None:
    one = Session(name="one", gpu="H100", idle_timeout=0.5)
    cell(one, "x = 'kept'")
    until(gateway, one, "asleep")
    two = Session(name="two", gpu="H100", idle_policy="keep")
    cell(two, "y = 2")
    waiting = start(one, "print(x)")
    said = next(item.detail for item in waiting if isinstance(item, CallStatus) and "two" in item.detail)
    assert said.startswith("waiting")
    two.stop()
    assert "kept\n" == finish(waiting)
    assert "restore" == path_of(one)
    one.stop()


def test_what_becomes_of_an_idle_session(gateway: RunningGateway) -> None:
    connected = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(listener.getsockname())
far, _ = listener.accept()
"""
    kept = Session(name="kept", idle_timeout=0.2, idle_policy="keep")
    ended = Session(name="ended", idle_timeout=0.2, idle_policy="stop")
    tied = Session(name="tied", idle_timeout=0.2, idle_policy="sleep")
    given_up = Session(name="given up", idle_timeout=0.2, idle_policy="sleep-or-stop")
    asleep = Session(name="asleep", idle_timeout=0.2, idle_policy="sleep-or-stop")
    for session, code in (
        (kept, "x = 1"), (ended, "x = 1"), (tied, connected), (given_up, connected), (asleep, "x = 1"),
    ):  # fmt: skip
        cell(session, code)
    until(gateway, asleep, "asleep")
    gateway.wait_for(
        "/v1/sessions",
        lambda sessions: (
            {"kept", "tied", "asleep"} == {each["name"] for each in sessions}
            and any("cannot sleep" in each["kept"] for each in sessions)
        ),
    )
    assert "idle_policy=keep" == view(gateway, kept)["kept"]
    reason = view(gateway, tied)["kept"]
    assert "TCP" in reason or "network socket" in reason, reason
    assert "idle" == view(gateway, tied)["state"]
    with pytest.raises(exceptions.ConflictError, match=r"socket|TCP") as error:
        tied.sleep()
    assert "tied" in str(error.value)
    # It runs on, and its connection is open.
    assert "sent\n" == cell(tied, "near.sendall(b'sent'); print(far.recv(4).decode())")
    cell(tied, "near.close(), far.close(), listener.close()")
    tied.sleep()
    assert "True\n" == cell(tied, "print(near._closed)")
    assert "1\n" == cell(asleep, "print(x)")


def test_a_cell_that_comes_while_it_is_written(gateway: RunningGateway) -> None:
    session = Session(name="large", gpu="H100")
    cell(session, PREPARE)
    slept: list[Any] = []
    sleeper = threading.Thread(target=lambda: slept.append(session.sleep()))
    sleeper.start()
    until(gateway, session, "falling asleep")
    assert "25000000\n" == cell(session, "print(array.size)")
    sleeper.join(PATIENCE)
    assert slept
    assert "restore" == path_of(session)
    session.stop()


def test_again_and_again_with_calls_from_inside(gateway: RunningGateway) -> None:
    """Twenty times. The session's code calls a function before and after, with data that goes through the
    store: what the SDK had of connections and tokens is worth nothing each time."""
    app = App("nested")

    @app.function(gpu=None)
    def length(data: bytes) -> int:
        return len(data)

    session = Session(name="caller", gpu="H100")
    with app.run():
        assert "1000\n" == cell(session, "import os; print(length.remote(b'x' * 1000))", length=length)
        cell(session, "pending = length.spawn(b'y' * 17)")
        for number in range(20):
            session.sleep()
            assert 0.0 == session.sleep().seconds
            if number % 5 == 0:
                assert "2000000\n" == cell(session, "print(length.remote(os.urandom(2_000_000)))")
                assert "17\n" == cell(session, "print(pending.get())")
            else:
                assert f"{number}\n" == cell(session, f"print({number})")
            assert "restore" == path_of(session)
    session.stop()


@NO_TEMPLATES
def test_nothing_is_kept_of_one_that_was_given_up(gateway: RunningGateway) -> None:
    session = Session(name="unwanted")
    cell(session, "x = 1")
    session.sleep()
    store = gateway.home / "snapshots"
    assert stored(store)
    session.stop()
    deadline = time.monotonic() + PATIENCE
    while left := [*stored(store), *(gateway.home / "host" / "snapshots" / "unpacked").iterdir()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
    assert [] == gateway.get("/v1/sessions")


def test_the_host_is_killed_while_it_writes(gateway: RunningGateway) -> None:
    other = Session(name="other")
    cell(other, "x = 'older'")
    other.sleep()
    session = Session(name="lost", gpu="H100")
    cell(session, PREPARE)
    errors: list[BaseException] = []

    def sleep() -> None:
        try:
            session.sleep()
        except exceptions.Error as error:
            errors.append(error)

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    folder = gateway.home / "host" / "snapshots" / "sessions"
    deadline = time.monotonic() + PATIENCE
    while not list(folder.glob("*/pages-*.img")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(host_pid(gateway), signal.SIGKILL)
    sleeper.join(PATIENCE)
    assert not sleeper.is_alive()
    (error,) = errors
    assert "lost" in str(error)
    # A new host is there, which has nothing of it, and all of the other one.
    assert "'older'\n" == cell(other, "print(repr(x))")
    assert "restore" == path_of(other)
    with pytest.raises(NameError):
        cell(session, "print(array.size)")
    assert [] == list(folder.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "small", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("gateway", ['templates = false\nsnapshots = "TMP_PATH/small"'], indirect=True)
def test_a_full_disk(small_disk: Path, gateway: RunningGateway) -> None:
    session = Session(name="large")
    cell(session, "import os; x = os.urandom(10_000_000)")
    with pytest.raises(exceptions.ConflictError, match=r"full|room|space") as error:
        session.sleep()
    assert "session large" in str(error.value)
    assert "10000000\n" == cell(session, "print(len(x))")
    assert [] == [path for path in stored(small_disk) if path.stat().st_size > 100_000]
    assert [] == list((gateway.home / "host" / "snapshots" / "sessions").iterdir())
    cell(session, "del x")


@NO_TEMPLATES
def test_a_damaged_one_is_kept(gateway: RunningGateway) -> None:
    session = Session(name="precious")
    cell(session, "x = 'precious'")
    session.sleep()
    with damaged(gateway):
        with pytest.raises(exceptions.Error, match="could not be woken") as error:
            cell(session, "print(x)")
        for part in ("session precious", "is damaged", "Its state is kept", "%gpu wake", "%gpu stop"):
            assert part in str(error.value)
        known = view(gateway, session)
        assert "asleep" == known["state"]
        assert "is damaged" in known["problem"]
        with pytest.raises(exceptions.Error, match="is damaged"):
            session.wake()
    # Somebody had a copy of the disk.
    assert 0.0 < session.wake()
    assert "precious\n" == cell(session, "print(x)")
    session.sleep()
    with damaged(gateway):
        session.stop()
        gateway.wait_for("/v1/sessions", lambda sessions: not sessions)


@NO_TEMPLATES
def test_one_that_is_given_up_while_its_store_hangs(gateway: RunningGateway) -> None:
    session = Session(name="stuck")
    cell(session, "x = 1")
    session.sleep()
    with damaged(gateway) as blob:
        blob.unlink()
        os.mkfifo(blob)  # whoever opens it waits
        run = start(session, "print(x)")
        gateway.wait_for("/v1/containers", lambda each: ["starting"] == [one["state"] for one in each])
        opened = os.open(blob, os.O_WRONLY)  # now it is being read
        session.stop()
        gateway.wait_for("/v1/containers", lambda each: not each)
        with pytest.raises(exceptions.Error, match="stuck"):
            finish(run)
        os.close(opened)


@contextlib.contextmanager
def damaged(gateway: RunningGateway) -> Iterator[Path]:
    """A byte of what is in the store is another one, and what the host has unpacked is gone."""
    blobs = stored(gateway.home / "snapshots" / "blobs")
    largest = max(blobs, key=lambda path: path.stat().st_size)
    copy = gateway.home.parent / largest.name
    shutil.copy2(largest, copy)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 255
    largest.unlink()
    largest.write_bytes(data)
    for folder in (gateway.home / "host" / "snapshots" / "unpacked").iterdir():
        if folder.is_dir():
            for file in folder.iterdir():
                file.unlink()
    yield largest
    copy.replace(largest)
