from __future__ import annotations

import os
from pathlib import Path

import pytest

from skylift.lazyfs.names import LocalNames


@pytest.fixture
def names(tmp_path: Path) -> LocalNames:
    return LocalNames(tmp_path / "names")


def test_a_value_is_found_by_its_name_and_by_others_who_share_the_folder(names: LocalNames) -> None:
    names.put("snapshots/abc/one", b"1")
    names.put("snapshots/abc/two", b"2")
    names.put("snapshots/abcd/three", b"3")
    names.put("snapshots/abc/one", b"new")

    other = LocalNames(names.folder)
    assert b"new" == other.get("snapshots/abc/one")
    assert ["snapshots/abc/one", "snapshots/abc/two"] == other.under("snapshots/abc")
    assert 3 == len(other.under("snapshots"))


def test_what_is_not_there_is_none_and_can_be_deleted(names: LocalNames) -> None:
    assert names.get("a/b") is None
    assert [] == names.under("a")
    names.delete("a/b")


def test_a_deleted_name_leaves_no_folder_and_takes_nothing_else_with_it(names: LocalNames) -> None:
    names.put("a/b/one", b"1")
    names.put("a/two", b"2")

    names.delete("a/b/one")

    assert ["a/two"] == names.under("a")
    assert ["two"] == os.listdir(names.folder / "a")


def test_half_written_values_are_not_seen(names: LocalNames) -> None:
    names.put("a/one", b"1")
    (names.folder / "a" / ".new-1-abc").write_bytes(b"half")

    assert ["a/one"] == names.under("a")


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "a/../../b", "..", "a//b", ".hidden", "a/", "a b", "a\n"]
)
def test_no_name_leads_out_of_the_folder(names: LocalNames, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a name here"):
        names.put(name, b"")


def test_a_failed_write_leaves_the_old_value(names: LocalNames, monkeypatch: pytest.MonkeyPatch) -> None:
    names.put("a/one", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(OSError, match="No space left"):
        names.put("a/one", b"new")

    assert b"old" == names.get("a/one")
    assert ["one"] == os.listdir(names.folder / "a")
