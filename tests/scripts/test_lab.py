"""``make lab``: JupyterLab answers, and goes away with its gateway."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3

from scripts.own_gateway import left_behind

ROOT = Path(__file__).resolve().parents[2]
START = """
import sys
from pathlib import Path
from scripts import lab

lab.HOME = Path(sys.argv[1])
sys.exit(lab.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_lab_serves_the_quickstart_until_it_is_told_to_end(tmp_path: Path, ending: signal.Signals) -> None:
    home = tmp_path / "home"
    environment = os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"), "DISPLAY": ""}
    with subprocess.Popen(
        [sys.executable, "-c", START, home],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as lab:
        try:
            assert lab.stdout is not None
            said = ""
            for line in lab.stdout:
                said += line
                if found := re.search(r"http://127\.0\.0\.1:\d+/lab/tree/quickstart\.ipynb\?token=\w+", line):
                    break
            assert found, said
            assert f"Skylift runs here with its files in {home}" in said
            # It says where it listens shortly before it does.
            until_it_listens = urllib3.Retry(connect=200, backoff_factor=0.1, backoff_max=0.2)
            page = urllib3.request("GET", found[0], retries=until_it_listens, timeout=30)
            assert page.status == 200
            # A terminal sends Ctrl-C to all of them; a supervisor ends the one that it started.
            if ending == signal.SIGINT:
                os.killpg(lab.pid, ending)
            else:
                lab.send_signal(ending)
            lab.communicate(timeout=60)
        finally:
            lab.kill()
    assert left_behind(home) == []
