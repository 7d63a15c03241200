from __future__ import annotations

import os
from pathlib import Path

import pytest

from skylift.runtime.runc.id_map import Extent, IdRange, parse_range, root_maps, rootless_maps


@pytest.fixture
def subuid(tmp_path: Path) -> Path:
    return tmp_path / "subuid"


def test_root_takes_the_first_range_that_nobody_has(subuid: Path) -> None:
    assert (Extent(0, 100_000, 65_536),) == root_maps(subuid=subuid).users
    subuid.write_text("anna:100000:65536\nbert:231072:65536\n# a remark\n\nbroken:x:y\n")
    maps = root_maps(subuid=subuid)
    assert (Extent(0, 165_536, 65_536),) == maps.users == maps.groups
    assert (165_536, 165_536) == maps.owner
    assert not maps.single


def test_root_takes_what_it_is_granted(subuid: Path) -> None:
    subuid.write_text("root:500000:1000\nroot:600000:65536\n")
    assert (Extent(0, 600_000, 65_536),) == root_maps(subuid=subuid).users


def test_the_settings_have_the_last_word(subuid: Path) -> None:
    subuid.write_text("root:500000:65536\n")
    assert (Extent(0, 300_000, 1000),) == root_maps("300000:1000", subuid).users


@pytest.mark.parametrize("text", ["100000", "100000-165536", "0:65536", "100000:0", "a:b", "-5:10"])
def test_a_malformed_range_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r'user_ids in \[host\] of config\.toml is .*"START:SIZE"'):
        parse_range(text)
    assert IdRange(100_000, 65_536) == parse_range("100000:65536")


def test_an_ordinary_user_is_root_and_has_its_granted_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    monkeypatch.setattr(os, "getgid", lambda: 12_345)
    (tmp_path / "subuid").write_text("54321:100000:65536\n")
    (tmp_path / "subgid").write_text("54321:200000:65536\n")
    maps = rootless_maps(tmp_path / "subuid", tmp_path / "subgid")
    assert (Extent(0, 54_321, 1), Extent(1, 100_000, 65_536)) == maps.keeper_users
    assert (Extent(0, 12_345, 1), Extent(1, 200_000, 65_536)) == maps.keeper_groups
    # Each extent of a nested namespace lies within one of its parent's.
    assert (Extent(0, 0, 1), Extent(1, 1, 65_536)) == maps.users == maps.groups
    assert (54_321, 12_345) == maps.owner


@pytest.mark.parametrize("helpers", [True, False])
def test_without_a_grant_there_is_one_id(tmp_path: Path, helpers: bool) -> None:
    maps = rootless_maps(tmp_path / "subuid", tmp_path / "subgid", helpers=helpers)
    assert maps.single
    assert (Extent(0, os.getuid(), 1),) == maps.keeper_users


def test_extents_are_written_as_the_kernel_reads_them() -> None:
    assert "0 100000 65536\n" == Extent(0, 100_000, 65_536).line()
