"""How errors are shown: ours as their message, those of a cell as the cell's own traceback."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any, NoReturn

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
if sys.version_info < (3, 11):
    _GROUP: tuple[type[BaseException], ...] = ()
else:
    _GROUP = (BaseExceptionGroup,)  # noqa: F821 (builtin from 3.11 on)


class _Lines:
    """What IPython shows for an exception."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def __call__(self) -> list[str]:
        return self._lines


def raise_cleanly(shell: Any, error: BaseException) -> NoReturn:
    """Raises `error`, caught in a magic, so that IPython shows it without the magic's frames.

    What a cell raised is shown with the frames that it had in the container. An error of ours is shown as its
    type and message; so is a SyntaxError, with its line.
    """
    remote = hasattr(error, "_render_traceback_")
    lines = _traceback(shell, error) if remote else _message(shell, error)
    try:
        error._render_traceback_ = _Lines(lines)  # type: ignore[attr-defined]
    except AttributeError:
        _show_once(shell, error, lines)
    else:
        # IPython has its own ways with these, and does not ask them.
        if isinstance(error, (SyntaxError, *_GROUP)):
            _show_once(shell, error, lines)
    raise error


def _traceback(shell: Any, error: BaseException) -> list[str]:
    frames: TracebackType | None = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OURS):
        frames = frames.tb_next
    lines: list[str] = shell.InteractiveTB.structured_traceback(type(error), error, frames)
    return lines


def _message(shell: Any, error: BaseException) -> list[str]:
    lines: list[str]
    if isinstance(error, SyntaxError):
        lines = shell.SyntaxTB.structured_traceback(type(error), error, [])
    else:
        lines = shell.InteractiveTB.get_exception_only(type(error), error)
    return lines


def _show_once(shell: Any, error: BaseException, lines: list[str]) -> None:
    """Has IPython show `lines` when this very error reaches it, and everything else as before."""
    kinds, handler = shell.custom_exceptions, shell.CustomTB

    def show(
        shell: Any, kind: type[BaseException], value: BaseException, trace: Any, tb_offset: Any = None
    ) -> list[str] | None:
        shell.custom_exceptions, shell.CustomTB = kinds, handler
        if value is not error:
            shell.showtraceback((kind, value, trace), tb_offset=tb_offset)
            return None
        shell._showtraceback(kind, value, lines)
        return lines

    shell.set_custom_exc((type(error),), show)
