"""Trees of volumes as folders: what a container has below what it writes."""

from __future__ import annotations

import io
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from skylift.lazyfs import mount_calls
from skylift.lazyfs.mounts import why_not
from skylift.lazyfs.names import LocalNames
from skylift.lazyfs.store import LocalStore
from skylift.lazyfs.tree_daemon import TreeDaemon
from skylift.lazyfs.tree_nodes import Nodes
from skylift.lazyfs.volumes import Volume, Volumes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "mounts"),
]

BIG = os.urandom(5_500_000)


class Shown:
    """A store with a volume, and a daemon that shows its trees."""

    def __init__(self, folder: Path) -> None:
        self.store = LocalStore(folder / "store")
        self.names = LocalNames(folder / "names")
        self.volume: Volume = Volumes(self.store, self.names).create("data")
        self.daemon = TreeDaemon(folder / "daemon", "", home=folder, patience=5, owner=(1234, 4321))
        self.daemon.start()

    def put(self, **files: bytes) -> Path:
        """The tree with these files, and those that are there."""
        with self.volume.batch_upload(force=True) as batch:
            for name, data in files.items():
                batch.put_file(io.BytesIO(data), name.replace("__", "/"))
        return self.newest()

    def newest(self) -> Path:
        return self.daemon.tree(self.volume.commits.newest().root)


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Shown]:
    shown = Shown(tmp_path)
    yield shown
    shown.daemon.stop()
    assert [] == mount_calls.mounted_under(tmp_path)


def test_what_is_in_a_tree(shown: Shown, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "big.bin").write_bytes(BIG)
    (source / "small").write_bytes(b"small")
    (source / "empty").write_bytes(b"")
    (source / "run.sh").write_text("x" * 600)
    (source / "run.sh").chmod(0o751)
    (source / "link").symlink_to("deep/er")
    (source / "holes").write_bytes(bytes(3_000_000) + b"end")
    os.utime(source / "run.sh", ns=(0, 1_700_000_000_123_456_789))
    with shown.volume.batch_upload() as batch:
        batch.put_directory(source, "/")
    tree = shown.newest()
    assert ["deep", "empty", "holes", "link", "run.sh", "small"] == sorted(os.listdir(tree))
    assert BIG == (tree / "deep" / "er" / "big.bin").read_bytes()
    assert BIG == (tree / "link" / "big.bin").read_bytes()
    assert b"small" == (tree / "small").read_bytes()
    assert b"" == (tree / "empty").read_bytes()
    assert bytes(3_000_000) + b"end" == (tree / "holes").read_bytes()
    assert "deep/er" == os.readlink(tree / "link")
    status = (tree / "run.sh").stat()
    assert (0o100751, 1234, 4321, 600) == (status.st_mode, status.st_uid, status.st_gid, status.st_size)
    assert 1_700_000_000_123_456_789 == status.st_mtime_ns
    assert not (tree / "none").exists()
    assert not (tree / "small" / "none").exists()
    assert not (tree.parent / ("0" * 64)).exists()
    assert not (tree.parent / "none").exists()
    assert [] == os.listdir(tree.parent)
    with pytest.raises(OSError, match="Read-only"):
        (tree / "new").write_text("x")
    with (tree / "deep" / "er" / "big.bin").open("rb") as file:
        for at in (0, 1 << 20, (1 << 20) - 7, 3_000_000, 5_499_990):
            file.seek(at)
            assert BIG[at : at + 20] == file.read(20)


def test_many_files_in_one_directory(shown: Shown) -> None:
    tree = shown.put(**{f"many__{number:05}": b"%d" % number for number in range(3000)})
    found = list(os.scandir(tree / "many"))
    assert [f"{number:05}" for number in range(3000)] == sorted(entry.name for entry in found)
    assert all(len(entry.name) == 5 and entry.is_file() for entry in found)
    assert sum(len(str(number)) for number in range(3000)) == sum(entry.stat().st_size for entry in found)
    assert b"2999" == (tree / "many" / "02999").read_bytes()


def test_versions_beside_each_other(shown: Shown) -> None:
    first = shown.put(a=b"1", b=b"same")
    second = shown.put(a=b"2")
    assert (b"1", b"2") == ((first / "a").read_bytes(), (second / "a").read_bytes())
    assert b"same" == (first / "b").read_bytes() == (second / "b").read_bytes()


def test_a_worker_that_is_killed_is_followed_by_another(shown: Shown) -> None:
    tree = shown.put(big=BIG, deep__file=b"file", other=BIG[:2_000_000][::-1])
    with (tree / "big").open("rb") as file:
        assert BIG[:100] == file.read(100)
        os.kill(shown.daemon.stats().pid, signal.SIGKILL)
        file.seek(3_000_000)
        assert BIG[3_000_000:] == file.read()
    assert b"file" == (tree / "deep" / "file").read_bytes()
    assert {"big", "deep", "other"} == set(os.listdir(tree))


def test_a_chunk_that_is_gone_is_an_error_and_not_a_hang(shown: Shown) -> None:
    tree = shown.put(big=BIG, other=b"other" * 1000)
    from skylift.lazyfs.trees import chunks_of

    _, entry = shown.volume.view().find("big")
    shown.store.delete(list(chunks_of(entry, shown.store).blobs)[4])
    with pytest.raises(OSError, match="Input/output"):
        (tree / "big").read_bytes()
    assert b"other" * 1000 == (tree / "other").read_bytes()
    assert "has no blob" in shown.daemon.log_file.read_text()


def test_what_was_read_is_kept_by_the_kernel(shown: Shown) -> None:
    tree = shown.put(big=BIG, deep__file=b"file" * 500)
    for _ in range(2):
        assert BIG == (tree / "big").read_bytes()
        assert b"file" * 500 == (tree / "deep" / "file").read_bytes()
        assert {"big", "deep"} == set(os.listdir(tree))
    os.kill(shown.daemon.stats().pid, signal.SIGSTOP)
    try:
        # Whoever answers is stopped: this comes from memory.
        done = subprocess.run(
            ["sh", "-c", 'cat "$1/big" "$1/deep/file" | wc -c', "sh", tree],
            capture_output=True,
            check=True,
            timeout=20,
        )
        assert len(BIG) + 2000 == int(done.stdout)
    finally:
        for pid in _workers(shown):
            os.kill(pid, signal.SIGCONT)


def _workers(shown: Shown) -> list[int]:
    assert shown.daemon._process is not None
    children = Path(f"/proc/{shown.daemon._process.pid}/task/{shown.daemon._process.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


def test_an_overlay_on_a_tree(shown: Shown, tmp_path: Path) -> None:
    tree = shown.put(a=b"1", deep__b=b"2", big=BIG)
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = (
        f"lowerdir={tree},upperdir={tmp_path / 'upper'},workdir={tmp_path / 'work'},redirect_dir=off,"
        "metacopy=off"
    )
    merged = tmp_path / "merged"
    mount_calls.mount("overlay", merged, "overlay", 0, options)
    try:
        assert BIG == (merged / "big").read_bytes()
        with (merged / "a").open("ab") as file:
            file.write(b"more")
        (merged / "new").write_bytes(b"new")
        (merged / "deep" / "b").unlink()
        assert {"a", "big", "deep", "new"} == set(os.listdir(merged))
        assert b"1more" == (merged / "a").read_bytes()
        assert [] == os.listdir(merged / "deep")
    finally:
        mount_calls.unmount(merged)
    assert b"1" == (tree / "a").read_bytes()


def test_numbers_are_the_same_in_the_next_process(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path / "nodes", go_on=False)
    one = nodes.take(1, b"one")
    two = nodes.take(one, b"two")
    assert one == nodes.take(1, b"one")
    with (tmp_path / "nodes").open("ab") as file:
        file.write(b"half a record")
    again = Nodes(tmp_path / "nodes", go_on=True)
    assert (one, two) == (again.take(1, b"one"), again.take(one, b"two"))
    assert two < again.take(1, b"three")


def test_numbers_that_are_forgotten_are_given_back(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path / "nodes", go_on=False)
    one = nodes.take(1, b"one")
    nodes.take(1, b"one")
    nodes.forget(one, 1)
    assert b"one" == nodes.get(one).name  # type: ignore[union-attr]
    nodes.forget(one, 1)
    assert nodes.get(one) is None
    assert one != nodes.take(1, b"one")
