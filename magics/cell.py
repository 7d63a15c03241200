"""``%%gpu``: a cell that runs in a session."""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from skylift.gateway_process import find_gateway
from skylift.magics.dry_run import dry_run
from skylift.magics.follow import follow, status_line
from skylift.magics.names import CellNames, cell_names
from skylift.magics.options import parse_line
from skylift.magics.sending import captured_values
from skylift.magics.sessions import NotebookSessions
from skylift.magics.source import CellSource, read_source
from skylift.magics.tables import show

SUMMARY_LENGTH = 80
"""Characters of a cell's first line that lists of runs show."""

_SAYS_LITTLE = ("import ", "from ", "#")
_CHANGED_BY_METHODS = (list, dict, set, bytearray, deque, Counter, OrderedDict, defaultdict)
"""What a method call as in ``losses.append(x)`` is taken to change, so that it comes back."""


def run_cell(shell: Any, sessions: NotebookSessions, line: str, body: str) -> BaseException | None:
    """Runs the body of a ``%%gpu`` cell in the session that its line asks for; returns what it raised.

    Raises SyntaxError, and errors of Skylift.
    """
    options = parse_line(line)
    source = read_source(shell, line, body)
    if options.dry_run:
        show(dry_run(sessions, options))
        return None
    names = cell_names(source.python, shell.transform_cell)
    known = sessions.for_cell(options, shell.user_ns)
    send = captured_values(names.reads, names.maybe_reads, shell.user_ns, shell.user_ns_hidden, source.label)
    status = status_line(shell, options.gpu_text or known.options.gpu_text)
    status.show()
    try:
        find_gateway(progress=status.note)
        status.note("")
        with _warnings_of_the_cell(source):
            run = known.session.run_cell(
                source.code,
                filename=source.filename,
                first_line=source.first_line,
                execution_count=source.execution_count,
                send=send,
                assigned=_to_bring_back(names, shell.user_ns),
                detached=options.detach,
                summary=_summary(source),
                cell=_cell_id(shell) or source.label,
                timeout=options.timeout,
            )
    except BaseException:
        status.leave("failed", "")
        raise
    if options.detach:
        known.detached.append(run.call_id)
        sessions.keep(known)
        status.belongs_to(run.call_id)
        status.leave("detached", f"%gpu attach {run.call_id} streams it back here")
        return None
    return follow(shell, sessions, known, run, status, deleted=names.deleted)


@contextmanager
def _warnings_of_the_cell(source: CellSource) -> Iterator[None]:
    """Warnings inside are given for the cell, and not for the line of IPython that called the magic."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        place = f"Cell {source.label}"
        warnings.warn_explicit(warning.message, warning.category, place, source.first_line - 1)


def _to_bring_back(names: CellNames, namespace: dict[str, Any]) -> list[str]:
    changed = sorted(name for name in names.mutated if type(namespace.get(name)) in _CHANGED_BY_METHODS)
    return [*names.assigned, *changed]


def _summary(source: CellSource) -> str:
    lines = [line.strip() for line in source.code.splitlines() if line.strip()]
    telling = (line for line in lines if not line.startswith(_SAYS_LITTLE))
    first = next(telling, lines[0] if lines else "")
    return first if len(first) <= SUMMARY_LENGTH else first[: SUMMARY_LENGTH - 1] + "…"


def _cell_id(shell: Any) -> str:
    """JupyterLab says with each request which cell it is."""
    parent = shell.get_parent() if hasattr(shell, "get_parent") else None
    metadata = parent.get("metadata", {}) if isinstance(parent, dict) else {}
    return str(metadata.get("cellId") or metadata.get("cell_id") or "")
