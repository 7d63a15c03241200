from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from skylift.runtime.layer_archive import LayerError, archive_layer, restore_layer


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    folder = tmp_path / "upper"
    folder.mkdir()
    return folder


def moved(upper: Path, tmp_path: Path) -> Path:
    """The layer, archived and brought back somewhere else."""
    target = tmp_path / "again"
    target.mkdir()

    async def there_and_back() -> None:
        await archive_layer(upper, tmp_path / "upper.tar")
        await restore_layer(tmp_path / "upper.tar", target)

    asyncio.run(there_and_back())
    return target


def test_files_folders_and_links_come_back(upper: Path, tmp_path: Path) -> None:
    (upper / "root").mkdir(mode=0o700)
    (upper / "root" / "a file").write_bytes(b"text")
    (upper / "root" / "a file").chmod(0o640)
    (upper / "link").symlink_to("root/a file")
    os.link(upper / "root" / "a file", upper / "second")
    os.utime(upper / "second", ns=(10**18, 10**18))

    again = moved(upper, tmp_path)

    assert b"text" == (again / "root" / "a file").read_bytes()
    assert [0o700, 0o640] == [
        stat.S_IMODE(path.stat().st_mode) for path in (again / "root", again / "root" / "a file")
    ]
    assert "root/a file" == os.readlink(again / "link")
    assert (again / "second").samefile(again / "root" / "a file")
    assert 10**9 == int((again / "second").stat().st_mtime)


@pytest.mark.root
def test_what_makes_it_a_layer_comes_back(upper: Path, tmp_path: Path) -> None:
    os.mknod(upper / "deleted", stat.S_IFCHR, os.makedev(0, 0))
    (upper / "replaced").mkdir()
    os.setxattr(upper / "replaced", "trusted.overlay.opaque", b"y")
    (upper / "owned").touch()
    os.chown(upper / "owned", 100_000, 100_007)

    again = moved(upper, tmp_path)

    deleted = (again / "deleted").stat()
    assert (True, 0) == (stat.S_ISCHR(deleted.st_mode), deleted.st_rdev)
    assert b"y" == os.getxattr(again / "replaced", "trusted.overlay.opaque")
    owned = (again / "owned").stat()
    assert (100_000, 100_007) == (owned.st_uid, owned.st_gid)


def test_holes_take_no_room(upper: Path, tmp_path: Path) -> None:
    with (upper / "sparse").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
        file.seek(0, os.SEEK_END)
        file.write(b"end")

    again = moved(upper, tmp_path)

    assert (tmp_path / "upper.tar").stat().st_size < 1024 * 1024
    assert (upper / "sparse").stat().st_size == (again / "sparse").stat().st_size
    assert (again / "sparse").stat().st_blocks * 512 < 1024 * 1024


def test_a_layer_that_is_not_there_is_said(tmp_path: Path) -> None:
    expected = r"^The container's files could not be saved: .*No such file or directory\.$"
    with pytest.raises(LayerError, match=expected):
        asyncio.run(archive_layer(tmp_path / "nowhere", tmp_path / "upper.tar"))

    assert not (tmp_path / "upper.tar").exists()


def test_a_damaged_archive_is_said(tmp_path: Path, upper: Path) -> None:
    (tmp_path / "upper.tar").write_bytes(b"no archive" * 1000)

    with pytest.raises(
        LayerError, match=r"could not be brought back: This does not look like a tar archive\.$"
    ):
        asyncio.run(restore_layer(tmp_path / "upper.tar", upper))
