"""Tracebacks without the frames of this package."""

from __future__ import annotations

import os
from types import TracebackType

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def hide_our_frames(error: BaseException) -> None:
    """Takes the SDK's own frames out of an exception's traceback, and keeps the user's and the container's.

    To be called in an ``except`` block that ends in a bare ``raise``: that one adds no frame again.
    """
    kept: list[TracebackType] = []
    first = traceback = error.__traceback__
    hidden = False
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename.startswith(_HERE):
            hidden = True
        else:
            kept.append(traceback)
        traceback = traceback.tb_next
    if first is None or not hidden:
        return
    result: TracebackType | None = None
    for entry in reversed(kept):
        result = TracebackType(result, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    # Python 3.10 raises again with the entry that it had at first.
    first.tb_next = result
    error.__traceback__ = result
