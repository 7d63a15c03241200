"""``tqdm.notebook`` draws its bars as text in a container: its widgets would have nothing to talk to."""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_MODULE = "tqdm.notebook"


class _Finder(MetaPathFinder):
    def __init__(self) -> None:
        self._looking = False

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        if name != _MODULE or self._looking:
            return None
        self._looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, real: Loader) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        from tqdm.std import tqdm, trange  # type: ignore[import-untyped,unused-ignore]

        contents = vars(module)
        contents.update(tqdm=tqdm, tqdm_notebook=tqdm, trange=trange, tnrange=trange)


def install_text_bars() -> None:
    """From now on an import of ``tqdm.notebook`` gets bars made of text."""
    sys.meta_path.insert(0, _Finder())
