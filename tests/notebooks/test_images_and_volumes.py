"""The notebook about images and volumes, cell by cell, as a person runs it."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from notebook_kernel import Cell, Notebook

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(900)]

PATH = Path(__file__).resolve().parents[2] / "notebooks" / "images_and_volumes.ipynb"


@pytest.fixture(scope="module")
def cells(notebook: Notebook) -> dict[str, Cell]:
    """Every code cell of the notebook by its id, after it ran."""
    ran = {}
    for cell in nbformat.read(PATH, as_version=4).cells:
        if cell.cell_type == "code":
            ran[cell.id] = notebook.run(cell.source, patience=600)
            assert not ran[cell.id].error, ran[cell.id].traceback
    return ran


def value(cell: Cell) -> str:
    """What its last line came to, as text."""
    (result,) = [message.content for message in cell.messages if message.kind == "execute_result"]
    return str(result["data"]["text/plain"])


def test_no_outputs_are_committed() -> None:
    cells = nbformat.read(PATH, as_version=4).cells
    assert [] == [cell.id for cell in cells if cell.get("outputs") or cell.get("execution_count")]


def test_the_image_is_not_this_environment(cells: dict[str, Cell]) -> None:
    assert re.fullmatch(r"\('debian', '[0-9.]+', 'made for this notebook'\)", value(cells["image"]))


def test_its_last_step_changes_alone(cells: dict[str, Cell]) -> None:
    assert "'made for somebody else'" == value(cells["again"])


def test_files_are_put_on_the_volume(cells: dict[str, Cell]) -> None:
    assert "points.npz" in value(cells["volume"])


def test_training_goes_on_where_it_failed(cells: dict[str, Cell]) -> None:
    assert "RuntimeError: the machine went away in epoch 4" in cells["training"].text()
    lines = cells["resumed"].text().splitlines()
    assert "resumed after epoch 3" in lines
    assert ["epoch 4", "epoch 5", "epoch 6"] == [
        line.split(":")[0] for line in lines if line.startswith("epoch")
    ]


def test_versions_are_kept(cells: dict[str, Cell]) -> None:
    lines = cells["history"].text().splitlines()
    assert ["version 3: 0 added, 2 changed", "version 2: 2 added, 0 changed"] == [
        line.strip() for line in lines[:2]
    ]
    assert re.search(r"version \d+ has the checkpoint of epoch 3", cells["at"].text())


def test_a_session_has_the_volume(cells: dict[str, Cell]) -> None:
    assert "['checkpoint.pkl', 'epoch.txt', 'points.npz']" in cells["session"].text()
    assert "'written in a cell'" == value(cells["read"])
