from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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


class TestSwap:
    def test_only_where_what_is_expected_is_there(self, names: LocalNames) -> None:
        assert not names.swap("a/one", b"0", b"1")
        assert names.swap("a/one", None, b"1")
        assert not names.swap("a/one", None, b"2")
        assert not names.swap("a/one", b"2", b"3")
        assert names.swap("a/one", b"1", b"2")

        assert b"2" == names.get("a/one")
        assert ["a/one"] == names.under("a")

    def test_an_empty_value_is_something_else_than_none(self, names: LocalNames) -> None:
        assert names.swap("one", None, b"")
        assert not names.swap("one", None, b"1")
        assert names.swap("one", b"", b"1")

    def test_what_cannot_be_a_name(self, names: LocalNames) -> None:
        with pytest.raises(ValueError, match="cannot be a name here"):
            names.swap("a/../../b", None, b"")

    def test_threads_and_processes_lose_no_change(self, names: LocalNames) -> None:
        script = (
            "import sys, pathlib\n"
            "from skylift.lazyfs.names import LocalNames\n"
            "names = LocalNames(pathlib.Path(sys.argv[1]))\n"
            "for _ in range(15):\n"
            "    while True:\n"
            "        old = names.get('count')\n"
            "        if names.swap('count', old, str(int(old or b'0') + 1).encode()): break\n"
        )
        others = [subprocess.Popen([sys.executable, "-c", script, str(names.folder)]) for _ in range(2)]

        def count(_: int) -> None:
            while True:
                old = names.get("count")
                if names.swap("count", old, str(int(old or b"0") + 1).encode()):
                    return

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(count, range(30)))
        assert [0, 0] == [other.wait() for other in others]
        assert b"60" == names.get("count")
