"""Volumes in real containers: what one writes, the notebook and others read."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from running_gateway import RunningGateway

import skylift
from skylift import App, Volume
from skylift.exceptions import ConflictError, InvalidError, NotFoundError
from skylift.session import Session
from skylift.wire import Event

pytestmark = pytest.mark.root

BIG = os.urandom(3_300_000)


def content(volume: Volume, path: str) -> bytes:
    return b"".join(volume.read_file(path))


def run(session: Session, code: str) -> str:
    """What a cell printed. Raises what it raised."""
    run = session.run_cell(code, filename="<cell>")
    printed = b"".join(each.data for each in run if isinstance(each, Event) and each.kind == "output")
    if run.error is not None:
        raise run.error
    return printed.decode()


@pytest.fixture
def volume(gateway: RunningGateway) -> Volume:
    volume = Volume.from_name("data", create_if_missing=True)
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"a,b\n1,2\n"), "/tables/one.csv")
        batch.put_file(io.BytesIO(BIG), "/big.bin")
    return volume


def test_a_function_reads_and_writes(gateway: RunningGateway, volume: Volume) -> None:
    app = App("volumes", volumes={"/data": volume})

    @app.function()
    def work(name: str) -> dict[str, Any]:
        with open("/data/tables/one.csv") as file:
            first = file.readline()
        with open("/data/big.bin", "rb") as file:
            size = len(file.read())
        os.makedirs("/data/out", exist_ok=True)
        with open(f"/data/out/{name}", "w") as file:
            file.write(name)
        with open("/data/tables/one.csv", "a") as file:
            file.write(f"{name}\n")
        return {
            "first": first,
            "size": size,
            "owner": os.stat("/data/big.bin").st_uid,
            "listed": sorted(os.listdir("/data/out")),
        }

    with app.run():
        answer = work.remote("x")
        assert {"first": "a,b\n", "size": len(BIG), "owner": 0, "listed": ["x"]} == answer
        # Committed before the call was over.
        assert b"x" == content(volume, "/out/x")
        assert b"a,b\n1,2\nx\n" == content(volume, "/tables/one.csv")
        newest = volume.history()[0]
        assert "volumes.work, container co-" in newest.who
        assert ["x", "y"] == work.remote("y")["listed"]
        assert b"y" == content(volume, "/out/y")


def test_what_is_written_is_kept_on_error_and_at_the_end(gateway: RunningGateway, volume: Volume) -> None:
    app = App("volumes")

    @app.function(volumes={"/mnt/deep/data": volume}, scaledown_window=1)
    def fail() -> None:
        import threading

        def later() -> None:
            time.sleep(0.5)
            with open("/mnt/deep/data/later", "w") as file:
                file.write("later")

        threading.Thread(target=later).start()
        os.remove("/mnt/deep/data/big.bin")
        with open("/mnt/deep/data/failed", "w") as file:
            file.write("failed")
        raise KeyError("as meant")

    with app.run():
        with pytest.raises(KeyError, match="as meant"):
            fail.remote()
        assert b"failed" == content(volume, "/failed")
        with pytest.raises(FileNotFoundError):
            content(volume, "/big.bin")
        gateway.wait_for("/v1/containers", lambda found: not found)
        assert b"later" == content(volume, "/later")


def test_two_containers_and_reload(gateway: RunningGateway, volume: Volume) -> None:
    app = App("volumes")

    @app.cls(volumes={"/data": volume}, max_containers=1)
    class Reader:
        @skylift.method()
        def read(self, reload: bool) -> list[str]:
            if reload:
                volume.reload()
            return sorted(os.listdir("/data"))

        @skylift.method()
        def busy(self) -> str:
            with open("/data/big.bin", "rb"):
                try:
                    volume.reload()
                except skylift.exceptions.ConflictError as error:
                    return str(error)
            return ""

    @app.function(volumes={"/data": volume})
    def write(name: str) -> None:
        with open(f"/data/{name}", "w") as file:
            file.write(name)
        volume.commit()

    with app.run():
        reader = Reader()
        assert ["big.bin", "tables"] == reader.read.remote(False)
        write.remote("one")
        assert ["big.bin", "tables"] == reader.read.remote(False)
        assert ["big.bin", "one", "tables"] == reader.read.remote(True)
        assert (
            "Files of volume 'data' are open in the container, or a process has its working folder in /data: "
            "close them first"
        ) == reader.busy.remote()
        write.remote("two")
        volume.put_file(b"three", "/three")
        assert ["big.bin", "one", "tables", "three", "two"] == reader.read.remote(True)


def test_read_only_sub_path_and_version(gateway: RunningGateway, volume: Volume) -> None:
    volume.put_file(b"newer", "/tables/one.csv", force=True)
    app = App("volumes")
    mounts = {
        "/tables": volume.with_mount_options(sub_path="tables"),
        "/fixed": volume.at(1),
        "/only": volume.read_only(),
        "/made": volume.with_mount_options(sub_path="made/here"),
    }

    @app.function(volumes=mounts)
    def work() -> list[str]:
        def refused(path: str) -> str:
            try:
                with open(path, "a") as file:
                    return str(file.write("x"))
            except OSError as error:
                return str(error.strerror)

        said = [refused("/fixed/tables/one.csv"), refused("/only/new")]
        with open("/fixed/tables/one.csv") as file:
            said.append(file.read())
        with open("/tables/one.csv") as file:
            said.append(file.read())
        with open("/made/file", "w") as file:
            file.write("made")
        with open("/tables/two.csv", "w") as file:
            file.write("two")
        said += sorted(os.listdir("/tables"))
        return said

    with app.run():
        read_only = "Read-only file system"
        assert [
            read_only,
            read_only,
            "a,b\n1,2\n",
            "newer",
            "one.csv",
            "two.csv",
        ] == work.remote()
    assert b"made" == content(volume, "/made/here/file")
    assert b"two" == content(volume, "/tables/two.csv")


def test_what_cannot_be_mounted(gateway: RunningGateway, volume: Volume) -> None:
    app = App("volumes")

    @app.function(volumes={"/data": volume.read_only().with_mount_options(sub_path="none")})
    def missing() -> None: ...

    @app.function(volumes={"/data": Volume.from_name("none")})
    def nothing() -> None: ...

    @app.function(volumes={"/data": volume.at(99)})
    def never() -> None: ...

    @app.function(volumes={"/data": volume})
    def commits() -> str:
        try:
            Volume.from_name("other").commit()
        except skylift.exceptions.InvalidError as error:
            return str(error)
        return ""

    with app.run():
        with pytest.raises(FileNotFoundError, match="Volume 'data' has no /none"):
            missing.remote()
        with pytest.raises(NotFoundError, match="There is no volume 'none'"):
            nothing.remote()
        with pytest.raises(NotFoundError, match="Volume 'data' has no version 99"):
            never.remote()
        assert "commit() of volume 'other': this container does not have it mounted" in commits.remote()
        for path in ("/", "/tmp", "/root"):
            with pytest.raises(InvalidError, match=f"a volume cannot be mounted at {path}"):
                app.function(volumes={path: volume})


def test_a_session(gateway: RunningGateway, volume: Volume) -> None:
    session = Session(name="train", volumes={"/data": volume})
    run(session, "open('/data/from_cell', 'w').write('1')")
    assert b"1" == content(volume, "/from_cell")
    assert "True\n" == run(session, "import os; print(os.path.exists('/data/from_cell'))")
    # It sleeps without its volumes, and wakes with them.
    if not _can_sleep(gateway):
        pytest.skip("sessions cannot sleep here")
    with pytest.raises(ConflictError, match="Files of volume 'data' are open in the container"):
        _sleep_with_open_file(session)
    run(session, "file.close()")
    session.sleep()
    volume.put_file(b"2", "/meanwhile")
    assert "['big.bin', 'from_cell', 'meanwhile', 'tables']\n" == run(
        session, "print(sorted(os.listdir('/data')))"
    )
    run(session, "open('/data/after', 'w').write('3')")
    assert b"3" == content(volume, "/after")


def _sleep_with_open_file(session: Session) -> None:
    run(session, "file = open('/data/big.bin')")
    session.sleep()


def _can_sleep(gateway: RunningGateway) -> bool:
    return not gateway.get("/v1/hosts")[0].get("cannot_sleep")


def test_the_host_is_killed_and_what_was_written_is_not_lost(gateway: RunningGateway, volume: Volume) -> None:
    app = App("volumes")

    @app.function(volumes={"/data": volume})
    def work() -> None:
        with open("/data/written", "w") as file:
            file.write("before the end")
        with open("/data/ready", "w") as file:
            file.write("x")
        while True:
            time.sleep(0.1)

    with app.run():
        call = work.spawn()
        folder = gateway.home / "host" / "containers"
        _wait(lambda: list(folder.glob("*/volumes/0/upper/ready")) or _forked(gateway))
        host = json.loads((gateway.home / "host" / "host.json").read_bytes())["pid"]
        os.kill(host, signal.SIGKILL)
        _wait(lambda: _has(volume, "/written"))
        assert b"before the end" == content(volume, "/written")
        call.cancel()


def _forked(gateway: RunningGateway) -> list[Path]:
    return list(gateway.home.glob("host/templates/*/children/*/volumes/0/upper/ready"))


def _has(volume: Volume, path: str) -> bool:
    try:
        volume.stat(path)
    except (FileNotFoundError, skylift.exceptions.ConnectionError):
        return False
    return True


def _wait(holds: Any) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
