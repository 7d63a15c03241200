"""Images that we write, as the kernel and erofs-utils read them."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skylift.lazyfs import erofs_format as erofs
from skylift.lazyfs import mount_calls
from skylift.lazyfs.erofs_image import FolderImage
from skylift.lazyfs.mounts import mount_image


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    target = tmp_path / "mounted"
    target.mkdir()
    yield target
    for found in mount_calls.mounted_under(tmp_path):
        mount_calls.unmount(found.target)


def show(folder: Path, target: Path, *, all_root: bool = False) -> FolderImage:
    image = target.parent / "image"
    made = FolderImage(folder, all_root=all_root)
    made.write(image)
    assert image.stat().st_size == made.size
    mount_image(image, target)
    return made


def looks(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that can be seen of a tree."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        name = str(path.relative_to(folder))
        one = path.lstat()
        content: object = ""
        if stat.S_ISREG(one.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(one.st_mode):
            content = os.readlink(path)
        attributes = {
            each: os.getxattr(path, each, follow_symlinks=False)
            for each in os.listxattr(path, follow_symlinks=False)
        }
        size = one.st_size if not stat.S_ISDIR(one.st_mode) else 0
        same = inodes.setdefault(one.st_ino, name) if not stat.S_ISDIR(one.st_mode) else ""
        found[name] = (
            *(one.st_mode, one.st_uid, one.st_gid, one.st_mtime_ns, one.st_rdev, one.st_nlink),
            *(size, content, same, tuple(sorted(attributes.items()))),
        )
    return found


@pytest.mark.root
def test_the_kernel_sees_what_is_in_the_folder(
    tmp_path: Path, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    (tree / "many").mkdir(parents=True)
    for number in range(600):  # several blocks of names
        (tree / "many" / f"{number:04} {'n' * (number % 90)}").write_bytes(
            bytes([number % 256]) * number * 37
        )
    (tree / os.fsdecode(b"not utf-8 \xff")).write_text("odd")
    (tree / ("l" * 255)).write_text("a name as long as they come")
    for size in (0, 1, 511, 512, 513, 4095, 4096, 4097, 3_000_001):
        (tree / f"of {size}").write_bytes(os.urandom(size))
    with (tree / "hole").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"in the middle")
        file.truncate(9 << 20)
    os.link(tree / "of 4097", tree / "many" / "the same")
    os.link(tree / "of 1", tree / "many" / "the same, tiny")
    (tree / "nowhere").symlink_to("x" * 4000)
    (tree / "empty").mkdir(mode=0o1777)
    (tree / "program").write_text("#!/bin/sh\n")
    (tree / "program").chmod(0o6751)
    os.chown(tree / "of 513", 100_000, 165_000)
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(tree / "disk", 0o660 | stat.S_IFBLK, os.makedev(259, 70_000))
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tree)  # a short path
        listening.bind("socket")
    for path, name, value in (
        ("program", "user.kind", b"odd"),
        ("program", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")),
        ("of 4097", "user.long", b"v" * 3000),
        ("empty", "trusted.overlay.opaque", b"y"),
        ("many", "user.more", b"m" * 333),
        ("of 512", "user.some", b"s" * 3500),
    ):
        os.setxattr(tree / path, name, value)
    os.utime(tree / "of 513", ns=(0, 1_500_000_000_123_456_789))
    show(tree, mounted)
    wanted, seen = looks(tree), looks(mounted)
    assert wanted.keys() == seen.keys()
    for name, look in wanted.items():
        assert look == seen[name], name


@pytest.mark.root
def test_all_can_belong_to_root(tmp_path: Path, mounted: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("x")
    os.chown(tmp_path / "tree" / "file", 1234, 1234)
    show(tmp_path / "tree", mounted, all_root=True)
    assert (0, 0) == ((mounted / "file").stat().st_uid, (mounted / "file").stat().st_gid)


@pytest.mark.root
def test_a_deep_tree(tmp_path: Path, mounted: Path) -> None:
    deep = tmp_path / "tree" / "/".join(f"folder {number}" for number in range(150))
    deep.mkdir(parents=True)
    (deep / "file").write_text("at the end")
    show(tmp_path / "tree", mounted)
    assert "at the end" == (mounted / deep.relative_to(tmp_path / "tree") / "file").read_text()


def test_erofs_utils_find_nothing_wrong(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(Path(stat.__file__).parent / "json", tree / "json")
    (tree / "link").symlink_to("json")
    FolderImage(tree).write(tmp_path / "image")
    command = ["fsck.erofs", f"--extract={tmp_path / 'out'}", str(tmp_path / "image")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    assert (tree / "json" / "decoder.py").read_bytes() == (
        tmp_path / "out" / "json" / "decoder.py"
    ).read_bytes()
    assert "json" == os.readlink(tmp_path / "out" / "link")


def test_what_is_read_together_lies_together(tmp_path: Path) -> None:
    """Names first, then bytecode, libraries, sources, and the rest."""
    tree = tmp_path / "tree"
    for package in ("a", "b"):
        for name in ("x.py", "data.bin", "lib.so.1", "__pycache__/x.pyc"):
            (tree / package / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / package / name).write_bytes(f"<{package}/{name}>".encode() * 100)
    FolderImage(tree).write(tmp_path / "image")
    data = (tmp_path / "image").read_bytes()
    wanted = ["__pycache__/x.pyc", "lib.so.1", "x.py", "data.bin"]
    places = [data.index(f"<{package}/{name}>".encode()) for name in wanted for package in ("a", "b")]
    assert places == sorted(places)
    assert data.rindex(b"data.bin") > places[0] > data.index(b"data.bin")


@given(st.integers(0, 3 * erofs.BLOCK), st.integers(0, 5000), st.integers(0, erofs.MOST_INLINE))
@settings(deadline=None)
def test_where_an_inode_may_be(at: int, behind: int, tail: int) -> None:
    place = erofs.place_inode(at, behind, tail)
    assert place >= at
    assert 0 == place % erofs.SLOT
    assert place % erofs.BLOCK + erofs.INODE_SIZE <= erofs.BLOCK
    assert (place + erofs.INODE_SIZE + behind) % erofs.BLOCK + tail <= erofs.BLOCK
