"""Images described in Python, built by a real host, and code that runs in them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from running_gateway import RunningGateway

import skylift
from skylift import App, Image
from skylift.exceptions import ImageBuildError
from skylift.image_builds import forget_built
from skylift.session import Session

pytestmark = [pytest.mark.slow, pytest.mark.root]


def run_in(image: Image, path: str) -> dict[str, str]:
    """What a container of the image sees."""
    app = App("images")

    # In here, so that it travels by value, without this file and what that imports.
    @app.function(image=image)
    def looks(path: str) -> dict[str, str]:
        import importlib.util
        import os
        import platform
        import shutil

        import numpy

        with open(path) as file:
            return {
                "python": platform.python_version(),
                "git": shutil.which("git") or "",
                "numpy": str(numpy.arange(4).sum()),
                "sklearn": str(importlib.util.find_spec("sklearn") is not None),
                "file": file.read(),
                "home": str(os.path.exists("/work")),
            }

    with app.run(), skylift.enable_output():
        return looks.remote(path)


def test_an_image_from_nothing(
    gateway: RunningGateway, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = Image.debian_slim().apt_install("git").pip_install("numpy", "scikit-learn")
    image = base.run_commands("mkdir /made && echo one > /made/file")
    seen = run_in(image, "/made/file")
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" == ".".join(seen["python"].split(".")[:2])
    assert ("/usr/bin/git", "6", "True", "one\n", "False") == (
        seen["git"],
        seen["numpy"],
        seen["sklearn"],
        seen["file"],
        seen["home"],
    )
    said = capfd.readouterr().out
    for step in ("debian_slim", "apt_install git", "pip_install numpy scikit-learn", "run_commands"):
        assert step in said
    assert "Setting up git" in said
    assert "Successfully installed" in said

    forget_built()
    assert "one\n" == run_in(image, "/made/file")["file"]
    assert "Step" not in capfd.readouterr().out

    changed = base.run_commands("mkdir /made && echo two > /made/file")
    assert "two\n" == run_in(changed, "/made/file")["file"]
    said = capfd.readouterr().out
    assert "Step 4 of 4: run_commands" in said
    assert "pip_install numpy scikit-learn (there already)" in said
    assert "Setting up git" not in said

    local = tmp_path / "data"
    local.mkdir()
    (local / "file").write_text("mine")
    (local / "link").symlink_to("file")
    with_files = image.add_local_dir(local, "/root/data").env({"A": "b"})
    assert "mine" == run_in(with_files, "/root/data/link")["file"]
    (local / "file").write_text("changed")
    assert "changed" == run_in(with_files, "/root/data/link")["file"]

    with pytest.raises(ImageBuildError, match=r"(?s)run_commands echo oops.*3.*oops"):
        base.run_commands("echo oops; exit 3").build()


def test_functions_and_sessions_of_an_image(gateway: RunningGateway) -> None:
    def leave_a_file(text: str, *, times: int) -> None:
        with open("/left", "w") as file:
            file.write(text * times)

    image = (
        Image.debian_slim()
        .uv_pip_install("six")
        .run_function(leave_a_file, args=("ab",), kwargs={"times": 2})
    )
    session = Session(image=image, name="s")
    cell = "import six; print(six.__name__, open('/left').read())"
    run = session.run_cell(cell, filename="cell")
    said = "".join(item.data.decode() for item in run if getattr(item, "kind", "") == "output")
    assert "six abab\n" in said
    session.stop()
