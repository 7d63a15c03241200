"""Which modules a function's code imports."""

from __future__ import annotations

import functools
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.linalg
import pytest
import urllib3
from urllib3.util import Retry
from urllib3.util import parse_url as parse

import skylift
from skylift.preload import imported_modules, known_modules

app = skylift.App("preload")


def names(raw: Any, **options: Any) -> list[str]:
    return sorted(imported_modules(raw, **options))


def test_modules_that_are_captured() -> None:
    def function() -> object:
        return np.zeros(3), os.getcwd(), skylift, sys

    assert ["numpy"] == names(function)


def test_submodules_where_these_are_used() -> None:
    from urllib3 import util

    def dotted(x: Any) -> object:
        return [np.linalg.norm(y) for y in x]

    def inner() -> object:
        return util, numpy

    assert ["numpy", "numpy.linalg"] == names(dotted)
    assert ["numpy", "urllib3.util"] == names(inner)


def test_what_comes_from_modules() -> None:
    array, pool = np.zeros(2), urllib3.PoolManager()

    def with_class() -> object:
        return Retry

    def with_function() -> object:
        return parse

    def with_instances() -> object:
        return array, pool

    assert ["urllib3.util.retry"] == names(with_class)
    assert ["urllib3.util.url"] == names(with_function)
    assert ["numpy", "urllib3.poolmanager"] == names(with_instances)


def test_inside_of_values() -> None:
    table: dict[str, Any] = {"a": [np.float64(1)], "b": functools.partial(parse, "x")}
    bound = urllib3.PoolManager().clear

    def with_table() -> object:
        return table

    def with_method() -> object:
        return bound

    assert ["numpy", "urllib3.util.url"] == names(with_table)
    assert ["urllib3.poolmanager"] == names(with_method)


def test_import_statements() -> None:
    def function() -> Iterator[object]:
        import json

        import no_such_module  # type: ignore[import-not-found]
        import numpy.fft as fft

        def inner() -> object:
            from urllib3 import PoolManager, contrib
            from urllib3.util.ssl_ import ssl_wrap_socket

            return PoolManager, contrib, ssl_wrap_socket

        yield json, no_such_module, fft, inner

    assert ["numpy.fft", "urllib3", "urllib3.contrib", "urllib3.util.ssl_"] == names(function)


def test_nothing_is_imported_to_find_out() -> None:
    def function() -> object:
        import wave_of_nothing.inner  # type: ignore[import-not-found]
        from dill import temp

        return temp, wave_of_nothing

    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "dill"}
    for name in kept:
        del sys.modules[name]
    try:
        assert ["dill", "dill.temp"] == names(function)
        assert "dill" not in sys.modules
    finally:
        sys.modules.update(kept)


def test_functions_and_classes_that_travel_along() -> None:
    class Base:
        def load(self) -> object:
            return np

    class Model(Base, urllib3.PoolManager):  # type: ignore[misc]
        @property
        def other(self) -> object:
            import dill

            return dill

        @staticmethod
        def parse() -> object:
            return parse

    model = object.__new__(Model)

    def helper() -> object:
        return model

    def function() -> object:
        return helper()

    expected = ["dill", "numpy", "urllib3.poolmanager", "urllib3.util.url"]
    assert expected == names(function)
    assert expected == names(Model)


def test_handles_are_not_followed() -> None:
    @app.function()
    def other() -> object:
        import dill

        return dill

    def function() -> object:
        return other, app, np

    assert ["numpy"] == names(function)


def test_what_is_not_importable_elsewhere() -> None:
    made = types.ModuleType("made_here")
    sys.modules["made_here"] = made

    def function() -> object:
        return made

    try:
        assert [] == names(function)
        assert frozenset({"numpy"}) == known_modules(
            ["numpy.no_such", "numpy._core.x", "made_here", "IPython"]
        )
    finally:
        del sys.modules["made_here"]


def test_functions_of_modules_and_relative_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "relative_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "other.py").write_text("")
    (package / "main.py").write_text("def function():\n    from . import other\n    from .missing import x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from relative_package.main import function  # type: ignore[import-not-found]

    try:
        assert ["relative_package", "relative_package.other"] == names(function)
        by_name = ["relative_package", "relative_package.main", "relative_package.other"]
        assert by_name == names(function, by_name=True)
    finally:
        for name in [name for name in sys.modules if name.startswith("relative_package")]:
            del sys.modules[name]


def test_it_is_part_of_the_definition(gateway: Any) -> None:
    counts = [1]

    @app.function()
    def function() -> int:
        import dill

        return len(np.zeros(2)) + len(dill.__name__) + counts[0]

    with app.run():
        assert 7 == function.remote()
        assert 7 == function.remote()
    (define,) = gateway.sent(skylift.wire.Define)
    assert ("dill", "numpy") == define.spec.preload
