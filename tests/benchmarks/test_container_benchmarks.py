"""Tiny runs of the benchmarks of containers, and what they are made of."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import model
from benchmarks.floor import copy_once
from benchmarks.memory import pss
from benchmarks.peers_runc import RuncError, runc_peer

ROOT = Path(__file__).resolve().parents[2]
COUNTER = """
import sys
number = 0
print("ready", flush=True)
for line in sys.stdin:
    number += int(line)
    print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.root
def test_a_program_in_plain_runc_goes_on_where_it_was_written_as_often_as_wanted() -> None:
    with runc_peer() as peer:
        bundle = peer.bundle(COUNTER)
        with bundle.run() as process:
            assert "ready" == process.answer()
            process.ask("2")
            assert "2" == process.answer()
            assert bundle.write(process) > 0
        for _ in range(2):
            with bundle.restored() as process:
                process.ask("3")
                assert "5" == process.answer()
                process.started()
    # Others may run beside it: what is looked at is its own.
    assert not bundle.folder.exists()
    assert [] == [*Path("/sys/fs/cgroup").glob(f"*/{bundle.name}")]


@pytest.mark.slow
@pytest.mark.root
def test_what_a_program_in_plain_runc_died_of_is_said() -> None:
    with (
        runc_peer() as peer,
        peer.bundle("1 / 0").run() as process,
        pytest.raises(RuncError, match=r"it ended: [\s\S]*ZeroDivisionError"),
    ):
        process.answer()


def test_what_to_install_where_there_is_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^This benchmark runs .* pip install 'skylift\[bench-torch\]' \(a"):
        model.require_torch()


def test_copying_twice_as_much_is_measured_too() -> None:
    assert 0 < copy_once(10_000_000, rounds=1)


def test_memory_of_no_process() -> None:
    assert 0 == pss(["co-nobody"])


TIMES = {"copy_once_ms", "runc_restore_p50_ms"}
KEYS = {
    "cold_start": TIMES
    | {
        "fork_p50_ms",
        "fork_on_demand_p50_ms",
        "restore_p50_ms",
        "restore_from_store_p50_ms",
        "cold_p50_ms",
        "runc_run_p50_ms",
    }
    | {"ray_actor_p50_ms", "warm_p50_ms", "fork_vs_cold", "restore_vs_cold", "restore_vs_runc"},
    "density": {"cold_mb", "extra_mb", "extra_fraction"},
    "session_wake": TIMES | {"sleep_p50_ms", "wake_p50_ms", "wake_vs_runc"},
}


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("cold_start", "rounds=1"), ("density", "containers=2"), ("session_wake", "rounds=1")],
)
def test_a_tiny_run_ends_with_one_json_object(name: str, arguments: str) -> None:
    code = f"import benchmarks.{name} as benchmark; benchmark.main({arguments})"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SKYLIFT_")}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    if importlib.util.find_spec("torch") is None:
        assert (1, f"{model.NEEDS_TORCH}\n") == (run.returncode, run.stderr)
        return
    assert 0 == run.returncode, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert KEYS[name] == set(result)
    assert all(value > 0 for value in result.values())
