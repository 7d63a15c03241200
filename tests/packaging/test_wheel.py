"""A wheel of this checkout has all that is needed, and nothing of the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK_NEEDS = ("ipykernel", "ipywidgets", "matplotlib", "nbclient", "nbformat", "numpy", "tqdm")
FRONT_END = Path("skylift", "lab", "labextension")

NESTED = """
import skylift
app = skylift.App()

@app.function()
def square(number):
    return number * number

@app.function()
def outer(numbers):
    return sum(square.map(numbers)), skylift.__file__

print("{} from {}".format(*outer.remote([1, 2, 3])))
"""


def run(*command: str | Path, cwd: Path, timeout: float) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SKYLIFT"))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves files in its source tree."""
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    # As it was built here last: where it is older than its sources, the build makes it anew, with npm.
    if (ROOT / FRONT_END).is_dir():
        shutil.copytree(ROOT / FRONT_END, source / FRONT_END)
    if (ROOT / "labextension" / "node_modules").is_dir():
        (source / "labextension" / "node_modules").symlink_to(ROOT / "labextension" / "node_modules")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=source, timeout=600)
    (built,) = (source / "dist").iterdir()
    return built


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    version = "-".join(wheel.name.split("-")[:2])
    metadata, data = f"{version}.dist-info", f"{version}.data/data"
    assert {name.partition("/")[0] for name in names} == {"skylift", metadata, f"{version}.data"}
    assert not [name for name in names if "test" in name and not name.startswith(data)]
    for needed in (
        "skylift/py.typed",
        "skylift/magics/__init__.py",
        "skylift/runtime/runner/__main__.py",
        "skylift/runtime/runc/seccomp.json",
        f"{metadata}/licenses/LICENSE",
        f"{data}/etc/jupyter/jupyter_server_config.d/skylift.json",
        f"{data}/share/jupyter/labextensions/skylift/package.json",
    ):
        assert needed in names
    front_end = [name for name in names if name.startswith(f"{data}/share/jupyter/labextensions/skylift/")]
    assert [name for name in front_end if "/static/remoteEntry." in name]
    assert not [name for name in names if name.startswith("skylift/lab/labextension")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_runs_the_quickstart_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path, timeout=120)
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    constraints = ROOT / "constraints.txt"
    run(*pip, "--constraint", constraints, f"{wheel}[lab]", *NOTEBOOK_NEEDS, cwd=tmp_path, timeout=600)
    where = run(python, "-c", "import skylift; print(skylift.__file__)", cwd=tmp_path, timeout=60)
    assert Path(where.strip()).is_relative_to(tmp_path / "venv")

    # JupyterLab has the sidebar with no further step.
    jupyter = tmp_path / "venv" / "bin" / "jupyter"
    listed = run(jupyter, "labextension", "list", cwd=tmp_path, timeout=120)
    assert re.search(r"skylift v\S+ .*enabled.*OK", listed), listed
    listed = run(jupyter, "server", "extension", "list", cwd=tmp_path, timeout=120)
    assert re.search(r"skylift\.lab .*enabled", listed), listed
    assert re.search(r"skylift\.lab .*OK", listed), listed

    # The demo's own two files and the notebook, and nothing else of the checkout.
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    notebook = shutil.copy(ROOT / "notebooks" / "quickstart.ipynb", tmp_path)
    shown = run(python, "-m", "scripts.demo", notebook, cwd=tmp_path, timeout=300)
    assert "nothing is left running" in shown

    # In a container the SDK is the installed one, too.
    nested = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NESTED)])
    nbformat.write(nested, tmp_path / "nested.ipynb")
    shown = run(python, "-m", "scripts.demo", tmp_path / "nested.ipynb", cwd=tmp_path, timeout=300)
    assert f"14 from {tmp_path}/venv/" in shown


@pytest.mark.slow
def test_a_wheel_without_npm_says_what_to_do(tmp_path: Path) -> None:
    """setup.py alone, in a folder in which nothing is built."""
    (tmp_path / "labextension" / "src").mkdir(parents=True)
    shutil.copy(ROOT / "setup.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "there is no npm on the PATH. Install Node.js 20 or newer" in done.stderr
    assert "SKYLIFT_WITHOUT_LAB=1" in done.stderr
