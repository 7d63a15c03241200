"""The JupyterLab extension offers what the magic takes."""

from __future__ import annotations

import re
from pathlib import Path

from skylift.gpu import MAX_COUNT
from skylift.magics.options import GPU_NAMES, NOT_BUILT_YET, OPTIONS
from skylift.options import IDLE_POLICIES

SOURCE = (Path(__file__).parents[2] / "labextension" / "src" / "notebook" / "options.ts").read_text()


def quoted(text: str) -> list[str]:
    """The string literals in TypeScript."""
    return re.findall(r"'((?:[^'\\]|\\.)*)'", text)


def array(name: str) -> list[str]:
    """The strings of an exported array."""
    match = re.search(rf"export const {name}: readonly string\[\] = \[(.*?)\];", SOURCE, re.DOTALL)
    assert match, name
    return quoted(match[1])


def test_the_options_are_the_same() -> None:
    start = SOURCE.index("export const OPTIONS")
    table = SOURCE[start : SOURCE.index("];", start)]
    offered = [
        (*quoted(entry)[:3], "repeatable: true" in entry)
        for entry in re.findall(r"\{(.*?)\}", table, re.DOTALL)
    ]
    assert [(o.name, o.value, o.help, o.repeatable) for o in OPTIONS] == offered


def test_so_are_the_gpus_the_policies_and_the_greatest_count() -> None:
    assert list(GPU_NAMES) == array("GPU_NAMES")
    assert list(IDLE_POLICIES) == array("IDLE_POLICIES")
    assert f"MAX_COUNT = {MAX_COUNT};" in SOURCE


def test_values_of_what_is_not_built_yet_are_no_gpus() -> None:
    later = re.search(r"const LATER = new Set\(\[(.*?)\]\)", SOURCE)
    assert later
    assert {name for name in NOT_BUILT_YET if name != "--on-demand"} == set(quoted(later[1]))
