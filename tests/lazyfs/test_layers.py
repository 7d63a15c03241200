from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from skylift.lazyfs.erofs_image import FolderImage, TreeError
from skylift.lazyfs.layers import LayerError, build_layer, make_image, open_layer
from skylift.lazyfs.store import LocalStore


def odd_tree(folder: Path) -> None:
    """Names, links, holes and attributes that are easily lost."""
    folder.mkdir()
    for number in range(50):
        (folder / f"file {number * 7 % 50}\n").write_bytes(b"x" * number * 100)
    (folder / os.fsdecode(b"not utf-8 \xff")).write_text("odd")
    (folder / ("l" * 254)).write_text("long")
    deep = folder / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    os.link(deep / "file", folder / "hard link")
    (folder / "loop").symlink_to("loop")
    (folder / "up").symlink_to("..")
    (folder / "nowhere").symlink_to("/does/not/exist")
    (folder / "empty").mkdir()
    with (folder / "hole").open("wb") as file:
        file.truncate(3 << 20)
        file.seek(2 << 20)
        file.write(b"in the middle")
    (folder / "program").write_text("#!/bin/sh\n")
    (folder / "program").chmod(0o4751)
    os.setxattr(folder / "program", "user.kind", b"odd")
    os.utime(deep / "file", ns=(0, 1_500_000_000_123_456_789))


def test_equal_trees_are_equal_layers(tmp_path: Path) -> None:
    odd_tree(tmp_path / "one")
    subprocess.run(["cp", "-a", "--sparse=never", tmp_path / "one", tmp_path / "two"], check=True)
    store = LocalStore(tmp_path / "store")
    one = build_layer(tmp_path / "one", store, scratch=tmp_path)
    two = build_layer(tmp_path / "two", store, scratch=tmp_path)
    assert one == two
    (tmp_path / "two" / "empty").rmdir()
    assert build_layer(tmp_path / "two", store, scratch=tmp_path) != one


def test_times_belong_to_the_tree(tmp_path: Path) -> None:
    odd_tree(tmp_path / "one")
    store = LocalStore(tmp_path / "store")
    before = build_layer(tmp_path / "one", store, scratch=tmp_path)
    os.utime(tmp_path / "one" / "program", (5, 5))
    assert build_layer(tmp_path / "one", store, scratch=tmp_path) != before


def test_zeros_are_not_stored(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with (tmp_path / "tree" / "hole").open("wb") as file:
        file.truncate(40 << 20)
    store = LocalStore(tmp_path / "store")
    layer = build_layer(tmp_path / "tree", store, scratch=tmp_path)
    assert layer.size > 40 << 20
    assert len(set(open_layer(layer.id, store).blobs)) <= 2


def test_a_layer_leaves_nothing_in_the_scratch_folder(tmp_path: Path) -> None:
    odd_tree(tmp_path / "tree")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    build_layer(tmp_path / "tree", LocalStore(tmp_path / "store"), scratch=scratch)
    assert list(scratch.iterdir()) == []


def test_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="is not a folder, so no layer can be made of it"):
        make_image(tmp_path / "missing", tmp_path / "image")


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with (tmp_path / "tree" / "hole").open("wb") as file:
        file.truncate(8 << 40)
    with pytest.raises(LayerError, match=r"holes in files count in full.*set TMPDIR to a folder on a larger"):
        make_image(tmp_path / "tree", tmp_path / "image")


def test_a_folder_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"x" * 5000)
    made = FolderImage(tmp_path / "tree")
    (tmp_path / "tree" / "file").write_bytes(b"y" * 6000)
    with pytest.raises(TreeError, match="tree/file changed while it was being read; try again when nothing"):
        made.write(tmp_path / "image")
    monkeypatch.setattr("skylift.lazyfs.layers.FolderImage", lambda *_, **__: made)
    with pytest.raises(LayerError, match=r"No layer can be made of .*tree: .*file changed while"):
        make_image(tmp_path / "tree", tmp_path / "image")


def test_a_blob_that_is_no_layer(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    with pytest.raises(LayerError, match="is not a layer"):
        open_layer(store.put(b"something else"), store)
