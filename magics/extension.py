"""What ``%load_ext skylift`` does: the magics, their completion, and how references look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from skylift.magics import help as reference
from skylift.magics import line_magic, remote_ref, skylift_magic
from skylift.magics.cell import run_cell
from skylift.magics.completion import Completion
from skylift.magics.errors import raise_ours, raise_the_cells
from skylift.magics.sessions import NotebookSessions

_completions: WeakKeyDictionary[Any, Completion] = WeakKeyDictionary()


def load(ipython: Any) -> None:
    """Registers ``%%gpu``, ``%gpu``, ``%skylift`` and their completion. Loading it again changes nothing."""
    if ipython in _completions:
        return
    sessions = NotebookSessions()

    def gpu_cell(line: str, cell: str) -> None:
        _carry_out(ipython, lambda: run_cell(ipython, sessions, line, cell))

    def gpu_line(line: str) -> None:
        _carry_out(ipython, lambda: line_magic.run(ipython, sessions, line))

    def skylift(line: str) -> None:
        _carry_out(ipython, lambda: skylift_magic.run(line))

    for function, kind, name, text in (
        (gpu_cell, "cell", "gpu", reference.gpu_cell_help()),
        (gpu_line, "line", "gpu", reference.gpu_line_help()),
        (skylift, "line", "skylift", reference.skylift_help()),
    ):
        function.__doc__ = text
        ipython.register_magic_function(function, magic_kind=kind, magic_name=name)
    _completions[ipython] = Completion(ipython, sessions)
    _completions[ipython].register()
    remote_ref.register(ipython)


def unload(ipython: Any) -> None:
    """Takes the magics back. The sessions end when they have been idle for long enough."""
    completion = _completions.pop(ipython, None)
    if completion is None:
        return
    completion.unregister()
    for kind, name in (("cell", "gpu"), ("line", "gpu"), ("line", "skylift")):
        ipython.magics_manager.magics[kind].pop(name, None)


def _carry_out(ipython: Any, magic: Callable[[], BaseException | None]) -> None:
    try:
        raised = magic()
    except BaseException as error:
        raise_ours(ipython, error)
    if raised is not None:
        raise_the_cells(ipython, raised)
