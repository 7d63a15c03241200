"""A real kernel over a gateway and a host with a home of their own, on a machine with one simulated H100."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from notebook_kernel import Notebook

CONFIG = """
[host]
simulate_gpus = { H100 = 1 }
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a kernel needs to find its gateway, which it starts itself. At the end all processes are gone."""
    home = tmp_path_factory.mktemp("home")
    (home / "config.toml").write_text(CONFIG)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SKYLIFT_")}
    environment["SKYLIFT_HOME"] = str(home)
    environment["IPYTHONDIR"] = str(home / "ipython")
    try:
        yield environment
    finally:
        stop(home / "gateway.json", signal.SIGINT)
        stop(home / "host" / "host.json", signal.SIGTERM)


def stop(description: Path, politely: signal.Signals) -> None:
    """Ends the process that the file names, and waits for its end."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(json.loads(description.read_bytes())["pid"])
        descriptor = os.pidfd_open(pid)
        try:
            for number in (politely, signal.SIGKILL):
                signal.pidfd_send_signal(descriptor, number)
                if select.select([descriptor], [], [], 20)[0]:
                    return
        finally:
            os.close(descriptor)


@pytest.fixture(scope="module")
def notebook(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A notebook that the tests of a module share, with the magics loaded."""
    notebook = Notebook(environment, tmp_path_factory.mktemp("notebook"))
    try:
        notebook.ok("%load_ext skylift.magics")
        yield notebook
    finally:
        notebook.close()


@pytest.fixture(scope="module")
def second_notebook(
    environment: dict[str, str], notebook: Notebook, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Notebook]:
    """Another notebook of the same name in the same place."""
    second = Notebook(environment, tmp_path_factory.mktemp("second"))
    try:
        second.ok("%load_ext skylift.magics")
        yield second
    finally:
        second.close()
