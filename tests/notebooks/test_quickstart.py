"""The quickstart, cell by cell, as a person runs it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import nbformat
import pytest
from notebook_kernel import Cell, Notebook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PATH = Path(__file__).resolve().parents[2] / "notebooks" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def cells(notebook: Notebook) -> dict[str, Cell]:
    """Every code cell of the quickstart by its id, after it ran."""
    ran = {}
    for cell in nbformat.read(PATH, as_version=4).cells:
        if cell.cell_type == "code":
            ran[cell.id] = notebook.run(cell.source)
            may_fail = "raises-exception" in cell.metadata.get("tags", [])
            assert may_fail == bool(ran[cell.id].error), ran[cell.id].traceback
    return ran


def test_no_outputs_are_committed() -> None:
    cells = nbformat.read(PATH, as_version=4).cells
    assert [] == [cell.id for cell in cells if cell.get("outputs") or cell.get("execution_count")]


def test_the_first_cell_says_that_its_gpu_is_simulated(cells: dict[str, Cell]) -> None:
    assert cells["first"].statuses[-1].startswith("H100 · local · simulated · cold start")
    assert cells["first"].text().startswith("Hello from container")


def test_variables_live_on_and_come_back(cells: dict[str, Cell]) -> None:
    assert "2000 points are still there\n" == cells["second"].text()
    assert cells["local"].text().startswith("the peak is 0.")


def test_the_plot_is_one_image(cells: dict[str, Cell]) -> None:
    assert ["image/png"] == [
        kind for output in cells["plot"].outputs for kind in output["data"] if "image" in kind
    ]


def test_the_progress_bar_moves(cells: dict[str, Cell]) -> None:
    text = cells["progress"].text("stderr")
    assert text.count("\r") > 5
    assert "40/40" in text


def test_the_large_value_is_a_reference(cells: dict[str, Cell]) -> None:
    assert "40 MB, in session H100" in cells["reference"].outputs[0]["data"]["text/plain"]
    assert cells["use-reference"].values


def test_the_closure_carries_its_array(cells: dict[str, Cell]) -> None:
    assert cells["closure"].text().startswith("40 MB captured")


def test_items_arrive_one_by_one(cells: dict[str, Cell]) -> None:
    times = [m.time for m in cells["stream"].messages if m.kind == "stream" and " s   " in m.content["text"]]
    assert 5 == len(times)
    assert all(later - earlier > 0.15 for earlier, later in itertools.pairwise(times))
    assert ["5", "4", "3", "2", "1"] == [line.split()[-1] for line in cells["stream"].text().splitlines()]


def test_map_keeps_the_order(cells: dict[str, Cell]) -> None:
    lines = cells["map"].text().splitlines()
    assert [f"seed {seed}:" for seed in range(8)] == [line[:7] for line in lines]


def test_the_error_has_its_cell_and_line(cells: dict[str, Cell]) -> None:
    cell = cells["error"]
    count = cell.reply["execution_count"]
    assert "AxisError" == cell.reply["ename"]
    assert f"Cell In[{count}], line 3, in normalise" in cell.traceback
    assert f"Cell In[{count}], line 6" in cell.traceback
    files = re.findall(r"^File (\S+):\d+", cell.traceback, re.MULTILINE)
    assert files != []
    assert [file for file in files if "/site-packages/numpy/" not in file] == []


def test_the_session_survives_the_error(cells: dict[str, Cell]) -> None:
    assert cells["after-error"].values[0].startswith("array(")


def test_the_runs_are_listed_and_the_session_ends(cells: dict[str, Cell]) -> None:
    assert "mean_of" in cells["runs"].outputs[0]["data"]["text/plain"]
    assert "Session H100 has ended.\n" == cells["stop"].text()
