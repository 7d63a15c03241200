"""Patterns as in a .dockerignore."""

from __future__ import annotations

from pathlib import Path

import pytest

from skylift.exceptions import InvalidError
from skylift.file_patterns import FilePatternMatcher, matcher


@pytest.mark.parametrize(
    ("patterns", "matched", "others"),
    [
        (["*.log"], ["a.log"], ["b/a.log", "a.txt"]),
        (["**/*.log"], ["a.log", "b/a.log", "b/c/a.log"], ["a.logs"]),
        (["data"], ["data", "data/x", "data/x/y"], ["datas", "x/data"]),
        (["/data/", "./x"], ["data/y", "x"], ["z/x"]),
        (["a?c", "[x-z]1", "[!a]2"], ["abc", "y1", "b2"], ["ac", "a1", "a2", "a/c"]),
        (["data", "!data/keep"], ["data/x"], ["data/keep", "data/keep/it"]),
        (["**/.git"], [".git", "a/.git/config"], ["a.git"]),
        (["a/**/b"], ["a/b", "a/x/y/b"], ["a"]),
        (["\\*x", "a\nb"], ["*x", "a\nb"], ["ax"]),
        ([""], [], ["a"]),
    ],
)
def test_patterns(patterns: list[str], matched: list[str], others: list[str]) -> None:
    match = FilePatternMatcher(*patterns)
    assert matched == [path for path in [*matched, *others] if match(path)]
    assert others == [path for path in [*matched, *others] if (~match)(Path(path))]


def test_a_file_of_patterns(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("# what is made\n\nbuild\n!build/keep\n")
    match = FilePatternMatcher.from_file(tmp_path / ".dockerignore")
    assert FilePatternMatcher("build", "!build/keep") == match
    with pytest.raises(InvalidError, match=r"FilePatternMatcher\.from_file\('/nowhere'\): .*No such file"):
        FilePatternMatcher.from_file("/nowhere")


def test_what_is_no_pattern() -> None:
    with pytest.raises(InvalidError, match=r"'\[a' is no pattern for files: its \[ has no \]"):
        FilePatternMatcher("[a")
    with pytest.raises(InvalidError, match=r"'\[z-a\]' is no pattern for files: bad character range"):
        FilePatternMatcher("[z-a]")
    with pytest.raises(InvalidError, match=r"^3 is no pattern for files"):
        FilePatternMatcher(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidError, match=r"^here: ignore='\*\.log': a list of patterns"):
        matcher("*.log", "here")
