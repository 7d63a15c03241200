"""Working copies: plain folders anywhere, overlays with real mounts."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import MemoryNames, MemoryStore, World

from skylift.lazyfs.chunked import CHUNK_SIZE
from skylift.lazyfs.store import Bytes
from skylift.lazyfs.volume_errors import VolumeBusyError, VolumeNotFoundError
from skylift.lazyfs.volume_workdir import Workdir
from skylift.lazyfs.volumes import Volume, Volumes


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def store(world: World) -> MemoryStore:
    return MemoryStore(world)


@pytest.fixture
def names(world: World) -> MemoryNames:
    return MemoryNames(world)


@pytest.fixture
def volumes(world: World, store: MemoryStore, names: MemoryNames) -> Volumes:
    return Volumes(store, names, clock=world.clock)


@pytest.fixture
def volume(volumes: Volumes) -> Volume:
    return volumes.create("data")


def put(volume: Volume, files: dict[str, bytes]) -> None:
    with volume.batch_upload(force=True) as batch:
        for path, content in files.items():
            batch.put_file(io.BytesIO(content), path)


def contents(volume: Volume) -> dict[str, bytes]:
    return {
        found.path: b"".join(volume.read_file(found.path))
        for found in volume.listdir(recursive=True)
        if found.kind == "file"
    }


def on_disk(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def plain(volume: Volume, folder: Path, state: Path | None = None) -> Workdir:
    folder.mkdir(exist_ok=True)
    return Workdir(volume, folder, volume.commits.newest(), overlay=False, state=state)


def act(action: str, path: Path, other: Path, content: bytes) -> None:
    if action == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    elif action == "mkdir":
        path.mkdir(parents=True)
    elif action == "rename":
        shutil.move(path, other)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


class TestPlainFolder:
    def test_what_changes_is_committed(self, volume: Volume, tmp_path: Path) -> None:
        put(volume, {"/a": b"1", "/d/b": b"2" * 700, "/d/e/c": b"3"})
        folder = tmp_path / "w"
        work = plain(volume, folder)
        assert contents(volume) == on_disk(folder)
        assert 1 == work.commit().version.number

        (folder / "a").write_bytes(b"new")
        (folder / "d" / "b").unlink()
        (folder / "n" / "m").mkdir(parents=True)
        (folder / "n" / "f").write_bytes(b"x" * 3000)
        (folder / "n" / "f").chmod(0o755)
        (folder / "n" / "link").symlink_to("../a")
        done = work.commit(who="ada", message="mine")

        assert () == done.skipped
        assert (2, "ada", "mine") == (done.version.number, done.version.who, done.version.message)
        assert (2, 1, 1) == (
            done.version.changes.added,
            done.version.changes.changed,
            done.version.changes.removed,
        )
        assert contents(volume) == on_disk(folder)
        assert 0o755 == volume.stat("n/f").mode
        assert "dir" == volume.stat("n/m").kind
        assert b"new" == b"".join(volume.read_file("n/link"))

        shutil.rmtree(folder / "d")
        (folder / "d").write_bytes(b"now a file")
        (folder / "a").unlink()
        (folder / "a").mkdir()
        (folder / "n" / "f").chmod(0o700)
        work.commit()
        assert contents(volume) == on_disk(folder)
        assert ("dir", "file", 0o700) == (
            volume.stat("a").kind,
            volume.stat("d").kind,
            volume.stat("n/f").mode,
        )
        number = volume.info().version
        assert number == work.commit().version.number
        work.close()

    def test_only_what_changed_is_sent(
        self, volume: Volume, tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        large = bytearray(os.urandom(4 * CHUNK_SIZE))
        put(volume, {"/large": bytes(large), "/d/other": os.urandom(5000)})
        folder = tmp_path / "w"
        work = plain(volume, folder)
        sent = []
        real = store.put

        def counted(data: Bytes, *, durable: bool = False) -> str:
            sent.append(len(data))
            return real(data, durable=durable)

        monkeypatch.setattr(store, "put", counted)
        with (folder / "large").open("r+b") as file:
            file.seek(CHUNK_SIZE)
            file.write(b"changed")
        work.commit()
        # Its chunk; the root, and the version.
        assert [CHUNK_SIZE] == [size for size in sent if size > 2000]
        assert len(sent) <= 4

    def test_what_others_committed_is_not_undone(self, volume: Volume, tmp_path: Path) -> None:
        put(volume, {"/a": b"1", "/b": b"1", "/c": b"1"})
        one, two = plain(volume, tmp_path / "1"), plain(volume, tmp_path / "2")
        (tmp_path / "1" / "a").write_bytes(b"one")
        (tmp_path / "1" / "both").write_bytes(b"one")
        (tmp_path / "2" / "b").write_bytes(b"two")
        (tmp_path / "2" / "both").write_bytes(b"two")
        (tmp_path / "2" / "c").unlink()
        one.commit()
        done = two.commit()
        assert ("/both",) == done.version.overwritten
        expected = {"a": b"one", "b": b"two", "both": b"two"}
        assert expected == contents(volume)
        # What is old in a view that was not reloaded is no change.
        one.commit()
        assert expected == contents(volume)
        put(volume, {"/both": b"three"})
        two.commit()
        assert b"three" == contents(volume)["both"]

    def test_reload_brings_what_is_new_and_commits_before(self, volume: Volume, tmp_path: Path) -> None:
        put(volume, {"/a": b"1", "/d/b": b"1", "/d/gone": b"1", "/file": b"1", "/dir/x": b"1"})
        folder = tmp_path / "w"
        work = plain(volume, folder)
        put(volume, {"/a": b"2" * CHUNK_SIZE, "/new/n": b"2"})
        volume.remove_file("/d/gone")
        volume.remove_file("/file")
        volume.remove_file("/dir", recursive=True)
        put(volume, {"/file/now": b"2", "/dir": b"a file"})
        (folder / "mine").write_bytes(b"mine")
        number = work.reload().version.number
        assert number == volume.info().version
        assert b"mine" == contents(volume)["mine"]
        assert contents(volume) == on_disk(folder)
        assert number == work.commit().version.number

    def test_what_cannot_be_in_a_volume_is_named(self, volume: Volume, tmp_path: Path) -> None:
        folder = tmp_path / "w"
        work = plain(volume, folder)
        os.mkfifo(folder / "pipe")
        listener = socket.socket(socket.AF_UNIX)
        os.chdir(folder)
        try:
            listener.bind("sock")
        finally:
            os.chdir("/")
        (folder / "a").write_bytes(b"1")
        done = work.reload()
        listener.close()
        assert [
            ("/pipe", "it is a pipe, and volumes keep none", False),
            ("/sock", "it is a socket, and volumes keep none", False),
        ] == [tuple(one) for one in done.skipped]
        assert {"a": b"1"} == contents(volume)

    def test_a_file_that_is_written_to_waits_for_the_next_commit(
        self, volume: Volume, tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(volume, {"/busy": b"old", "/other": b"old"})
        folder = tmp_path / "w"
        work = plain(volume, folder)
        (folder / "busy").write_bytes(b"n" * 1000)
        (folder / "other").write_bytes(b"new")
        real = store.put
        with (folder / "busy").open("ab", buffering=0) as writer:

            def writing(data: Bytes, *, durable: bool = False) -> str:
                writer.write(b"more")
                return real(data, durable=durable)

            monkeypatch.setattr(store, "put", writing)
            done = work.commit()
            assert [("/busy", "it is being written to", True)] == [tuple(one) for one in done.skipped]
            assert {"busy": b"old", "other": b"new"} == contents(volume)
            with pytest.raises(VolumeBusyError) as caught:
                work.reload()
            assert str(caught.value) == (
                "Volume 'data' cannot be reloaded now, for that would lose what is not committed: /busy: it "
                "is being written to. Close these files and reload again."
            )
        monkeypatch.undo()
        assert () == work.commit().skipped
        assert contents(volume) == on_disk(folder)

    def test_no_symlink_is_followed(self, volume: Volume, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.mkdir()
        (secret / "key").write_bytes(b"secret")
        put(volume, {"/d/x": b"1"})
        folder = tmp_path / "w"
        work = plain(volume, folder)
        shutil.rmtree(folder / "d")
        (folder / "d").symlink_to(secret)
        (folder / "key").symlink_to(secret / "key")
        work.commit()
        assert {} == contents(volume)
        assert ("link", str(secret)) == (volume.stat("d").kind, volume.stat("d").target)

        # Nor when others make a directory of it: what is theirs comes in place of the link.
        volume.remove_file("/d")
        put(volume, {"/d/key": b"overwritten?"})
        work.reload()
        assert b"secret" == (secret / "key").read_bytes()
        assert b"overwritten?" == (folder / "d" / "key").read_bytes()

    def test_another_process_goes_on(self, volume: Volume, tmp_path: Path, names: MemoryNames) -> None:
        put(volume, {"/a": b"1"})
        folder, state = tmp_path / "w", tmp_path / "state"
        plain(volume, folder, state)
        (folder / "b").write_bytes(b"2")
        again = Workdir(volume, folder, overlay=False, state=state)
        put(volume, {"/a": b"theirs"})
        again.commit()
        assert {"a": b"theirs", "b": b"2"} == contents(volume)
        again.close()
        assert not state.exists()

    def test_a_volume_that_was_deleted(self, volumes: Volumes, volume: Volume, tmp_path: Path) -> None:
        work = plain(volume, tmp_path / "w")
        (tmp_path / "w" / "a").write_bytes(b"1")
        volumes.delete("data")
        with pytest.raises(VolumeNotFoundError):
            work.commit()

    def test_trees_in_use_are_leased(self, volume: Volume, tmp_path: Path, names: MemoryNames) -> None:
        work = plain(volume, tmp_path / "w")
        (lease,) = names.under("leases")
        assert volume.view().root.encode() in names.values[lease]
        names.delete(lease)  # a collector, while this machine slept
        work.renew()
        assert 1 == len(names.under("leases"))
        work.close()
        assert [] == names.under("leases")


@pytest.mark.root
class TestOverlay:
    """With the kernel's own whiteouts and opaque directories."""

    @pytest.fixture
    def mounts(self, tmp_path: Path) -> Iterator[Path]:
        base = tmp_path / "tmpfs"
        base.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(base)], check=True)
        try:
            yield base
        finally:
            for folder in sorted(base.glob("*/merged"), reverse=True):
                subprocess.run(["umount", str(folder)], check=False)
            subprocess.run(["umount", str(base)], check=True)

    def mount(self, base: Path, volume: Volume, name: str) -> tuple[Path, Path]:
        """The merged folder and the upper one, over the newest version."""
        at = base / name
        for part in ("lower", "upper", "work", "merged"):
            (at / part).mkdir(parents=True)
        Workdir(volume, at / "lower", volume.commits.newest(), overlay=False).close()
        options = f"lowerdir={at}/lower,upperdir={at}/upper,workdir={at}/work,redirect_dir=off,metacopy=off"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(at / "merged")], check=True)
        return at / "merged", at / "upper"

    def test_what_a_container_does(self, volume: Volume, mounts: Path) -> None:
        put(
            volume,
            {"/a": b"1", "/d/b": b"2" * 700, "/d/e/c": b"3", "/r/x": b"4", "/r/y": b"5", "/w/z": b"6"},
        )
        merged, upper = self.mount(mounts, volume, "1")
        work = Workdir(volume, upper, volume.commits.newest(), overlay=True)
        assert 1 == work.commit().version.number

        (merged / "a").unlink()
        (merged / "d" / "b").write_bytes(b"new")
        shutil.rmtree(merged / "r")
        (merged / "r").mkdir()
        (merged / "r" / "y").write_bytes(b"again")
        shutil.rmtree(merged / "w")
        (merged / "n").mkdir()
        (merged / "n" / "f").write_bytes(b"7")
        done = work.commit()
        assert () == done.skipped
        assert on_disk(merged) == contents(volume)
        assert done.version.number == work.commit().version.number

        put(volume, {"/theirs": b"8", "/d/b": b"theirs"})
        assert volume.info().version == work.commit().version.number
        (merged / "n" / "f").unlink()  # leaves no whiteout: the lower folder has none
        (merged / "d" / "e" / "c").rename(merged / "c")
        (merged / "a").mkdir()
        (merged / "a" / "inner").write_bytes(b"9")
        work.commit()
        expected = {**on_disk(merged), "theirs": b"8", "d/b": b"theirs"}
        assert expected == contents(volume)
        assert "dir" == volume.stat("n").kind

        fresh, fresh_upper = self.mount(mounts, volume, "2")
        done = work.reload(fresh_upper)
        assert done.version.number == volume.info().version
        assert expected == on_disk(fresh)
        (fresh / "theirs").unlink()
        work.commit()
        assert on_disk(fresh) == contents(volume)

    actions = st.lists(
        st.tuples(
            st.sampled_from(["write", "remove", "mkdir", "rename", "commit", "theirs"]),
            st.sampled_from(["a", "d", "d/x", "d/y", "d/e", "d/e/z", "n", "n/w"]),
            st.sampled_from(["a", "d", "d/q", "n", "n/w"]),
        ),
        max_size=14,
    )

    @settings(deadline=None, max_examples=30)
    @given(actions=actions)
    def test_any_history(
        self, tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, str, str]]
    ) -> None:
        world = World()
        volume = Volumes(MemoryStore(world), MemoryNames(world), clock=world.clock).create("data")
        put(volume, {"/a": b"0", "/d/x": b"0", "/d/e/z": b"0"})
        base = tmp_path_factory.mktemp("mounts")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(base)], check=True)
        try:
            merged, upper = self.mount(base, volume, "1")
            work = Workdir(volume, upper, volume.commits.newest(), overlay=True)
            theirs: dict[str, bytes] = {}
            for number, (action, path, other) in enumerate(actions):
                if action == "theirs":
                    theirs = {"theirs/t": b"%d" % number}
                    put(volume, {"/theirs/t": b"%d" % number})
                elif action == "commit":
                    assert () == work.commit().skipped
                    assert {**on_disk(merged), **theirs} == contents(volume)
                else:
                    with contextlib.suppress(OSError, shutil.Error):  # it cannot be done to what is there
                        act(action, merged / path, merged / other, b"%d" % number)
            assert () == work.commit().skipped
            assert {**on_disk(merged), **theirs} == contents(volume)
            assert {str(path.relative_to(merged)) for path in merged.rglob("*")} == {
                found.path for found in volume.listdir(recursive=True) if not found.path.startswith("theirs")
            }
        finally:
            subprocess.run(["umount", str(base / "1" / "merged")], check=False)
            subprocess.run(["umount", str(base)], check=True)
