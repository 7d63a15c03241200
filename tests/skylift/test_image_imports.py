"""``with image.imports():``"""

from __future__ import annotations

import builtins
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import skylift
from skylift import serialization
from skylift.function_code import FunctionCode


def block(image: skylift.Image, statements: str) -> dict[str, Any]:
    """Runs the statements in such a block, as a notebook's cell would."""
    namespace: dict[str, Any] = {"image": image, "__name__": "__main__"}
    indented = "\n".join("    " + line for line in statements.splitlines())
    exec(f"with image.imports():\n{indented}\n", namespace)
    return namespace


@pytest.fixture
def image() -> skylift.Image:
    return skylift.Image.from_environment()


def test_what_is_imported_is_noted(image: skylift.Image) -> None:
    original = builtins.__import__
    namespace = block(
        image, "import json, dill\nimport numpy.linalg as la\nfrom urllib3 import util, PoolManager\n"
    )
    assert ["dill", "numpy.linalg", "urllib3", "urllib3.util"] == sorted(image._imports)
    assert sys.modules["numpy.linalg"] is namespace["la"]
    assert builtins.__import__ is original
    assert frozenset() == skylift.Image.from_environment()._imports


def test_what_is_not_installed_here_is_no_error(image: skylift.Image) -> None:
    namespace = block(image, "import nowhere\nimport nowhere.deep as deep\nfrom nowhere.a import b, c as d")
    assert ["nowhere", "nowhere.a", "nowhere.deep"] == sorted(image._imports)
    shown = {name: repr(namespace[name]) for name in ("nowhere", "deep", "b", "d")}
    assert {
        "nowhere": "<nowhere: not installed here>",
        "deep": "<nowhere.deep: not installed here>",
        "b": "<nowhere.a.b: not installed here>",
        "d": "<nowhere.a.c: not installed here>",
    } == shown
    message = (
        r"^nowhere is not installed here, where nowhere\.a\.b is used; it was imported in `with image"
        r"\.imports\(\):`, so use it only in functions that run in that image$"
    )
    with pytest.raises(ImportError, match=message):
        namespace["b"]()
    with pytest.raises(ImportError, match=r"where nowhere\.nn\.Module is used"):
        exec("class Net(nowhere.nn.Module): pass", namespace)


def test_functions_find_it_where_they_run(
    image: skylift.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = block(image, "import in_the_image\nfrom in_the_image.inner import thing")
    exec("def function():\n    return in_the_image.inner.thing, thing", namespace)
    data = FunctionCode(namespace["function"], "function").pickled()
    package = tmp_path / "in_the_image"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("thing = 5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert (5, 5) == pickle.loads(data)()
    finally:
        for name in ("in_the_image", "in_the_image.inner"):
            sys.modules.pop(name, None)


def test_stars_of_nowhere_and_missing_members_end_the_block(image: skylift.Image) -> None:
    namespace = block(image, "import dill\nfrom nowhere import *\nimport numpy")
    assert ("dill" in namespace, "numpy" in namespace) == (True, False)
    namespace = block(image, "from urllib3 import no_such_thing\nimport numpy")
    assert "numpy" not in namespace
    assert ["dill", "nowhere", "urllib3"] == sorted(image._imports)


def test_other_errors_come_through(image: skylift.Image) -> None:
    with pytest.raises(ZeroDivisionError):
        block(image, "1 / 0")
    with pytest.raises(ImportError):
        exec("import nowhere")


def test_what_modules_import_in_turn_is_theirs(
    image: skylift.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tries_more.py").write_text(
        "try:\n    import nowhere\nexcept ImportError:\n    nowhere = None\nimport dill\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    namespace = block(image, "import tries_more")
    assert namespace["tries_more"].nowhere is None
    assert frozenset({"tries_more"}) == image._imports
    del sys.modules["tries_more"]


def test_other_threads_and_other_hooks(image: skylift.Image) -> None:
    seen: list[Any] = []

    def elsewhere() -> None:
        try:
            exec("import nowhere", {})
        except ImportError as error:
            seen.append(error)

    original = builtins.__import__

    def theirs(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    namespace: dict[str, Any] = {}
    with image.imports():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        inner = builtins.__import__
        builtins.__import__ = theirs
    assert 1 == len(seen)
    assert builtins.__import__ is theirs
    namespace = block(image, "import nowhere")
    assert "<nowhere: not installed here>" == repr(namespace["nowhere"])
    builtins.__import__ = inner
    block(image, "import nowhere")
    assert builtins.__import__ is original


def test_functions_of_the_image_are_preloaded_with_them(image: skylift.Image, gateway: Any) -> None:
    app = skylift.App("imports", image=image)

    @app.function()
    def function() -> int:
        import dill

        return len(dill.__name__)

    with app.run():
        assert 4 == function.remote()
        block(image, "import nowhere")
        assert 4 == function.remote()
    first, second = gateway.sent(skylift.wire.Define)
    assert (("dill",), ("dill", "nowhere")) == (first.spec.preload, second.spec.preload)
    assert frozenset({"nowhere"}) == pickle.loads(serialization.dumps(image))._imports
