"""JupyterLab and Notebook as processes, each with folders of its own, before a real gateway."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import nbformat
import urllib3

TOKEN = "a-token-of-the-tests"
PATIENCE = 60.0
"""Seconds after which a server that does not answer is missed."""

SETTINGS = {
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false"},
    "@jupyterlab/apputils-extension/themes.jupyterlab-settings": {"theme": "JupyterLab Light"},
    "@jupyterlab/docmanager-extension/plugin.jupyterlab-settings": {"autosave": False},
}


class RunningLab:
    """``jupyter lab``, or ``jupyter notebook``."""

    def __init__(self, folder: Path, home: Path, program: Literal["lab", "notebook"] = "lab") -> None:
        """`home` is the gateway's."""
        self.program = program
        self.files = folder / "files"
        self.files.mkdir(parents=True)
        self._folder = folder
        for name, settings in SETTINGS.items():
            path = folder / "settings" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings))
        own = {name: value for name, value in os.environ.items() if not name.startswith("SKYLIFT_")}
        self._environment = own | {
            "SKYLIFT_HOME": str(home),
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "jupyterlab" if self.program == "lab" else "notebook"]
        command += ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
        command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}"]
        command += [f"--ServerApp.root_dir={self.files}", "--log-level=INFO"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.files,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def _answers(self) -> bool:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            return 200 == urllib3.request("GET", f"{self.url}/api?token={TOKEN}", retries=False).status
        return False

    def notebook(self, name: str, *cells: str) -> Path:
        """A notebook file with these cells."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        path = self.files / name
        nbformat.write(notebook, path)
        return path

    def address(self, name: str) -> str:
        """Where a browser finds a notebook."""
        path = f"lab/tree/{name}" if self.program == "lab" else f"notebooks/{name}"
        return f"{self.url}/{path}?token={TOKEN}" + ("&reset" if self.program == "lab" else "")

    def log(self) -> str:
        """What it wrote down."""
        return (self._folder / "log").read_text(errors="replace")

    def close(self) -> None:
        """End it and its kernels."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
