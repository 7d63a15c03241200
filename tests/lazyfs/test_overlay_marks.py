"""Whiteouts, and what hides as much as an opaque folder; with real overlays."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from oci_setup import files_in

from skylift.lazyfs.overlay_marks import hide_by_name, is_opaque, is_whiteout, make_whiteout

pytestmark = [pytest.mark.slow, pytest.mark.root]


def overlaid(tmp_path: Path, *options: str) -> dict[str, str]:
    """What overlayfs shows of the folders ``upper`` and ``lower``."""
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    said = ",".join([f"ro,lowerdir={tmp_path / 'upper'}:{tmp_path / 'lower'}", *options])
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", said, root], check=True)
    try:
        return files_in(root)
    finally:
        subprocess.run(["umount", root], check=True)


def test_what_is_hidden_by_name_is_what_an_opaque_folder_hides(tmp_path: Path) -> None:
    for layer in ("upper", "lower"):
        (tmp_path / layer / "d" / "sub").mkdir(parents=True)
        (tmp_path / layer / "d" / "sub" / layer).write_text(layer)
        (tmp_path / layer / "d" / f"of-{layer}").write_text(layer)
        (tmp_path / layer / "d" / "both").write_text(layer)
    (tmp_path / "lower" / "d" / "folder").mkdir()
    (tmp_path / "upper" / "d" / "folder").write_text("a file now")
    folder = tmp_path / "upper" / "d"
    os.setxattr(folder, "trusted.overlay.opaque", b"y")
    assert is_opaque(folder)
    before = overlaid(tmp_path)
    assert before == files_in(tmp_path / "upper")

    def below(path: str) -> list[str]:
        here = tmp_path / "lower" / path
        return sorted(os.listdir(here)) if here.is_dir() else []

    hide_by_name(tmp_path / "upper", "d", below)
    assert not is_opaque(folder)
    assert overlaid(tmp_path) == before
    assert overlaid(tmp_path, "userxattr") == before


def test_a_whiteout_hides_a_name(tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    (tmp_path / "lower" / "gone").mkdir(parents=True)
    (tmp_path / "lower" / "gone" / "x").write_text("")
    (tmp_path / "lower" / "there").write_text("x")
    make_whiteout(tmp_path / "upper" / "gone")
    assert is_whiteout((tmp_path / "upper" / "gone").lstat())
    assert overlaid(tmp_path) == {"there": "x"}
