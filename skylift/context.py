"""Where this code runs, and whether what remote functions print is shown."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

_output_depth = 0


def is_local() -> bool:
    """False inside a container, True everywhere else."""
    return not os.environ.get("SKYLIFT_SOCKET")


def current_input_id() -> str | None:
    """Id of the input that this container works on: a call's own id, or that of one input of a map.

    None outside of a container, and in threads that outlive their call.
    """
    return _current("input_id")


def current_function_call_id() -> str | None:
    """Id of the call that this container works on; None outside of a container."""
    return _current("call_id")


@contextlib.contextmanager
def enable_output() -> Iterator[None]:
    """While this is open, what remote functions print is printed here.

    Calls that wait for more than a second then say what they wait for. In a notebook that is always so.
    """
    global _output_depth
    _output_depth += 1
    try:
        yield
    finally:
        _output_depth -= 1


def interact() -> None:
    """Not built yet. Raises `InvalidError`."""
    from skylift.exceptions import InvalidError

    raise InvalidError("skylift.interact is not built yet")


def output_enabled() -> bool:
    """Whether what remote functions print is shown."""
    return _output_depth > 0 or in_notebook() or not is_local()


def in_notebook() -> bool:
    """Whether cells or a prompt run this code, and not a script: then an app needs no ``with app.run()``."""
    return ipython() is not None or hasattr(sys, "ps1") or bool(sys.flags.interactive)


def ipython() -> Any:
    """The running IPython shell, or None. Does not import IPython."""
    module = sys.modules.get("IPython")
    if module is None:
        return None
    get_ipython = getattr(module, "get_ipython", None)
    return get_ipython() if get_ipython is not None else None


def _current(field: str) -> str | None:
    if is_local():
        return None
    runner = sys.modules.get("skylift_runner.current")
    value = getattr(runner, field, None)
    return value() if callable(value) else value
