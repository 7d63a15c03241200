"""The front end's own tests: jest, in labextension/."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "labextension"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_front_ends_own_tests() -> None:
    node = shutil.which("node")
    assert node is not None, "Node.js is missing: scripts/setup dev installs it"
    run = subprocess.run(
        [node, "node_modules/jest/bin/jest.js", "--ci"],
        cwd=FOLDER,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=360,
        check=False,
    )
    assert run.returncode == 0, run.stdout
