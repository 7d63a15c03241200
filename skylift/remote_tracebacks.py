"""Traceback objects for frames that were never in this process.

A traceback cannot be made without a frame, nor a frame without running code. So for each remote frame a line
of code that raises is compiled under its file name, function name and position, and run. Debuggers, loggers
and IPython then show it as they show local ones: a notebook's cell with its own line numbers, and the columns
underlined.
"""

from __future__ import annotations

import ast
import linecache
from types import CodeType, TracebackType
from typing import Any


def remote_traceback(frames: list[dict[str, Any]]) -> TracebackType | None:
    """The traceback of an `error` event's `frames` (docs/protocol.md), outermost first; None for none."""
    result: TracebackType | None = None
    for frame in reversed(frames):
        filename, line = str(frame.get("file", "?")), max(1, int(frame.get("line") or 1))
        _remember_source(filename, frame)
        raised = _raise_in(_code(filename, line, frame), filename)
        result = TracebackType(result, raised.tb_frame, raised.tb_lasti, line)
    return result


def _code(filename: str, line: int, frame: dict[str, Any]) -> CodeType:
    tree = ast.parse("raise error")
    start, end = frame.get("column"), frame.get("end_column")
    end_line = int(frame.get("end_line") or line)
    text = linecache.getline(filename, line)
    if start is None or end is None:
        # All of the line: then Python underlines nothing.
        start, end, end_line = len(text) - len(text.lstrip()), len(text.rstrip()), line
    end_text = text if end_line == line else linecache.getline(filename, end_line)
    for node in ast.walk(tree):
        if isinstance(node, (ast.stmt, ast.expr)):
            node.lineno, node.end_lineno = line, end_line
            # The compiler counts columns in bytes.
            node.col_offset = len(text[:start].encode()) if text else int(start)
            node.end_col_offset = len(end_text[:end].encode()) if end_text else int(end)
    name = str(frame.get("function", "?"))
    code = compile(tree, filename, "exec").replace(co_name=name)
    return code.replace(co_qualname=name) if hasattr(code, "co_qualname") else code


def _raise_in(code: CodeType, filename: str) -> TracebackType:
    namespace = {"error": _Raised, "__name__": "__remote__", "__file__": filename}
    try:
        exec(code, namespace)  # noqa: S102
    except _Raised as raised:
        traceback = raised.__traceback__
        assert traceback is not None
        assert traceback.tb_next is not None
        namespace.pop("error")
        return traceback.tb_next
    raise AssertionError("the code that raises did not")


class _Raised(Exception):  # noqa: N818
    pass


def _remember_source(filename: str, frame: dict[str, Any]) -> None:
    """Lets tracebacks show the lines of files that are not on this machine."""
    context = frame.get("context")
    if not context or linecache.getlines(filename):
        return
    lines = context if isinstance(context, list) else str(context).splitlines()
    start = int(frame.get("context_start") or 1)
    padded = ["\n"] * (start - 1) + [line.rstrip("\n") + "\n" for line in lines]
    linecache.cache[filename] = (sum(map(len, padded)), None, padded, filename)
