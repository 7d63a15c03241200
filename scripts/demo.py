"""Runs a notebook through a gateway and a host of its own, and shows what it prints: ``make demo``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from traitlets.config import Config

from scripts.notebook_screen import Screen
from scripts.own_gateway import GatewayError, LeftBehindError, end_in_order, own_gateway
from skylift.runtime.nvml import Nvml

ROOT = Path(__file__).resolve().parent.parent
CELL_TIMEOUT = 300
"""Seconds."""


class ShownNotebook(NotebookClient):
    """Runs a notebook's cells and passes on their outputs as they come."""

    def __init__(self, notebook: nbformat.NotebookNode, screen: Screen, folder: Path, sockets: Path) -> None:
        super().__init__(
            notebook,
            timeout=CELL_TIMEOUT,
            kernel_name="python3",
            # Sockets in a private folder instead of ports: nobody else can reach the kernel.
            config=Config({"KernelManager": {"transport": "ipc", "ip": str(sockets / "kernel")}}),
            resources={"metadata": {"path": str(folder)}},
        )
        self._screen = screen

    async def async_execute_cell(self, cell: Any, cell_index: int, *rest: Any, **options: Any) -> Any:
        if cell.cell_type != "code":
            self._screen.text(cell.source)
        elif cell.source.strip():
            self._screen.cell(self.code_cells_executed + 1, cell.source)
        try:
            return await super().async_execute_cell(cell, cell_index, *rest, **options)
        finally:
            self._screen.end_of_cell()

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        self._screen.output(msg)
        return super().process_message(msg, cell, cell_index)


def main() -> int:
    options = _options()
    end_in_order()
    screen = Screen(sys.stdout)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="skylift-demo-") as folder:
        # Nothing of the user's own configuration takes part, and nothing stays.
        os.environ.update(
            IPYTHONDIR=f"{folder}/ipython",
            JUPYTER_CONFIG_DIR=f"{folder}/jupyter",
            JUPYTER_RUNTIME_DIR=f"{folder}/runtime",
        )
        try:
            with own_gateway(Path(folder) / "home", configuration(options.isolation)) as environment:
                os.environ.update(environment)
                screen.note(f"gateway and host started in {time.monotonic() - began:.1f} s")
                if options.isolation == "runc" and (why := without_network()):
                    screen.note(f"containers have no network: {why}")
                run_notebook(options.notebook, screen, Path(folder))
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            screen.note(f"\n{options.notebook.name} failed: {_first_line(error)}", bad=True)
            return 1
        except (GatewayError, LeftBehindError) as error:
            screen.note(str(error), bad=True)
            return 1
        except KeyboardInterrupt:
            screen.note("\ninterrupted; everything that was started has been stopped", bad=True)
            return 130
    screen.note(f"\n{options.notebook.name} ran in {time.monotonic() - began:.1f} s; nothing is left running")
    screen.note("Try it yourself: make lab")
    return 0


def run_notebook(path: Path, screen: Screen, sockets: Path) -> None:
    """Raises nbclient's errors where a cell fails that is not tagged ``raises-exception``."""
    notebook = nbformat.read(path, as_version=4)
    ShownNotebook(notebook, screen, path.parent, sockets).execute()


def configuration(isolation: str = "runc") -> str:
    """The ``config.toml`` of a home for trying things out: a simulated H100 where there is no real one."""
    lines = ["[host]"]
    if isolation != "runc":
        lines.append(f'isolation = "{isolation}"')
    if not has_gpu("H100"):
        lines.append("simulate_gpus = { H100 = 1 }")
    if isolation == "runc" and without_network():
        lines.append('network = "none"')
    return "\n".join(lines) + "\n"


def without_network() -> str:
    """Why containers of this user can have no network; "" where they can, or where a host will say."""
    if os.geteuid() == 0 or os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return ""
    return "this user may not open /dev/net/tun (as root: chmod 666 /dev/net/tun)"


def has_gpu(model: str) -> bool:
    """Whether this machine has a GPU of that model and a driver for it."""
    nvml = Nvml.load()
    return nvml is not None and any(model in gpu.name for gpu in nvml.gpus())


def _first_line(error: Exception) -> str:
    if isinstance(error, CellExecutionError):
        return f"{error.ename}: {error.evalue}"
    return str(error).strip().splitlines()[0]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", nargs="?", type=Path, default=ROOT / "notebooks" / "quickstart.ipynb")
    parser.add_argument(
        "--isolation", choices=["runc", "process"], default="runc", help="process isolates nothing"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
