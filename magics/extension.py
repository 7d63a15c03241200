"""What ``%load_ext skylift`` does: the magics, their completion, and how references look."""

from __future__ import annotations

from typing import Any

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class

from skylift.magics import help as reference
from skylift.magics import line_magic as gpu_line
from skylift.magics import remote_ref, skylift_magic
from skylift.magics.cell import run_cell
from skylift.magics.completion import Completion
from skylift.magics.errors import raise_ours, raise_the_cells
from skylift.magics.sessions import NotebookSessions


@magics_class
class SkyliftMagics(Magics):  # type: ignore[misc]
    """The magics of one IPython shell, and the notebook's sessions."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self.sessions = NotebookSessions()
        self.completion = Completion(shell, self.sessions)

    @cell_magic("gpu")  # type: ignore[untyped-decorator]
    def gpu_cell(self, line: str, cell: str) -> None:
        try:
            raised = run_cell(self.shell, self.sessions, line, cell)
        except BaseException as error:
            raise_ours(self.shell, error)
        if raised is not None:
            raise_the_cells(self.shell, raised)

    @line_magic("gpu")  # type: ignore[untyped-decorator]
    def gpu_line(self, line: str) -> None:
        try:
            raised = gpu_line.run(self.shell, self.sessions, line)
        except BaseException as error:
            raise_ours(self.shell, error)
        if raised is not None:
            raise_the_cells(self.shell, raised)

    @line_magic("skylift")  # type: ignore[untyped-decorator]
    def skylift_line(self, line: str) -> None:
        try:
            skylift_magic.run(line)
        except BaseException as error:
            raise_ours(self.shell, error)


SkyliftMagics.gpu_cell.__doc__ = reference.gpu_cell_help()
SkyliftMagics.gpu_line.__doc__ = reference.gpu_line_help()
SkyliftMagics.skylift_line.__doc__ = reference.skylift_help()


def load(ipython: Any) -> None:
    """Registers ``%%gpu``, ``%gpu``, ``%skylift`` and their completion. Loading it again changes nothing."""
    if isinstance(ipython.magics_manager.registry.get("SkyliftMagics"), SkyliftMagics):
        return
    magics = SkyliftMagics(ipython)
    ipython.register_magics(magics)
    magics.completion.register()
    remote_ref.register(ipython)


def unload(ipython: Any) -> None:
    """Takes the magics back. The sessions end when they have been idle for long enough."""
    magics = ipython.magics_manager.registry.pop("SkyliftMagics", None)
    if magics is not None:
        magics.completion.unregister()
    for kind, names in (("cell", ("gpu",)), ("line", ("gpu", "skylift"))):
        for name in names:
            ipython.magics_manager.magics[kind].pop(name, None)
