"""The magics in IPython without a notebook."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCRIPT = """
%load_ext skylift
run = get_ipython().run_cell
run("%%gpu H100\\nprint('hello')\\nlarge = bytes(3_000_000)\\n6 * 7", store_history=True)
run("large", store_history=True)
run("%%gpu\\n1 / 0", store_history=True)
run("%skylift machines", store_history=True)
"""


def test_cells_tables_and_status_as_text(environment: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script.ipy"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "--no-banner", str(script)]
    result = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert "hello\nOut[1]: 42\n" in result.stdout
    assert "Out[2]: RemoteRef to a bytes, 3.0 MB, in session H100" in result.stdout
    assert "Cell In[3], line 2\n----> 2 1 / 0" in result.stdout
    assert "0 of 1 H100 (simulated)" in result.stdout
    ends = [line for line in result.stderr.splitlines() if "done in" in line or "failed after" in line]
    assert 2 == len(ends)
    assert ends[0].startswith("H100 · local · simulated · cold start")
    assert "running" not in result.stderr
