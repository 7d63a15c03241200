from __future__ import annotations

import os
from pathlib import Path

import pytest

from skylift.runtime.runc import skeleton
from skylift.runtime.runc.skeleton import Skeletons

OWNER = (os.getuid(), os.getgid())


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A small machine's root."""
    root = tmp_path / "machine"
    (root / "etc" / "ssl" / "certs").mkdir(parents=True)
    (root / "etc" / "ssl" / "certs" / "bundle.crt").write_text("certificate")
    (root / "etc" / "ssl" / "certs" / "one.pem").symlink_to("/usr/share/one.crt")
    (root / "etc" / "ssl" / "private").mkdir()
    (root / "etc" / "ssl" / "private" / "key").write_text("key")
    (root / "etc" / "shadow").write_text("root:hash")
    (root / "etc" / "passwd").write_text("anna:x:1000:1000::/home/anna:/bin/sh")
    (root / "etc" / "fonts").mkdir()
    (root / "etc" / "fonts" / "secret.conf").write_text("private")
    (root / "etc" / "fonts" / "secret.conf").chmod(0o600)
    (root / "etc" / "fonts" / "huge").write_bytes(b"")
    os.truncate(root / "etc" / "fonts" / "huge", skeleton.MAX_COPIED_FILE + 1)
    (root / "usr").mkdir()
    (root / "lib").symlink_to("usr/lib")
    (root / "sbin").mkdir()
    return root


def test_it_has_what_programs_need_and_no_secret(tmp_path: Path, machine: Path) -> None:
    made = Skeletons(tmp_path / "skeletons", OWNER, machine).current("nameserver 192.0.2.1\n")
    assert "certificate" == (made / "etc/ssl/certs/bundle.crt").read_text()
    assert "/usr/share/one.crt" == os.readlink(made / "etc/ssl/certs/one.pem")
    assert "nameserver 192.0.2.1\n" == (made / "etc/resolv.conf").read_text()
    assert "usr/lib" == os.readlink(made / "lib")
    assert (made / "sbin").is_dir()
    assert not (made / "sbin").is_symlink()
    assert "anna" not in (made / "etc/passwd").read_text()
    for path in ("etc/shadow", "etc/ssl/private", "etc/fonts/secret.conf", "etc/fonts/huge", "bin"):
        assert not (made / path).exists(), path
    assert 0o1777 == (made / "tmp").stat().st_mode & 0o7777
    assert 0o700 == (made / "root").stat().st_mode & 0o7777


def test_it_is_made_once_and_again_when_the_machine_changes(tmp_path: Path, machine: Path) -> None:
    skeletons = Skeletons(tmp_path / "skeletons", OWNER, machine)
    first = skeletons.current("a")
    inode = first.stat().st_ino
    assert (first, inode) == (skeletons.current("a"), first.stat().st_ino)
    (machine / "etc/ssl/certs/bundle.crt").write_text("another certificate")
    second = skeletons.current("a")
    assert second != first != skeletons.current("b")
    assert "another certificate" == (second / "etc/ssl/certs/bundle.crt").read_text()
    skeletons.remove_others(second)
    assert [second] == list((tmp_path / "skeletons").iterdir())


def test_a_making_that_was_cut_off_is_not_taken(tmp_path: Path, machine: Path) -> None:
    folder = tmp_path / "skeletons"
    (folder / ".making-half" / "etc").mkdir(parents=True)
    skeletons = Skeletons(folder, OWNER, machine)
    made = skeletons.current("a")
    assert (made / "etc/passwd").exists()
    skeletons.remove_others(made)
    assert [made] == list(folder.iterdir())


@pytest.mark.root
def test_it_belongs_to_the_containers_root(tmp_path: Path, machine: Path) -> None:
    owner = (100_000, 100_000) if os.geteuid() == 0 else OWNER
    made = Skeletons(tmp_path / "skeletons", owner, machine).current("a")
    for path in (made, *made.rglob("*")):
        assert owner == (path.lstat().st_uid, path.lstat().st_gid)
