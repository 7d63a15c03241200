"""Archives of layers as folders: what they may hold, and what they may not do."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oci_setup import archive, digest_of, entry, files_in, hard_link, link

from skylift.lazyfs.oci_errors import OciContentError
from skylift.lazyfs.oci_layers import Below, Limits, Unpacked, unpack

pytestmark = pytest.mark.root

LIMITS = Limits(1 << 30, lambda: 1 << 40, lambda size: AssertionError(size))


def unpacked(folder: Path, data: bytes, below: Below | None = None, limits: Limits = LIMITS) -> Unpacked:
    folder.mkdir()
    return unpack(io.BytesIO(data), folder, below, limits)


def refusal(folder: Path, *entries: tuple[tarfile.TarInfo, bytes | None]) -> str:
    outside = sorted(folder.parent.iterdir())
    with pytest.raises(OciContentError) as error:
        unpacked(folder, archive(*entries))
    assert sorted(folder.parent.iterdir()) == sorted([*outside, folder])
    return str(error.value)


@pytest.mark.parametrize("compression", ["none", "gzip", "gzip in parts", "zstd", "zstd in parts"])
def test_every_compression(tmp_path: Path, compression: str) -> None:
    data = archive(entry("a", b"content"), entry("b", os.urandom(200_000).hex().encode()))
    middle = len(data) // 2
    zstd = zstandard.ZstdCompressor().compress
    blob = {
        "none": data,
        "gzip": gzip.compress(data),
        "gzip in parts": gzip.compress(data[:middle]) + gzip.compress(data[middle:]),
        "zstd": zstd(data),
        "zstd in parts": zstd(data[:middle]) + zstd(data[middle:]),
    }[compression]
    assert unpacked(tmp_path / "x", blob) == Unpacked(digest_of(data), False, False)
    assert (tmp_path / "x" / "a").read_text() == "content"
    assert (tmp_path / "x" / "b").stat().st_size == 400_000


def test_what_is_kept_of_files(tmp_path: Path) -> None:
    pax = {
        "SCHILY.xattr.user.kind": "odd",
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.overlay.opaque": "y",
        "SCHILY.xattr.security.capability": "x",
    }
    unpacked(
        tmp_path / "x",
        archive(
            entry("dir/", mode=0o1777, uid=5, gid=6, mtime=1_000_000_000),
            entry("dir/su", b"x", mode=0o4755, uid=7, gid=8, mtime=1_500_000_000.5, pax_headers=pax),
            entry("dir/pipe", type=tarfile.FIFOTYPE),
            entry("nobody", b"", uid=2**32 - 1, gid=70000),
            link("dir/link", "/etc/passwd"),
            hard_link("again", "./dir/su"),
        ),
    )
    folder, program = (tmp_path / "x" / "dir").stat(), tmp_path / "x" / "dir" / "su"
    assert (folder.st_mode, folder.st_uid, folder.st_gid, folder.st_mtime) == (0o41777, 5, 6, 1e9)
    status = program.stat()
    assert (status.st_mode, status.st_uid, status.st_gid) == (0o104755, 7, 8)
    assert status.st_mtime_ns == 1_500_000_000_500_000_000
    assert os.listxattr(program) == ["user.kind"]
    assert (tmp_path / "x" / "again").stat().st_ino == status.st_ino
    assert (tmp_path / "x" / "nobody").stat().st_uid == 0
    assert (tmp_path / "x" / "nobody").stat().st_gid == 70000
    assert stat.S_ISFIFO((tmp_path / "x" / "dir" / "pipe").stat().st_mode)
    assert (tmp_path / "x" / "dir" / "link").readlink() == Path("/etc/passwd")


def test_devices_are_left_out(tmp_path: Path) -> None:
    disk = entry("dev/sda", type=tarfile.BLKTYPE, devmajor=8)
    whiteout = entry("dev/none", type=tarfile.CHRTYPE, devmajor=0, devminor=0)
    unpacked(tmp_path / "x", archive(entry("dev/"), disk, whiteout))
    assert files_in(tmp_path / "x") == {"dev": "/"}


def test_nothing_leads_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    said = "would be outside of it"
    assert said in refusal(tmp_path / "1", entry("../x", b""))
    assert said in refusal(tmp_path / "2", entry("a/../../x", b""))
    assert said in refusal(tmp_path / "3", hard_link("x", "../secret"))
    assert said in refusal(tmp_path / "4", entry("../.wh.secret", b""))
    # Absolute paths and links are those of the image.
    unpacked(tmp_path / "5", archive(entry("/abs", b"x"), link("up", "../../.."), entry("up/inside", b"y")))
    assert files_in(tmp_path / "5") == {"abs": "x", "up": "-> ../../..", "inside": "y"}
    unpacked(
        tmp_path / "6",
        archive(link("etc", str(tmp_path)), entry("etc/secret", b"changed"), hard_link("got", "etc/secret")),
    )
    assert (tmp_path / "secret").read_text() == "mine"
    assert (tmp_path / "6" / "got").read_text() == "changed"
    # A file takes the place of a link, and is not written through it.
    unpacked(tmp_path / "7", archive(link("x", str(tmp_path / "secret")), entry("x", b"changed")))
    assert (tmp_path / "secret").read_text() == "mine"
    assert files_in(tmp_path / "7") == {"x": "changed"}
    assert "too many links" in refusal(tmp_path / "8", link("a", "b"), link("b", "a"), entry("a/x", b""))


def test_what_contradicts_itself(tmp_path: Path) -> None:
    assert "which is no file of the same layer" in refusal(tmp_path / "1", hard_link("x", "none"))
    assert "which is no file of the same layer" in refusal(tmp_path / "2", entry("d/"), hard_link("x", "d"))
    assert "as a folder, where it has a file" in refusal(tmp_path / "3", entry("f", b""), entry("f/x", b""))
    assert "removes '..', which is no name" in refusal(tmp_path / "4", entry(".wh...", b""))
    assert "is of a kind b'Z' that is not known" in refusal(tmp_path / "5", entry("x", type=b"Z"))
    assert "cannot be a file here: File name too long" in refusal(tmp_path / "6", entry("n" * 256, b""))
    with pytest.raises(OciContentError, match=r"^a layer cannot be unpacked: "):
        unpacked(tmp_path / "7", gzip.compress(archive(entry("x", b"1")))[:-20])
    with pytest.raises(OciContentError, match=r"^a layer cannot be unpacked: "):
        unpacked(tmp_path / "8", b"<html>")


def test_limits(tmp_path: Path) -> None:
    data = archive(entry("x", bytes(1 << 20)))
    with pytest.raises(OciContentError, match="more than 1,000,000 bytes unpacked"):
        unpacked(tmp_path / "1", gzip.compress(data), limits=LIMITS._replace(size=1_000_000))
    data = archive(entry("x", bytes(2 << 20)))
    small = LIMITS._replace(free=lambda: 1 << 20, full=lambda size: MemoryError(size))
    with pytest.raises(MemoryError) as error:
        unpacked(tmp_path / "2", gzip.compress(data), limits=small)
    assert error.value.args == (2 << 20,)


def test_later_entries_replace_earlier_ones(tmp_path: Path) -> None:
    unpacked(
        tmp_path / "x",
        archive(
            *(entry("a", b"1"), entry("a", b"2"), entry("d/"), entry("d/x", b""), entry("d", b"file")),
            *(entry("f", b""), entry("f/", mode=0o700), entry("f/", mode=0o711)),
            *(link("l", "f"), entry("l/x", b"in f"), entry("l", b"no link")),
        ),
    )
    assert files_in(tmp_path / "x") == {"a": "2", "d": "file", "f": "/", "f/x": "in f", "l": "no link"}
    assert (tmp_path / "x" / "f").stat().st_mode == 0o40711


def below(tmp_path: Path, folders: dict[str, list[str]]) -> Below:
    (tmp_path / "like").mkdir(mode=0o1777)
    (tmp_path / "like").chmod(0o1777)
    os.chown(tmp_path / "like", 5, 6)
    status = (tmp_path / "like").stat()
    return Below(lambda path: folders.get(path, []), lambda path: status if path in folders else None)


def test_whiteouts(tmp_path: Path) -> None:
    data = archive(
        *(entry("d/"), entry("d/.wh.gone", b""), entry("d/.wh.again", b""), entry("d/again", b"new")),
        *(entry("d/.wh..wh.plnk", b""), entry(".wh..wh.aufs", b"")),
    )
    assert unpacked(tmp_path / "x", data).depends is False
    assert files_in(tmp_path / "x") == {"d": "/", "d/gone": "!", "d/again": "new"}
    status = (tmp_path / "x" / "d" / "gone").lstat()
    assert (stat.S_IFMT(status.st_mode), status.st_rdev, status.st_mtime) == (stat.S_IFCHR, 0, 0)


def test_opaque_folders_hide_by_name(tmp_path: Path) -> None:
    under = below(tmp_path, {"": ["d"], "d": ["keep", "old", "sub"], "d/sub": ["older"]})
    data = archive(entry("d/"), entry("d/.wh..wh..opq", b""), entry("d/keep", b"new"), entry("d/sub/"))
    result = unpacked(tmp_path / "x", data, under)
    assert result.depends is True
    hidden = {"d": "/", "d/keep": "new", "d/old": "!", "d/sub": "/", "d/sub/older": "!"}
    assert files_in(tmp_path / "x") == hidden
    # The same where a folder replaces one that is gone.
    data = archive(entry("d/"), entry(".wh.d", b""), entry("d/keep", b"new"), entry("d/sub/"))
    assert unpacked(tmp_path / "y", data, under).depends is True
    assert files_in(tmp_path / "y") == hidden


def test_folders_that_are_not_named_are_as_they_were(tmp_path: Path) -> None:
    under = below(tmp_path, {"": ["tmp"], "tmp": []})
    result = unpacked(tmp_path / "x", archive(entry("tmp/a", b""), entry("new/a", b"")), under)
    assert result.depends is True
    status = (tmp_path / "x" / "tmp").stat()
    assert (status.st_mode, status.st_uid, status.st_gid) == (0o41777, 5, 6)
    assert (tmp_path / "x" / "new").stat().st_mode == 0o40755


def test_an_empty_archive(tmp_path: Path) -> None:
    assert unpacked(tmp_path / "x", bytes(1024)) == Unpacked(digest_of(bytes(1024)), False, True)
    assert unpacked(tmp_path / "y", gzip.compress(archive(entry("./")))).empty


_names = st.sampled_from(["a", "b", "a/b", "a/a", "b/a/b", "./a", "/b", "a/.wh.b", ".wh.a", "a/.wh..wh..opq"])
_entries = st.one_of(
    st.builds(lambda name: entry(name, name.encode()), _names),
    st.builds(lambda name: entry(f"{name}/"), _names),
    st.builds(link, _names, st.sampled_from(["a", "/", "..", "b/a", "/etc", "../../../etc"])),
    st.builds(hard_link, _names, _names),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(_entries, max_size=8))
def test_whatever_comes_stays_inside(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[tarfile.TarInfo, bytes | None]]
) -> None:
    around = tmp_path_factory.mktemp("around")
    with contextlib.suppress(OciContentError):
        unpacked(around / "x", archive(*entries))
    assert [path.name for path in around.iterdir()] == ["x"]
    for path in (around / "x").rglob("*"):
        assert path.is_symlink() or path.resolve().is_relative_to(around / "x")
