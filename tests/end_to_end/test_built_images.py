"""Images described in Python, built by a real host, and code that runs in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from running_gateway import RunningGateway

import skylift
from skylift import App, Image
from skylift.build_view import BuildView
from skylift.exceptions import ImageBuildError
from skylift.image_builds import forget_built
from skylift.session import Session
from skylift.wire import BuildOutput

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


def test_a_build_outlives_the_gateway(
    gateway: RunningGateway, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Image.debian_slim()
    base.build()
    began = threading.Event()
    show = BuildView.output

    def output(view: BuildView, message: BuildOutput) -> None:
        show(view, message)
        if "begun" in message.text.split("\n"):
            began.set()

    monkeypatch.setattr(BuildView, "output", output)
    failed: list[BaseException] = []

    def build() -> None:
        try:
            with skylift.enable_output():
                base.run_commands("echo begun; sleep 5; echo ended > /ended; cat /ended").build()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    assert began.wait(60)
    gateway.restart()
    thread.join(120)
    assert not thread.is_alive()
    assert [] == failed
    assert "\nended\n" in capfd.readouterr().out


def test_functions_and_sessions_of_an_image(gateway: RunningGateway) -> None:
    def leave_a_file(text: str, *, times: int) -> None:
        with open("/left", "w") as file:
            file.write(text * times)

    image = (
        Image.debian_slim()
        .uv_pip_install("six")
        .run_function(leave_a_file, args=("ab",), kwargs={"times": 2})
    )
    app = App("nested", image=image)

    @app.function()
    def inner(x: int) -> int:
        return x + 1

    @app.function()
    def outer(x: int) -> int:
        return 10 * inner.remote(x)

    with app.run():
        assert 40 == outer.remote(3)
    session = Session(image=image, name="s")
    cell = "import six; print(six.__name__, open('/left').read())"
    run = session.run_cell(cell, filename="cell")
    said = "".join(item.data.decode() for item in run if getattr(item, "kind", "") == "output")
    assert "six abab\n" in said
    session.stop()


def test_the_environment_without_its_files(gateway: RunningGateway, tmp_path: Path) -> None:
    """In another process, whose environment is small, as it would be on another machine."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    packages = next((venv / "lib").glob("python*")) / "site-packages"
    here = Path(next(entry for entry in sys.path if entry.endswith("site-packages")))
    for name in NEEDED:
        for found in [*here.glob(f"{name}"), *here.glob(f"{name}-*.dist-info"), *here.glob(f"{name}*.so")]:
            copy = shutil.copytree if found.is_dir() else shutil.copy2
            copy(found, packages / found.name)
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, str(root / "scripts" / "house.py")], check=True, stdout=subprocess.DEVNULL
    )
    shutil.copytree(root / "build" / "house" / "skylift", packages / "skylift", symlinks=False)
    project = tmp_path / "project"
    project.mkdir()
    (project / "helpers_of_mine.py").write_text("def triple(x):\n    return 3 * x\n")
    (project / "script.py").write_text(SCRIPT)
    ended = subprocess.run(
        [str(venv / "bin" / "python"), "script.py"],
        cwd=project,
        env={**os.environ, "SKYLIFT_GATEWAY_URL": gateway.url, "SKYLIFT_TOKEN": gateway.token},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert f"9 {project}/helpers_of_mine.py {packages}/msgspec/__init__.py True\n" == ended.stdout


NEEDED = ("blake3", "cloudpickle", "msgspec", "urllib3", "websockets", "IPython", "zstandard")

SCRIPT = """
import helpers_of_mine
import skylift

app = skylift.App("portable", image=skylift.Image.from_environment(portable=True))


@app.function()
def look(x):
    import os

    import msgspec

    return helpers_of_mine.triple(x), helpers_of_mine.__file__, msgspec.__file__, not os.path.exists("/work")


if __name__ == "__main__":
    with app.run():
        print(*look.remote(3))
"""
