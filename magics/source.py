"""The text of a ``%%gpu`` cell: its lines as the person sees them, and the Python that they are."""

from __future__ import annotations

import ast
import linecache
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CellSource:
    """A cell's code and where it stands."""

    code: str
    """What is below the ``%%gpu`` line, as written."""
    python: str
    """The same after IPython's transformer."""
    filename: str
    """What tracebacks of the cell name; Python and IPython find the whole cell's lines under it."""
    first_line: int
    """The number of the code's first line in the cell: 2, unless there are other magics or blank lines."""
    execution_count: int

    @property
    def label(self) -> str:
        """``"In[3]"``."""
        return f"In[{self.execution_count}]"


def read_source(shell: Any, line: str, body: str) -> CellSource:
    """The source of the cell that runs now. Raises SyntaxError, with the line numbers of the cell, where it
    does not compile."""
    whole, first_line = _place(shell, line, body)
    code = body.lstrip("\n")
    first_line += len(body) - len(code)
    # Whether `execution_count` is this cell's or the next one's number depends on IPython's version.
    count = shell.displayhook.prompt_count
    filename: str = shell.compile.cache(whole, count)
    padding = "\n" * (first_line - 1)
    try:
        python = shell.transform_cell(code)
        compile(padding + python, filename, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError as error:
        error.filename = filename
        raise
    # Python that parses is what tracebacks can show well, so not the magic's line.
    lines = (padding + python).splitlines(keepends=True)
    linecache.cache[filename] = (len(padding + python), None, lines, filename)
    return CellSource(
        code=code, python=python, filename=filename, first_line=first_line, execution_count=count
    )


def _place(shell: Any, line: str, body: str) -> tuple[str, int]:
    """The whole cell, and the number of the body's first line in it."""
    for whole in _candidates(shell):
        text = whole.rstrip()
        if text.endswith(body.rstrip()) and "%%" in text:
            before = text[: len(text) - len(body.rstrip())]
            return whole, before.count("\n") + 1
    return f"%%gpu {line}\n{body}", 2


def _candidates(shell: Any) -> list[str]:
    """What the running cell may be: a cell can also be run by code, or without being kept in the history."""
    candidates = []
    parent = shell.get_parent() if hasattr(shell, "get_parent") else None
    if isinstance(parent, dict):
        candidates.append(parent.get("content", {}).get("code", ""))
    history = shell.history_manager.input_hist_raw if shell.history_manager else []
    candidates.extend(history[-1:])
    return [text for text in candidates if isinstance(text, str)]
