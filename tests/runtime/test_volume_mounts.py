"""Volumes of containers as their host sees them: mounted, committed, kept where they cannot be."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from skylift.lazyfs import mount_calls
from skylift.lazyfs.mounts import why_not
from skylift.lazyfs.names import LocalNames
from skylift.lazyfs.store import LocalStore
from skylift.lazyfs.volumes import Volume, Volumes
from skylift.runtime import mounted_volume, volume_mounts
from skylift.runtime.start_error import StartError
from skylift.runtime.unix_sockets import bind_in
from skylift.runtime.volume_mounts import (
    ContainerVolumes,
    HostVolumes,
    MountFailedError,
    VolumeSocket,
)
from skylift.wire import VolumeMount

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "mounts"),
]

BIG = os.urandom(2_500_000)
OWNER = (100_000, 100_000)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Machine:
    """A store with a volume, and what a host has for the volumes of its containers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = LocalStore(folder / "home" / "store")
        self.names = LocalNames(folder / "home" / "names")
        self.all = Volumes(self.store, self.names)
        self.volume: Volume = self.all.create("data")
        with self.volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(BIG), "/big.bin")
            batch.put_file(io.BytesIO(b"small"), "/deep/small")
        self.volumes = self.host()

    def host(self) -> HostVolumes:
        home = self.folder / "home"
        host = HostVolumes(home / "host" / "volumes", "", home, self.store, self.names)
        host.set_up(OWNER, "")
        return host

    def open(self, name: str = "co-1", path: str = "/mnt/volume", **options: Any) -> ContainerVolumes:
        mount = VolumeMount(path=path, volume_id=self.volume.volume_id, name="data", **options)
        folder = self.folder / "home" / "host" / "containers" / name
        folder.mkdir(parents=True)
        return self.volumes.open((mount,), folder / "volumes", name, "app.function")

    def upper(self, name: str = "co-1") -> Path:
        return self.folder / "home" / "host" / "containers" / name / "volumes" / "0" / "upper"

    def content(self, path: str) -> bytes:
        return b"".join(self.volume.read_file(path))


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    machine = await asyncio.to_thread(Machine, tmp_path)
    yield machine
    await asyncio.to_thread(machine.volumes.close)
    assert [] == mount_calls.mounted_under(tmp_path)


class Inside:
    """A process with mounts of its own, as a container has."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 1000"],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert b"ready\n" == self.process.stdout.readline()
        self.pid = self.process.pid

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """A shell there."""
        return subprocess.Popen(
            ["nsenter", "--mount", f"--target={self.pid}", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, script: str) -> str:
        """What a shell there prints."""
        done = subprocess.run(
            ["nsenter", "--mount", f"--target={self.pid}", "sh", "-c", script],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    inside = Inside(tmp_path)
    yield inside
    inside.process.kill()
    inside.process.wait()
    assert inside.process.stdout is not None
    inside.process.stdout.close()


async def test_what_is_written_is_committed(machine: Machine, inside: Inside, tmp_path: Path) -> None:
    place = tmp_path / "seen" / "here"
    volumes = machine.open(path=str(place))
    await volumes.attach(inside.pid)
    assert [] == mount_calls.mounted_under(place)
    assert "big.bin\ndeep\n" == inside.run(f"ls {place}")
    assert "100000 100000 2500000\n" == inside.run(f"stat -c '%u %g %s' {place}/big.bin")
    assert "small" == inside.run(f"cat {place}/deep/small")
    inside.run(f"echo new > {place}/new; rm {place}/big.bin; echo more >> {place}/deep/small")
    assert [] == await volumes.commit("data")
    assert (b"new\n", b"smallmore\n") == (machine.content("new"), machine.content("deep/small"))
    assert ["deep", "new"] == [info.path for info in machine.volume.listdir()]
    assert "app.function" == machine.volume.history()[0].who
    number = machine.volume.info().version
    assert [] == await volumes.commit()
    assert number == machine.volume.info().version

    with machine.volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"others"), "/others")
    inside.run(f"echo last > {place}/last")
    await volumes.reload("data")
    assert "deep\nlast\nnew\nothers\n" == inside.run(f"ls {place}")
    inside.run(f"echo end > {place}/end")
    assert [] == await volumes.close()
    assert b"end\n" == machine.content("end")
    assert not machine.upper().exists()


async def test_it_is_not_taken_out_while_it_is_used(machine: Machine, inside: Inside, tmp_path: Path) -> None:
    place = tmp_path / "seen"
    volumes = machine.open(path=str(place))
    await volumes.attach(inside.pid)
    user = inside.start(f"cd {place}; echo there; read x")
    assert user.stdout is not None
    assert user.stdin is not None
    assert b"there\n" == user.stdout.readline()
    busy = (
        "Files of volume 'data' are open in the container, or a process has its working folder in "
        f"{place}: close them first"
    )
    for act in (volumes.detach(), volumes.reload("data")):
        with pytest.raises(MountFailedError) as caught:
            await act
        assert busy == str(caught.value)
    assert {"error": "ConflictError", "message": busy} == (
        await volumes.answer({"do": "reload", "volume": "data"})
    )
    user.communicate(b"\n")
    await volumes.detach()
    assert "" == inside.run(f"ls {place}")
    await volumes.attach(inside.pid)
    assert "big.bin\ndeep\n" == inside.run(f"ls {place}")
    await volumes.close()


async def test_read_only_and_a_folder(machine: Machine, inside: Inside, tmp_path: Path) -> None:
    place = tmp_path / "seen"
    volumes = machine.open(path=str(place), read_only=True, sub_path="deep")
    await volumes.attach(inside.pid)
    assert "small\n" == inside.run(f"ls {place}")
    assert "Read-only file system" in inside.run(f"echo x > {place}/x")
    await volumes.reload("data")
    assert [] == await volumes.close()
    with pytest.raises(StartError, match="Volume 'data' has no /none"):
        machine.open("co-2", read_only=True, sub_path="none")
    with pytest.raises(StartError, match="Volume 'data' has no version 7"):
        machine.open("co-3", version=7)


async def test_links_of_the_volume_lead_nowhere_else(
    machine: Machine, inside: Inside, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "out").symlink_to("/etc")
    with machine.volume.batch_upload() as batch:
        batch.put_directory(source, "/")
    volumes = machine.open(path=str(tmp_path / "seen"), sub_path="out")
    with pytest.raises(
        StartError, match=r"Volume 'data' cannot be mounted at .*/seen: out: it is a file or a link"
    ):
        await volumes.attach(inside.pid)
    await volumes.close()
    (tmp_path / "link").symlink_to("/etc")
    volumes = machine.open("co-2", path=str(tmp_path / "link" / "x"))
    with pytest.raises(StartError, match=r"cannot be mounted at .*/link/x: .* it is a file or a link"):
        await volumes.attach(inside.pid)
    await volumes.close()


async def test_what_is_left_out_is_said(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = machine.open()
    with socket.socket(socket.AF_UNIX) as listening:
        bind_in(machine.upper(), "socket", listening)
    (machine.upper() / "file").write_bytes(b"x" * 1000)
    (said,) = await volumes.commit()
    assert said.text.startswith("/socket of volume data was not committed: it is a socket")
    assert not said.pending
    assert b"x" * 1000 == machine.content("file")
    # Once is enough.
    (machine.upper() / "file").write_bytes(b"y" * 1000)
    assert [] == await volumes.commit()
    await volumes.close()


async def test_what_is_written_to_is_committed_later(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skylift.lazyfs import volume_changes
    from skylift.lazyfs.chunked import ChangedError

    volumes = machine.open()
    (machine.upper() / "busy").write_bytes(b"x" * 1000)

    def changing(*_: Any, **__: Any) -> None:
        raise ChangedError("busy", "it was written to")

    with monkeypatch.context() as patch:
        patch.setattr(volume_changes, "put_file", changing)
        text = "/busy of volume data was not committed: it is being written to"
        assert {"error": "ConflictError", "message": text} == (
            await volumes.answer({"do": "commit", "volume": "data"})
        )
        assert {"left": [text]} == await volumes.answer({"do": "commit all"})
        with pytest.raises(MountFailedError, match="It is not reloaded, for that would lose it: /busy of"):
            await volumes.reload("data")
        with pytest.raises(MountFailedError, match="/busy of volume data was not committed"):
            await volumes.detach()
    assert {} == await volumes.answer({"do": "commit", "volume": "data"})
    assert b"x" * 1000 == machine.content("busy")
    assert {"error": "InvalidError", "message": "'dance' cannot be asked of a container's host"} == (
        await volumes.answer({"do": "dance"})
    )
    await volumes.close()


async def test_what_cannot_be_committed_at_the_end_is_kept_for_the_next_host(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_mounts, "_TRY_AGAIN_SECONDS", 0)
    volumes = machine.open()
    (machine.upper() / "file").write_bytes(b"not lost")

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError(5, "the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(mounted_volume.Workdir, "commit", unreachable)
        (said,) = await volumes.close()
    kept = machine.folder / "home" / "host" / "unsaved-volumes" / "co-1" / "0"
    assert "what it wrote to volume data is not committed: [Errno 5] the disk is gone" in said
    assert f"It is kept in {kept}, and committed when the host starts again" in said
    machine.volumes.recover([])
    assert b"not lost" == machine.content("file")
    assert not kept.exists()


async def test_what_a_killed_host_has_left(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.open()
    (machine.upper() / "file").write_bytes(b"not lost")
    machine.open("co-2", read_only=True)
    containers = machine.folder / "home" / "host" / "containers"
    machine.host().recover(sorted(containers.iterdir()))
    assert b"not lost" == machine.content("file")
    assert "found by the next host" == machine.volume.history()[0].message
    assert "What container co-1 had not committed: volume data is at version 2." in caplog.text
    assert [] == list(containers.glob("*/volumes"))


async def test_a_volume_that_is_deleted_meanwhile(machine: Machine) -> None:
    volumes = machine.open()
    (machine.upper() / "file").write_bytes(b"lost")
    machine.all.delete("data")
    (said,) = await volumes.close()
    assert said.startswith("what it wrote to volume data is gone: There is no volume 'data'.")
    with pytest.raises(StartError, match="There is no volume 'data'") as caught:
        machine.open("co-2")
    assert "NotFoundError" == caught.value.error


async def test_a_host_that_cannot(machine: Machine) -> None:
    machine.volumes.why_not = "only a host that runs as root can mount them"
    with pytest.raises(
        StartError, match=r"^Volumes cannot be mounted on this host: only a host that runs as root"
    ):
        machine.open()


async def test_the_socket_in_a_container(machine: Machine, tmp_path: Path) -> None:
    volumes = machine.open()
    (machine.upper() / "file").write_bytes(b"asked for")
    listening = socket.socket(socket.AF_UNIX)
    bind_in(tmp_path, "volumes.sock", listening)
    served = VolumeSocket(volumes)
    await served.listen(listening)
    for question, answered in ((b'{"do": "commit", "volume": "data"}\n', {}), (b"{broken\n", None)):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "volumes.sock"))
        writer.write(question)
        line = await asyncio.wait_for(reader.readline(), 10)
        assert answered == (json.loads(line) if line else None)
        writer.close()
    assert b"asked for" == machine.content("file")
    served.close()
    await volumes.close()
