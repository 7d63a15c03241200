"""The notebook about cold starts, cell by cell, as a person runs it."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from notebook_kernel import Cell, Notebook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PATH = Path(__file__).resolve().parents[2] / "notebooks" / "cold_starts.ipynb"


@pytest.fixture(scope="module")
def cells(notebook: Notebook) -> dict[str, Cell]:
    """Every code cell of the notebook by its id, after it ran."""
    ran = {}
    for cell in nbformat.read(PATH, as_version=4).cells:
        if cell.cell_type == "code":
            ran[cell.id] = notebook.run(cell.source)
            assert not ran[cell.id].error, ran[cell.id].traceback
    return ran


def paths(cell: Cell) -> list[str]:
    """How the containers of a cell's calls came."""
    return re.findall(r"container: (\w+) in", cell.text())


def test_no_outputs_are_committed() -> None:
    cells = nbformat.read(PATH, as_version=4).cells
    assert [] == [cell.id for cell in cells if cell.get("outputs") or cell.get("execution_count")]


def test_the_first_container_is_cold_and_the_last_is_forked(cells: dict[str, Cell]) -> None:
    came = paths(cells["calls"])
    assert 8 == len(came)
    assert ("cold", "fork") == (came[0], came[-1])


def test_the_template_is_listed(cells: dict[str, Cell]) -> None:
    (table,) = [output["data"]["text/plain"] for output in cells["templates"].outputs]
    assert re.search(r"cold-starts\.Model +made here +\d(, and one ahead)? .* ready", table)


def test_every_container_is_its_own(cells: dict[str, Cell]) -> None:
    lines = [line.split() for line in cells["own"].text().splitlines()]
    assert 4 == len(lines)
    for column in range(3):
        assert 4 == len({line[column] for line in lines})


def test_what_has_threads_is_restored(cells: dict[str, Cell]) -> None:
    came = paths(cells["threads"])
    assert ("cold", "restore") == (came[0], came[-1])
    assert "fork" not in came


def test_the_plot_is_one_image(cells: dict[str, Cell]) -> None:
    assert ["image/png"] == [
        kind for output in cells["plot"].outputs for kind in output["data"] if "image" in kind
    ]


def test_the_session_sleeps_and_goes_on(cells: dict[str, Cell]) -> None:
    assert re.fullmatch(r"Session H100 sleeps: .* in .*\. The next cell wakes it\.\n", cells["sleep"].text())
    assert cells["session"].text().startswith("first line")
    assert cells["wake"].text().startswith("second line\n 4999999")
    assert cells["session"].text().split()[-1] != cells["wake"].text().split()[-1]
    assert "restored in" in cells["wake"].statuses[-1]
