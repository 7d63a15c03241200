"""Which modules go along with code, because they are not installed where it runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skylift
from skylift.local_modules import in_notebook, local_modules, named_in
from skylift.serialization import dumps


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module that imports a package, both beside the notebook."""
    (tmp_path / "of_ours.py").write_text(
        "import json, numpy\nfrom pack_of_ours import tool\nclass Thing: pass\ndef work(): return tool\n"
    )
    (tmp_path / "pack_of_ours").mkdir()
    (tmp_path / "pack_of_ours" / "__init__.py").write_text("")
    (tmp_path / "pack_of_ours" / "tool.py").write_text("import deep_of_ours\n")
    (tmp_path / "deep_of_ours.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("of_ours")
    for name in ("of_ours", "pack_of_ours", "pack_of_ours.tool", "deep_of_ours"):
        sys.modules.pop(name, None)


ALL = ("deep_of_ours", "of_ours", "pack_of_ours")


def test_what_a_local_module_imports_comes_too(project: Any) -> None:
    assert ALL == local_modules(["of_ours", "numpy", "json", "no.such"])
    assert (*ALL, "skylift") == local_modules(["of_ours", "skylift.app"])
    assert ("deep_of_ours",) == local_modules(["deep_of_ours"])
    assert () == local_modules(["numpy", "pytest", "json"])


def test_a_module_that_is_not_imported_yet(project: Any, tmp_path: Path) -> None:
    (tmp_path / "later_of_ours.py").write_text("")
    assert ("later_of_ours",) == local_modules(["later_of_ours"])


def test_a_pickle_names_modules(project: Any) -> None:
    thing = project.Thing()

    def mine() -> object:
        return thing, project.work

    data = dumps([mine, thing, "numpy"])
    assert "of_ours" in named_in(data)
    assert "numpy" not in named_in(data)
    assert __name__ not in named_in(data)


def test_the_notebooks_variables(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "work", project.work, raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "skylift", skylift, raising=False)
    assert ALL == local_modules(in_notebook())
    monkeypatch.setattr(sys.modules["__main__"], "app", skylift.App("x"), raising=False)
    assert (*ALL, "skylift") == local_modules(in_notebook())
