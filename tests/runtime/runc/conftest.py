from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A Skylift folder of this test's own."""
    folder = tmp_path / "skylift"
    folder.mkdir(mode=0o700)
    return folder
