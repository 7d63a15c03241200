"""What becomes of a step's files before they are a layer."""

from __future__ import annotations

import os
import py_compile
import shutil
import stat
import time
from pathlib import Path

import pytest

from skylift.lazyfs import mount_calls
from skylift.lazyfs.layers import build_layer
from skylift.lazyfs.mounts import mount_image
from skylift.lazyfs.store import LocalStore
from skylift.runtime.image_content import EPOCH, ContentError, tidy
from skylift.runtime.image_tree import ImageTree

pytestmark = pytest.mark.root


@pytest.fixture
def written(tmp_path: Path) -> Path:
    folder = tmp_path / "written"
    folder.mkdir()
    return folder


def tidied(written: Path, below: Path | None = None, began: float = 0.0) -> list[str]:
    tree = ImageTree((below,) if below is not None else ())
    tidy(written, tree, began, lambda number: number - 100000 if number >= 100000 else number)
    return sorted(str(path.relative_to(written)) for path in written.rglob("*"))


def test_what_is_of_the_host_or_only_a_trace_is_gone(written: Path) -> None:
    for name in (
        *(
            "etc/hosts",
            "etc/resolv.conf",
            "etc/kept",
            "opt/skylift/lib/skylift_runner",
            "root/.cache/pip/http/x",
        ),
        *(
            "root/.cache/huggingface/model",
            "var/log/dpkg.log",
            "var/log/app/kept",
            "var/lib/apt/lists/x",
            "tmp/kept",
        ),
        *("var/cache/apt/archives/x.deb", "var/cache/ldconfig/aux-cache"),
    ):
        (written / name).parent.mkdir(parents=True, exist_ok=True)
        (written / name).write_text("x")
    files = [name for name in tidied(written) if (written / name).is_file()]
    assert ["etc/kept", "root/.cache/huggingface/model", "tmp/kept", "var/log/app/kept"] == files


def test_owners_and_modes_are_the_images(written: Path) -> None:
    file = written / "program"
    file.write_text("x")
    os.link(file, written / "same")
    os.chown(file, 100033, 100000)
    file.chmod(0o4755)
    os.chown(written, 100000, 100000)
    tidied(written)
    status = file.stat()
    assert (33, 0, 0o4755, 2) == (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), status.st_nlink)
    assert 0 == written.stat().st_uid


def test_times_of_what_was_made_are_fixed_and_older_ones_stay(written: Path) -> None:
    (written / "new").write_text("x")
    (written / "old").write_text("x")
    os.utime(written / "old", (1000, 1000))
    (written / "link").symlink_to("new")
    tidied(written, began=time.time() - 60)
    assert [EPOCH, 1000, EPOCH, EPOCH] == [
        (written / name).lstat().st_mtime for name in ("new", "old", "link", "")
    ]


def test_bytecode_stays_valid(written: Path) -> None:
    source = written / "a.py"
    source.write_text("A = 1\n")
    compiled = Path(py_compile.compile(str(source), doraise=True))
    tidied(written, began=time.time() - 60)
    named = int.from_bytes(compiled.read_bytes()[8:12], "little")
    assert EPOCH == named == source.stat().st_mtime


def test_what_hides_a_folder_hides_it_by_name_too(written: Path, tmp_path: Path) -> None:
    below = tmp_path / "below"
    (below / "data").mkdir(parents=True)
    for name in ("a", "b"):
        (below / "data" / name).write_text(name)
    (written / "data").mkdir()
    (written / "data/b").write_text("new")
    os.setxattr(written / "data", "trusted.overlay.opaque", b"y")
    os.setxattr(written / "data", "trusted.overlay.origin", b"somewhere")
    assert ["data", "data/a", "data/b"] == tidied(written, below)
    assert ["b"] == ImageTree((below, written)).names("/data")
    assert [] == os.listxattr(written / "data")


def test_what_was_in_folders_of_a_replaced_one_stays_hidden(written: Path, tmp_path: Path) -> None:
    below = tmp_path / "below"
    (below / "data/sub/deep").mkdir(parents=True)
    (below / "data/sub/deep/old").write_text("old")
    (below / "data/sub/older").write_text("older")
    (written / "data/sub/deep").mkdir(parents=True)
    (written / "data/sub/new").write_text("new")
    os.setxattr(written / "data", "trusted.overlay.opaque", b"y")
    tidied(written, below)
    tree = ImageTree((below, written))
    assert ["deep", "new"] == tree.names("/data/sub")
    assert [] == tree.names("/data/sub/deep")


def test_devices_are_refused(written: Path) -> None:
    os.mknod(written / "disk", stat.S_IFBLK, os.makedev(8, 0))
    with pytest.raises(ContentError, match="/disk is a device, which an image cannot have"):
        tidied(written)


def test_marks_and_whiteouts_survive_in_a_layer(written: Path, tmp_path: Path) -> None:
    (written / "folder").mkdir()
    os.setxattr(written / "folder", "trusted.overlay.opaque", b"y")
    os.setxattr(written / "folder", "user.note", b"kept")
    os.mknod(written / "gone", stat.S_IFCHR, os.makedev(0, 0))
    (written / "one").write_text("x")
    os.link(written / "one", written / "two")
    store = LocalStore(tmp_path / "store")
    layer = build_layer(written, store, scratch=tmp_path)
    from skylift.lazyfs.chunked import ChunkedReader
    from skylift.lazyfs.layers import open_layer

    image, mounted = tmp_path / "image.erofs", tmp_path / "mounted"
    ChunkedReader(open_layer(layer.id, store), store).copy_to(image)
    mounted.mkdir()
    mount_image(image, mounted)
    try:
        assert b"y" == os.getxattr(mounted / "folder", "trusted.overlay.opaque")
        assert b"kept" == os.getxattr(mounted / "folder", "user.note")
        status = (mounted / "gone").lstat()
        assert (True, 0) == (stat.S_ISCHR(status.st_mode), status.st_rdev)
        assert (mounted / "one").stat().st_ino == (mounted / "two").stat().st_ino
    finally:
        mount_calls.unmount(mounted)
    shutil.rmtree(mounted)
