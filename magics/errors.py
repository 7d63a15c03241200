"""How errors are shown: ours as their message, those of a cell as the cell's own traceback."""

from __future__ import annotations

import sys
import traceback
from typing import Any, NoReturn

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


def raise_ours(shell: Any, error: BaseException) -> NoReturn:
    """Raises an error that was caught in a magic, so that IPython shows its type and message, and of a
    SyntaxError its line, without the magic's frames."""
    if isinstance(error, SyntaxError):
        lines = shell.SyntaxTB.structured_traceback(type(error), error, [])
    else:
        lines = shell.InteractiveTB.get_exception_only(type(error), error)
    _raise_showing(shell, error, [line.rstrip("\n") for line in lines])


def raise_the_cells(shell: Any, error: BaseException) -> NoReturn:
    """Raises what a cell raised in its session, so that IPython shows the frames that it had there and no
    others."""
    if error.__traceback__ is None:
        raise_ours(shell, error)
    kind, frames = type(error), error.__traceback__
    if isinstance(error, SyntaxError):
        lines = shell.SyntaxTB.structured_traceback(kind, error, traceback.extract_tb(frames))
    elif isinstance(error, _GROUP):
        lines = "".join(traceback.format_exception(kind, error, frames)).splitlines()
    else:
        lines = shell.InteractiveTB.structured_traceback(kind, error, frames, tb_offset=0)
    _raise_showing(shell, error, lines)


def _raise_showing(shell: Any, error: BaseException, lines: list[str]) -> NoReturn:
    try:
        error._render_traceback_ = _Lines(lines)  # type: ignore[attr-defined]
    except AttributeError:
        _show_once(shell, error, lines)
    else:
        # IPython has its own ways with these, and does not ask them.
        if isinstance(error, (SyntaxError, *_GROUP)):
            _show_once(shell, error, lines)
    raise error


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
