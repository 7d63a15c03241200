"""Loads, in a container, a function of a module that is importable there. Imports nothing of Skylift."""

from __future__ import annotations

import importlib
from typing import Any


def load_function(module: str, qualname: str) -> Any:
    """The function of that name, without its decoration. Raises ImportError or AttributeError."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return getattr(found, "_skylift_raw", found)


class ByReference:
    """Pickles as a function that is looked up where it is unpickled."""

    def __init__(self, module: str, qualname: str) -> None:
        self._name = (module, qualname)

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return load_function, self._name
