"""Opens JupyterLab on the quickstart, with a gateway running: ``make lab``."""

from __future__ import annotations

import os
import subprocess
import sys

from scripts.demo import ROOT, configuration
from scripts.own_gateway import GatewayError, end_in_order, own_gateway

HOME = ROOT / "build" / "lab"
"""Kept from one time to the next: runs and spend stay visible."""


def main() -> int:
    end_in_order()
    try:
        with own_gateway(HOME, configuration()) as environment:
            print(f"Skylift runs here with its files in {HOME}; Ctrl-C ends it and JupyterLab.", flush=True)
            return run_lab(os.environ | environment)
    except GatewayError as error:
        print(error, file=sys.stderr)
        return 1


def run_lab(environment: dict[str, str]) -> int:
    """Runs JupyterLab until it ends or Ctrl-C ends it. Returns the exit status."""
    command = [sys.executable, "-m", "jupyterlab", "-y", f"--notebook-dir={ROOT / 'notebooks'}"]
    command += ["--LabApp.default_url=/lab/tree/quickstart.ipynb", "--log-level=WARN"]
    if os.getuid() == 0:
        command.append("--allow-root")
    if sys.platform == "linux" and not (environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")):
        command.append("--no-browser")
    with subprocess.Popen(command, cwd=ROOT, env=environment) as lab:
        try:
            return lab.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            # A Ctrl-C reached it as well, but only on a terminal does it always heed one.
            lab.terminate()


if __name__ == "__main__":
    sys.exit(main())
