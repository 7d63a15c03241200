"""A cell whose gateway is killed while it runs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from notebook_kernel import Notebook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_its_output_comes_whole_and_once(notebook: Notebook, environment: dict[str, str]) -> None:
    notebook.ok("%%gpu H100\nbefore = 7")
    cell = notebook.start("""
        %%gpu H100
        import time
        for number in range(2000):
            print(number)
            if number % 20 == 0:
                time.sleep(0.02)
        after = before + 1
        """)
    cell.wait(lambda cell: "\n300\n" in cell.text())
    running = json.loads((Path(environment["SKYLIFT_HOME"]) / "gateway.json").read_bytes())
    os.kill(running["pid"], signal.SIGKILL)
    cell.wait()
    assert "" == cell.error
    assert list(range(2000)) == [int(line) for line in cell.text().split()]
    assert ["8"] == notebook.ok("after").values
    assert ["7"] == notebook.ok("%%gpu H100\nbefore").values
