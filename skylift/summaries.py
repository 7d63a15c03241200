"""What people are told of a call: its arguments in short, and where it was made."""

from __future__ import annotations

import sys
from typing import Any

from skylift.context import ipython

_MAX_ARGUMENT = 24
_MAX_SUMMARY = 80
_SHORT = frozenset({int, float, bool, type(None)})


def call_summary(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """A call in one short line: ``train(0.1, data=<ndarray>)``. Runs no code of the arguments' own."""
    parts = [_short(value) for value in args]
    parts += [f"{key}={_short(value)}" for key, value in kwargs.items()]
    text = f"{name}({', '.join(parts)})"
    return text if len(text) <= _MAX_SUMMARY else text[: _MAX_SUMMARY - 1] + "…"


def calling_place() -> str:
    """The notebook cell's id, or ``file:line`` of the user's code that is calling us."""
    shell = ipython()
    if shell is not None:
        try:
            metadata = shell.get_parent().get("metadata", {})
        except AttributeError:
            metadata = {}
        return str(metadata.get("cellId") or f"In[{shell.execution_count}]")
    frame = sys._getframe(1)
    package = __name__.partition(".")[0] + "."
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(package):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _short(value: Any) -> str:
    kind = type(value)
    if kind in _SHORT:
        return repr(value)
    if kind is str:
        return repr(value if len(value) <= _MAX_ARGUMENT else value[: _MAX_ARGUMENT - 1] + "…")
    return f"<{kind.__name__}>"
