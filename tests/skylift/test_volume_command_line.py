"""``skylift volume …``, against a real gateway."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from sdk_gateway import FakeGateway

from skylift import Volume
from skylift.cli import main
from skylift.volume_access import Download

BIG = os.urandom(3_300_000)


class Shell:
    """Runs command lines."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.error = ""

    def __call__(self, *words: object, status: int = 0) -> str:
        assert status == main(["volume", *map(str, words)]), self._capsys.readouterr().err
        out, self.error = self._capsys.readouterr()
        return out


@pytest.fixture
def shell(gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a file, an executable one in a folder, a symlink and an empty folder."""
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "big.bin").write_bytes(BIG)
    (folder / "deep" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "deep" / "run.sh").chmod(0o750)
    (folder / "link").symlink_to("deep/run.sh")
    os.utime(folder / "big.bin", (1_700_000_000, 1_700_000_000))
    return folder


def test_a_volume_from_its_beginning_to_its_end(
    shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "There are no volumes.\n" == shell("list")
    assert "Made volume data." in shell("create", "data")
    assert "It is empty.\n" == shell("ls", "data")
    assert "Sent 3 files; volume data is at version 1.\n" == shell("put", "data", folder, "/")
    lines = shell("list").splitlines()
    assert ["NAME", "FILES", "SIZE", "VERSION", "CHANGED"] == lines[0].split()
    assert ["data", "3", "3.3", "MB", "1"] == lines[1].split()[:5]

    listed = shell("ls", "data").splitlines()
    assert ["MODE", "SIZE", "CHANGED", "PATH"] == listed[0].split()
    assert ["big.bin", "deep/", "empty/", "link -> deep/run.sh"] == [
        line.split(maxsplit=5)[-1] for line in listed[1:]
    ]
    assert listed[1].startswith("-rw-r--r--  3.3 MB  2023-11-")
    assert listed[2].startswith("drwxr-xr-x")
    assert "-rwxr-x---" in shell("ls", "data", "/deep")
    assert "deep/run.sh" in shell("ls", "-r", "data")

    shell("cp", "data", "/big.bin", "/copy.bin")
    shell("cp", "-r", "data", "/deep", "/more")
    shell("mv", "data", "/copy.bin", "/more")
    assert ["more/copy.bin", "more/run.sh"] == [
        line.split()[-1] for line in shell("ls", "data", "more").splitlines()[1:]
    ]
    shell("rm", "-r", "data", "/more")
    assert "more" not in shell("ls", "data")
    history = shell("history", "data").splitlines()
    assert ["VERSION", "TIME", "CHANGES", "FILES", "SIZE", "WHO", "MESSAGE"] == history[0].split()
    assert history[1].endswith("removed /more")
    assert "+0 ~0 -2" in history[1]
    assert ["5", "4"] == [line.split()[0] for line in shell("history", "-n", "2", "data").splitlines()[1:]]
    assert "copy.bin" in shell("ls", "data", "--version", 2)
    assert "Volume data is what it was in version 2; that is version 6.\n" == shell("restore", "data", 2)
    assert "copy.bin" in shell("ls", "data")

    shell("rename", "data", "better")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    shell("delete", "better", status=1)
    assert "volume delete better: give --yes where nobody can be asked" in shell.error
    assert "Deleted volume better.\n" == shell("delete", "--yes", "better")
    assert "There are no volumes.\n" == shell("list")


@pytest.mark.parametrize(("answer", "status", "said"), [("y", 0, "Deleted"), ("", 1, "Nothing was deleted")])
def test_deleting_asks(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, answer: str, status: int, said: str
) -> None:
    shell("create", "data")
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return answer

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert said in shell("delete", "data", status=status)
    assert ["Delete volume data (0 files, 0 B) with all its versions? [y/N] "] == asked


def test_errors_are_one_line(shell: Shell, folder: Path) -> None:
    shell("ls", "none", status=1)
    assert shell.error.startswith("skylift: There is no volume 'none'.")
    shell("create", "data")
    shell("create", "data", status=1)
    assert shell.error.startswith("skylift: There is a volume 'data' already.")
    shell("put", "data", folder / "none", status=1)
    assert "there is no " in shell.error
    shell("put", "data", folder / "big.bin")
    shell("put", "data", folder / "big.bin", status=1)
    assert "has /big.bin already." in shell.error
    shell("put", "--force", "data", folder / "big.bin")
    shell("cp", "data", "/x", status=1)
    assert "skylift: volume cp data /x: where to?\n" == shell.error
    shell("get", "data", "/none", folder, status=1)
    assert "Volume 'data' has no /none" in shell.error
    shell("restore", "data", "17", status=1)
    assert "has no version 17: it has versions 0 to 1" in shell.error


def test_put_into_a_folder(shell: Shell, folder: Path) -> None:
    shell("create", "data")
    shell("put", "data", folder / "big.bin", "/models/")
    shell("put", "data", folder, "/models/")
    shell("put", "data", folder, "/as/this")
    (folder / "nothing").mkdir()
    paths = {entry.path for entry in Volume.from_name("data").listdir("/", recursive=True)}
    assert {"models/big.bin", "models/folder/big.bin", "as/this/big.bin"} <= paths


def test_get_a_directory(shell: Shell, folder: Path, tmp_path: Path) -> None:
    shell("create", "data")
    shell("put", "data", folder, "/")
    target = tmp_path / "target"
    assert "Fetched 3 files, 3.3 MB.\n" == shell("get", "data", "/", target)
    assert BIG == (target / "big.bin").read_bytes()
    assert "deep/run.sh" == os.readlink(target / "link")
    assert 0o750 == (target / "deep" / "run.sh").stat().st_mode & 0o7777
    assert 1_700_000_000 == (target / "big.bin").stat().st_mtime
    assert (target / "empty").is_dir()
    # What is here already is not fetched again.
    assert "3.3 MB of which were here already" in shell("get", "data", "/", target)
    (target / "big.bin").write_bytes(b"mine")
    shell("get", "data", "/", target, status=1)
    assert f"there is {target / 'big.bin'} already; replace it with --force" in shell.error
    assert b"mine" == (target / "big.bin").read_bytes()
    shell("get", "--force", "data", "/", target)
    assert BIG == (target / "big.bin").read_bytes()
    # Into a directory that is there.
    shell("get", "data", "/deep", target / "empty")
    assert (target / "empty" / "deep" / "run.sh").is_file()
    (target / "file").write_text("x")
    shell("get", "data", "/deep", target / "file", status=1)
    assert f"{target / 'file'} is a file here, and a directory in the volume" in shell.error
    (target / "big").mkdir()
    shell("mv", "data", "/big.bin", "/big")
    shell("get", "data", "/", target, status=1)
    assert f"{target / 'big'} is a directory here, and a file in the volume" in shell.error


def test_get_goes_on_where_it_was(
    shell: Shell, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("create", "data")
    shell("put", "data", folder / "big.bin", "/")
    target = tmp_path / "big.bin"
    pieces = Download._pieces

    def breaking(self: Download):  # type: ignore[no-untyped-def]
        for number, piece in enumerate(pieces(self)):
            if number == 2:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(Download, "_pieces", breaking)
    with pytest.raises(KeyboardInterrupt):
        shell("get", "data", "/big.bin", target)
    assert not target.exists()
    (part,) = tmp_path.glob(".big.bin.*.part")
    assert 2 << 20 == part.stat().st_size
    monkeypatch.setattr(Download, "_pieces", pieces)
    assert "Fetched 1 files, 3.3 MB, 2.1 MB of which were here already.\n" == (
        shell("get", "data", "/big.bin", target)
    )
    assert BIG == target.read_bytes()
    assert not part.exists()

    # What is there of another content is not gone on with.
    target.unlink()
    part.write_bytes(bytes(1000))
    shell("put", "--force", "data", folder / "deep" / "run.sh", "/big.bin")
    assert "Fetched 1 files, 10 B.\n" == shell("get", "data", "/big.bin", target)
    assert b"#!/bin/sh\n" == target.read_bytes()


def test_get_what_was_whole_but_not_in_its_place(shell: Shell, folder: Path, tmp_path: Path) -> None:
    shell("create", "data")
    shell("put", "data", folder / "big.bin", "/")
    tag = Volume.from_name("data")._access().read("big.bin").tag.strip('"')[:12]
    part = tmp_path / f".big.bin.{tag}.part"
    part.write_bytes(BIG)
    assert "3.3 MB of which were here already" in shell("get", "data", "big.bin", tmp_path)
    assert BIG == (tmp_path / "big.bin").read_bytes()
    assert not part.exists()


def test_get_to_standard_output(
    gateway: FakeGateway, folder: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    Volume.from_name("data", create_if_missing=True).put_file(BIG, "/big.bin")
    assert 0 == main(["volume", "get", "data", "big.bin", "-"])
    assert BIG == capfdbinary.readouterr().out


def test_symlinks_that_lead_nowhere(shell: Shell, folder: Path, tmp_path: Path) -> None:
    (folder / "gone").symlink_to("none")
    shell("create", "data")
    shell("put", "data", folder, "/")
    shell("get", "data", "/gone", tmp_path / "x", status=1)
    assert "/gone is a symlink, and leads to no file of the volume" in shell.error
    shell("get", "data", "/link", tmp_path / "x")
    assert b"#!/bin/sh\n" == (tmp_path / "x").read_bytes()


def test_names_that_cannot_be_printed(shell: Shell) -> None:
    volume = Volume.from_name("data", create_if_missing=True)
    volume.put_file(b"x", os.fsdecode(b"a\xff\x1b[31m\n"))
    assert shell("ls", "data").rstrip().endswith("a\\xff\\x1b[31m\\n")
