"""What an image shows, looked up in its layers, is what overlayfs shows; and no link leads out of it."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from skylift.runtime.image_tree import ImageTree, TreePathError


@pytest.fixture
def layers(tmp_path: Path) -> tuple[Path, Path]:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for path in ("etc", "gone/deep", "replaced", "kept", "usr/bin"):
        (lower / path).mkdir(parents=True)
    for path in ("etc/hosts", "etc/passwd", "gone/deep/x", "replaced/old", "kept/a", "usr/bin/sh"):
        (lower / path).write_text(f"lower {path}")
    (lower / "bin").symlink_to("usr/bin")
    (lower / "outside").symlink_to("../../../../../../etc")
    (lower / "absolute").symlink_to("/etc/hosts")
    (lower / "loop").symlink_to("loop")
    for path in ("etc", "kept"):
        (upper / path).mkdir(parents=True)
    (upper / "etc/hosts").write_text("upper etc/hosts")
    (upper / "kept/b").write_text("upper kept/b")
    (upper / "replaced").write_text("a file now")
    os.mknod(upper / "gone", stat.S_IFCHR, os.makedev(0, 0))
    os.mknod(upper / "etc/passwd", stat.S_IFCHR, os.makedev(0, 0))
    return lower, upper


def test_the_topmost_counts(layers: tuple[Path, Path]) -> None:
    tree = ImageTree(layers)
    found = tree.find("/etc/hosts")
    assert found is not None
    assert "upper etc/hosts" == found.read_text()
    assert tree.find("usr/bin/sh") == layers[0] / "usr/bin/sh"
    assert tree.find("/") == layers[1]


@pytest.mark.parametrize(
    "path", ["/gone", "/gone/deep/x", "/etc/passwd", "/replaced/old", "/nothing", "/bin/sh"]
)
def test_what_is_hidden_or_behind_a_link_is_not_found(layers: tuple[Path, Path], path: str) -> None:
    assert ImageTree(layers).find(path) is None


def test_names(layers: tuple[Path, Path]) -> None:
    tree = ImageTree(layers)
    assert ["hosts"] == tree.names("/etc")
    assert ["a", "b"] == tree.names("/kept")
    assert [] == tree.names("/replaced")
    assert [] == tree.names("/gone")


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/bin/sh", "/usr/bin/sh"),
        ("/outside/hosts", "/etc/hosts"),
        ("/absolute", "/etc/hosts"),
        ("/kept/../../bin/new", "/usr/bin/new"),
        ("/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_links_lead_to_places_in_the_image(layers: tuple[Path, Path], path: str, leads_to: str) -> None:
    assert PurePosixPath(leads_to) == ImageTree(layers).resolve(path)


def test_the_last_link_can_be_left(layers: tuple[Path, Path]) -> None:
    assert PurePosixPath("/absolute") == ImageTree(layers).resolve("/absolute", last=False)


def test_links_in_a_circle(layers: tuple[Path, Path]) -> None:
    with pytest.raises(TreePathError, match="/loop/x goes through too many links"):
        ImageTree(layers).resolve("/loop/x")


@pytest.mark.root
def test_it_is_as_overlayfs_shows_it(layers: tuple[Path, Path], tmp_path: Path) -> None:
    (layers[1] / "kept").rename(layers[1] / "kept-not")
    (layers[1] / "kept").mkdir()
    (layers[1] / "kept/c").write_text("c")
    os.setxattr(layers[1] / "kept", "trusted.overlay.opaque", b"y")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    script = 'mount -t overlay overlay -o "lowerdir=$2:$1" "$3" && cd "$3" && find . | sort'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *map(str, layers), str(mounted)],
        capture_output=True,
        text=True,
        check=True,
    )
    walked = sorted(f".{path}".rstrip("/") for path, _ in ImageTree(layers).walk("/"))
    assert done.stdout.splitlines() == walked
