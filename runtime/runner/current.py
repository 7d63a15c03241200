"""What runs now. The SDK finds this module in ``sys.modules``, for ``skylift.current_function_call_id()``
and ``skylift.current_input_id()``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cancel import Guard

guard: Guard | None = None
"""Of this process's runner."""


def call_id() -> str | None:
    """The call that runs; None between calls."""
    return (guard.running[0] or None) if guard is not None else None


def input_id() -> str | None:
    """The call's own id, or ``fc-…:3`` for one input of a map; None between calls."""
    if guard is None or not guard.running[0]:
        return None
    call, index = guard.running
    return call if index is None else f"{call}:{index}"
