"""Files that go into images: what there is, and the archives that are made of it."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from skylift import archives
from skylift.archives import Packer
from skylift.exceptions import ConflictError, InvalidError
from skylift.file_patterns import FilePatternMatcher
from skylift.local_files import LocalFile, listed, stamp
from skylift.wire import AddFiles


def nothing(path: Path) -> bool:
    return False


class Blobs:
    """A store, as `Http` offers it."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.sent = 0

    def put_blob(self, data: bytes) -> str:
        name = blake3(data).hexdigest()
        self.sent += name not in self.blobs
        self.blobs[name] = data
        return name

    def forget_blobs(self) -> None:
        self.blobs.clear()

    def members(self, step: AddFiles) -> dict[str, tarfile.TarInfo]:
        found = {}
        for archive in step.archives:
            data = b"".join(self.blobs[blob] for blob in archive.blobs)
            assert archive.size == len(data)
            with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
                found.update({member.name: member for member in tar})
        return found

    def text(self, step: AddFiles, name: str) -> str:
        for archive in step.archives:
            data = b"".join(self.blobs[blob] for blob in archive.blobs)
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                if name in tar.getnames():
                    file = tar.extractfile(name)
                    assert file is not None
                    return file.read().decode()
        raise AssertionError(name)


@pytest.fixture
def blobs() -> Blobs:
    return Blobs()


@pytest.fixture
def packer(blobs: Blobs) -> Packer:
    return Packer(blobs)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "run.sh").write_text("#!/bin/sh")
    (folder / "run.sh").chmod(0o700)
    (folder / "sub" / "b.log").write_text("b")
    (folder / "sub" / "c.py").write_text("c")
    return folder


def paths(files: list[LocalFile]) -> list[str]:
    return [file.path for file in files]


# --- what there is -------------------------------------------------------------------------------------


def test_a_folder_in_order(folder: Path) -> None:
    assert ["a.txt", "run.sh", "sub", "sub/b.log", "sub/c.py"] == paths(listed(folder, nothing, "x"))


def test_what_is_left_out(folder: Path) -> None:
    assert ["a.txt", "run.sh"] == paths(listed(folder, FilePatternMatcher("sub"), "x"))
    assert ["sub/c.py"] == paths(listed(folder, ~FilePatternMatcher("**/*.py"), "x"))
    assert ["a.txt", "run.sh", "sub", "sub/c.py"] == paths(
        listed(folder, lambda path: path.name == "b.log", "x")
    )
    kept = FilePatternMatcher("sub", "!sub/c.py")
    assert ["a.txt", "run.sh", "sub/c.py"] == paths(listed(folder, kept, "x"))


def test_links(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "data").write_text("data")
    (folder / "to_file").symlink_to("a.txt")
    (folder / "sub" / "up").symlink_to(folder / "a.txt")
    (folder / "sub" / "all").symlink_to("..")
    (folder / "out").symlink_to(outside)
    (folder / "out_file").symlink_to(outside / "data")
    (folder / "broken").symlink_to("nowhere")
    found = {file.path: file for file in listed(folder, nothing, "x")}
    assert "a.txt" == found["to_file"].link
    assert "../a.txt" == found["sub/up"].link
    assert ".." == found["sub/all"].link
    assert "sub/all/sub" not in found
    assert (outside / "data", None) == (found["out/data"].source, found["out/data"].link)
    assert (outside / "data", None) == (found["out_file"].source, found["out_file"].link)
    assert (folder / "broken", None) == (found["broken"].source, found["broken"].link)


def test_links_in_a_circle(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "again").symlink_to(outside)
    (folder / "out").symlink_to(outside)
    with pytest.raises(
        InvalidError, match=r"^add: a link in it leads in a circle: out/again is .*/outside, in"
    ):
        listed(folder, nothing, "add")
    listed(folder, FilePatternMatcher("out/again"), "add")
    (folder / "out").unlink()
    (folder / "self").symlink_to("self")
    with pytest.raises(InvalidError, match=r"^add: the link '.*/self' cannot be followed: Too many levels"):
        listed(folder, nothing, "add")


def test_what_cannot_be_copied(folder: Path) -> None:
    with pytest.raises(InvalidError, match=r"^add: there is no '/no/where' here \(in /"):
        listed(Path("/no/where"), nothing, "add")
    os.mkfifo(folder / "pipe")
    with pytest.raises(InvalidError, match=r"^add: '.*/pipe' is a pipe, which cannot be in an image"):
        listed(folder, nothing, "add")
    (folder / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(folder / "sock"))
        with pytest.raises(InvalidError, match=r"is a socket, which cannot be in an image\. Leave it out"):
            listed(folder, nothing, "add")
        assert "sock" not in paths(listed(folder, FilePatternMatcher("sock"), "add"))


def test_too_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skylift.local_files.MAX_FILES", 3)
    with pytest.raises(InvalidError, match=r"^add: over 3 files\. Leave some out"):
        listed(folder, nothing, "add")


def test_the_stamp_changes_with_the_files(folder: Path) -> None:
    files = listed(folder, nothing, "x")
    before = stamp(files)
    assert before == stamp(files)
    (folder / "a.txt").write_text("other")
    assert before != stamp(files)


# --- archives ------------------------------------------------------------------------------------------


def test_an_archive(folder: Path, packer: Packer, blobs: Blobs) -> None:
    (folder / "sub" / "up").symlink_to("../a.txt")
    step = packer.pack(listed(folder, nothing, "x"), target="/t", label="add it")
    assert ("/t", "add it") == (step.target, step.label)
    members = blobs.members(step)
    assert {"a.txt", "run.sh", "sub", "sub/b.log", "sub/c.py", "sub/up"} == members.keys()
    assert (0o644, 0o755, 0o755) == tuple(members[name].mode for name in ("a.txt", "run.sh", "sub"))
    assert {archives.SAME_TIME} == {member.mtime for member in members.values()}
    assert {(0, 0, "")} == {(member.uid, member.gid, member.uname) for member in members.values()}
    assert ("../a.txt", "c") == (members["sub/up"].linkname, blobs.text(step, "sub/c.py"))


def test_the_same_files_make_the_same_archive(folder: Path, packer: Packer, blobs: Blobs) -> None:
    first = packer.pack(listed(folder, nothing, "x"), target="/t", label="")
    for path in (folder / "a.txt", folder):
        os.utime(path, (5, 5))
    (folder / "a.txt").chmod(0o664)
    sent = blobs.sent
    assert first == packer.pack(listed(folder, nothing, "x"), target="/t", label="")
    assert sent == blobs.sent
    kept = packer.pack(listed(folder, nothing, "x"), target="/t", label="", keep_times=True)
    assert 5 == blobs.members(kept)["a.txt"].mtime


def test_only_what_changed_is_sent_again(
    folder: Path, packer: Packer, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "OWN_ARCHIVE", 100)
    monkeypatch.setattr(archives, "PIECE", 1000)
    (folder / "large").write_bytes(os.urandom(5000))
    step = packer.pack(listed(folder, nothing, "x"), target="/t", label="")
    assert 3 == len(step.archives)
    assert 7 == max(len(archive.blobs) for archive in step.archives)
    sent = blobs.sent
    (folder / "sub" / "c.py").write_text("other")
    packer.pack(listed(folder, nothing, "x"), target="/t", label="")
    assert blobs.sent - sent <= 3


def test_odd_names(folder: Path, packer: Packer, blobs: Blobs) -> None:
    names = ["new\nline", " ", "-rf", "ü" * 100, os.fsdecode(b"\xff\xfe"), "x" * 255]
    for name in names:
        (folder / name).write_text("odd")
    members = blobs.members(packer.pack(listed(folder, nothing, "x"), target="/t", label=""))
    assert set(names) <= members.keys()


def test_progress(folder: Path, packer: Packer) -> None:
    told: list[tuple[int, int]] = []
    packer.progress = lambda done, total: told.append((done, total))
    files = listed(folder, nothing, "x")
    packer.pack(files, target="/t", label="")
    assert (12, 12) == told[-1]
    told.clear()
    packer.pack(files, target="/t", label="")
    assert (12, 12) == told[-1]


def test_a_file_that_changes_while_it_is_read(folder: Path, packer: Packer, blobs: Blobs) -> None:
    writes = 0

    def write(done: int, total: int) -> None:
        nonlocal writes
        if done and writes < limit:
            writes += 1
            (folder / "a.txt").write_text("a" * (writes + 1))

    packer.progress = write
    limit = 1
    step = packer.pack(listed(folder, nothing, "x"), target="/t", label="add it")
    assert "aa" == blobs.text(step, "a.txt")
    limit = 100
    (folder / "a.txt").write_text("changed")
    with pytest.raises(ConflictError, match=r"^add it: .*/a\.txt changed while it was read, 3 times\."):
        packer.pack(listed(folder, nothing, "x"), target="/t", label="add it")


def test_a_file_that_goes(folder: Path, packer: Packer) -> None:
    files = listed(folder, nothing, "x")
    (folder / "a.txt").unlink()
    with pytest.raises(ConflictError, match=r"^add it: .*/a\.txt changed while it was read"):
        packer.pack(files, target="/t", label="add it")


def test_content_that_is_no_file(packer: Packer, blobs: Blobs) -> None:
    files: list[Any] = [LocalFile("x", content=b"text", mode=0o600), LocalFile("y", link="x")]
    step = packer.pack(files, target="/t", label="")
    assert (0o600, "text") == (blobs.members(step)["x"].mode, blobs.text(step, "x"))
    assert "x" == blobs.members(step)["y"].linkname
