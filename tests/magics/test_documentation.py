from __future__ import annotations

import re
from pathlib import Path

from skylift.magics.options import OPTIONS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cells.md").read_text(encoding="utf-8")


def test_the_page_has_the_options_that_there_are() -> None:
    there = [f"{option.name} {option.value}".strip() for option in OPTIONS]
    assert there == re.findall(r"^\| `(--[^`]+)`", PAGE, re.MULTILINE)
