"""``make demo`` from its command line to its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parents[2]


def demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.demo", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("SKYLIFT")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )


def notebook(folder: Path, *cells: str) -> Path:
    path = folder / "tried.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in cells]), path)
    return path


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_quickstart_does_the_main_job() -> None:
    shown = demo()
    assert shown.returncode == 0, shown.stdout
    for sight in (
        "Hello from container",
        "H100 · local · ",
        "points are still there",
        " png]",
        "training: 100%",
        "MB captured",
        " s   5\n",
        "seed 7: ",
        "AxisError",
        "nothing is left running",
    ):
        assert sight in shown.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cell_that_fails_ends_it_with_its_error(tmp_path: Path) -> None:
    shown = demo(notebook(tmp_path, "print('before')", "{}['lost']", "print('after')"))
    assert shown.returncode == 1
    assert shown.stdout.splitlines()[-1] == "tried.ipynb failed: KeyError: 'lost'"
    assert "before" in shown.stdout
    assert "[3]" not in shown.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_kernel_that_dies_ends_it(tmp_path: Path) -> None:
    shown = demo(notebook(tmp_path, "import os; os._exit(3)"))
    assert shown.returncode == 1
    assert shown.stdout.splitlines()[-1] == "tried.ipynb failed: Kernel died"
