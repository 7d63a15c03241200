"""Trees as EROFS images: what the kernel makes of them is what was put into the volume."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_tree_files import Shown

from skylift.lazyfs import chunked, mount_calls, tree_image, tree_mounts
from skylift.lazyfs.mounts import MountError, why_not
from skylift.lazyfs.names import LocalNames
from skylift.lazyfs.store import LocalStore
from skylift.lazyfs.tree_image import TooLargeError, TreeImage
from skylift.lazyfs.tree_mounts import TreeMounts
from skylift.lazyfs.trees import chunks_of, dir_entry
from skylift.lazyfs.volumes import Volume, Volumes

OWNER = (1234, 4321)
mounting = pytest.mark.skipif(bool(why_not()), reason=why_not() or "mounts")


def volume_of(folder: Path, source: Path) -> Volume:
    volume = Volumes(LocalStore(folder / "store"), LocalNames(folder / "names")).create("data")
    with volume.batch_upload() as batch:
        batch.put_directory(source, "/")
    return volume


def image_of(volume: Volume) -> TreeImage:
    trees, root = volume.commits.trees, volume.commits.newest().root
    return TreeImage(trees, dir_entry(bytes.fromhex(root), trees.written(root), 0o755, 0), OWNER)


def written(image: TreeImage, volume: Volume, file: Path, step: int) -> None:
    """The image as a file, read in pieces of `step` bytes."""
    store = volume.commits.trees.store
    with file.open("wb") as out:
        for at in range(0, image.size, step):
            count = 0
            for piece in image.pieces(at, step):
                data = piece.data
                if piece.entry is not None:
                    chunks = chunks_of(piece.entry, store)
                    data = chunked.read_range(chunks, store, piece.offset, piece.length)
                count += out.write(data)
            assert min(step, image.size - at) == count


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """All that is hard about directories."""
    source = tmp_path / "source"
    (source / "deep" / "er" / "est").mkdir(parents=True)
    (source / "many").mkdir()
    for number in range(1500):
        (source / "many" / f"{number:04}-{'n' * (number % 230)}").write_bytes(b"%d" % number)
    for size in (0, 1, 511, 512, 513, 4032, 4096, 4097, 1 << 20, (1 << 20) + 1, 2_500_001):
        (source / f"size-{size}").write_bytes(os.urandom(size))
    for name in ("!", "-minus", ".hidden", "..twodots", "~", "ä", os.fsdecode(b"\xff\n'"), "n" * 255):
        (source / name).write_bytes(b"name")
    (source / "deep" / "er" / "est" / "file").write_bytes(b"deep" * 1000)
    (source / "link").symlink_to("deep/er/est/file")
    (source / "long").symlink_to("x/" * 2040)
    (source / "run.sh").write_bytes(b"x" * 700)
    (source / "run.sh").chmod(0o751)
    os.utime(source / "run.sh", ns=(0, 1_700_000_000_123_456_789))
    return source


@pytest.mark.skipif(shutil.which("fsck.erofs") is None, reason="fsck.erofs is not installed")
@pytest.mark.parametrize("step", [4096, 65536, 1 << 20, 3 << 20])
def test_the_image_is_whole(tmp_path: Path, source: Path, step: int) -> None:
    volume = volume_of(tmp_path, source)
    image = tmp_path / "image"
    written(image_of(volume), volume, image, step)
    done = subprocess.run(
        ["fsck.erofs", f"--extract={tmp_path / 'out'}", str(image)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr.replace("No errors found\n", ""))
    diff = subprocess.run(
        ["diff", "-r", "--no-dereference", str(source), str(tmp_path / "out")],
        capture_output=True,
        check=False,
    )
    assert (0, b"") == (diff.returncode, diff.stdout)


def test_equal_trees_make_equal_images(tmp_path: Path, source: Path) -> None:
    volume = volume_of(tmp_path, source)
    assert image_of(volume).metadata == image_of(volume).metadata


def test_an_empty_tree(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    volume = volume_of(tmp_path, tmp_path / "nothing")
    image = image_of(volume)
    assert 3 * 4096 == image.size == len(image.metadata)
    assert [] == image.small_files(0, 10)


def test_a_tree_that_is_too_large(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_image, "MOST_ENTRIES", 1000)
    with pytest.raises(TooLargeError, match="A tree of over 1,000 entries has no image"):
        image_of(volume_of(tmp_path, source))


# --- mounted ---------------------------------------------------------------------------------------


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Shown]:
    shown = Shown(tmp_path)
    yield shown
    shown.daemon.stop()
    assert [] == mount_calls.mounted_under(tmp_path)


@pytest.mark.slow
@pytest.mark.root
@mounting
def test_what_the_kernel_sees(shown: Shown, source: Path, tmp_path: Path) -> None:
    with shown.volume.batch_upload() as batch:
        batch.put_directory(source, "/")
    root = shown.volume.commits.newest().root
    mounts = TreeMounts(tmp_path / "mounts", shown.daemon)
    place = mounts.acquire(root)
    assert ["erofs"] == [mounted.type for mounted in mount_calls.mounted_under(place)]
    diff = subprocess.run(
        ["diff", "-r", "--no-dereference", str(source), str(place)], capture_output=True, check=False
    )
    assert (0, b"") == (diff.returncode, diff.stdout)
    status = (place / "run.sh").stat()
    assert (0o100751, *OWNER, 700) == (status.st_mode, status.st_uid, status.st_gid, status.st_size)
    assert 1_700_000_000_123_456_789 == status.st_mtime_ns
    assert 0o755 == place.stat().st_mode & 0o7777

    assert place == mounts.acquire(root)
    mounts.release(root)
    assert (place / "size-513").is_file()
    mounts.release(root)
    assert [] == mount_calls.mounted_under(tmp_path / "mounts")
    mounts.release(root)
    assert place == mounts.acquire(root)
    mounts.close()


@pytest.mark.slow
@pytest.mark.root
@mounting
def test_what_cannot_be_mounted_is_shown_by_fuse(
    shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tree = shown.put(a=b"1", b=b"2" * 5000)

    def fails(*_: object, **__: object) -> None:
        raise MountError("this kernel has no EROFS")

    with monkeypatch.context() as patch:
        patch.setattr(tree_mounts, "mount_image", fails)
        patch.setattr(tree_mounts.mount_calls, "mount", fails)
        mounts = TreeMounts(tmp_path / "mounts", shown.daemon)
        assert tree == mounts.acquire(tree.name)
        assert "Volumes are shown by FUSE alone, which is slower: this kernel has no EROFS" in caplog.text
        assert b"2" * 5000 == (tree / "b").read_bytes()
        mounts.close()


@pytest.mark.slow
@pytest.mark.root
@mounting
def test_a_worker_that_is_killed_lays_it_out_again(shown: Shown, tmp_path: Path) -> None:
    import signal

    big = os.urandom(9_000_000)
    with shown.volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(big), "/big")
    mounts = TreeMounts(tmp_path / "mounts", shown.daemon)
    place = mounts.acquire(shown.volume.commits.newest().root)
    with (place / "big").open("rb") as file:
        assert big[:100] == file.read(100)
        os.kill(shown.daemon.stats().pid, signal.SIGKILL)
        file.seek(7_000_000)
        assert big[7_000_000:] == file.read()
    mounts.close()
