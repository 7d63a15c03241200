"""The part of a benchmark that is not the thing measured."""

from __future__ import annotations

import json
import subprocess

import psutil
import pytest

from benchmarks import harness
from benchmarks.processes import ended_with_us


def test_sides_take_turns_and_another_one_begins_each_round() -> None:
    log: list[str] = []
    sides = {name: lambda name=name: log.append(name) or len(log) for name in ("a", "b", "c")}
    results = harness.take_turns(4, sides)
    assert "".join(log) == "abcbcacababc"
    assert results == {"a": [1, 6, 8, 10], "b": [2, 4, 9, 11], "c": [3, 5, 7, 12]}


def test_a_wrong_answer_is_no_measurement() -> None:
    assert len(harness.time_calls(lambda number: number + 1, 3)) == 3
    with pytest.raises(RuntimeError, match=r"^call\(0\) returned 0 and not 1$"):
        harness.time_calls(lambda number: number, 3)
    with pytest.raises(RuntimeError, match="2 items came, of 3"):
        harness.time_rate(lambda count: range(count), 2, range(3))


def test_the_first_item_is_timed_and_the_rest_is_drawn() -> None:
    drawn: list[int] = []

    def stream(count: int):
        for number in range(count):
            drawn.append(number)
            yield number

    assert harness.time_first(stream, 5) >= 0
    assert drawn == [0, 1, 2, 3, 4]


def test_quantiles() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert harness.quantile(values, 0.0) == 1
    assert harness.quantile(values, 0.95) == 96
    assert harness.quantile(values, 1.0) == 100
    assert harness.p50([[1, 9], [2], [3, 4]]) == 3


def test_the_last_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    harness.print_table("Calls", ("", "p50", "calls"), [("Skylift", 0.4567, 12345), ("Ray", 1.0, 7)])
    harness.print_result({"p50_ms": 0.456789, "per_s": 12345.678})
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "Calls",
        "             p50    calls",
        "  Skylift   0.46   12,345",
        "  Ray       1.00        7",
    ]
    assert json.loads(lines[-1]) == {"p50_ms": 0.4568, "per_s": 12350}


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_what_was_started_in_the_block_ends_with_it() -> None:
    with psutil.Popen(["sleep", "600"]) as before:
        try:
            with ended_with_us():
                child = psutil.Popen(["sleep", "600"])
                with ended_with_us():
                    inner = psutil.Popen(["sleep", "600"])
                assert ended(inner)
                assert not ended(child)
            assert ended(child)
            assert not ended(before)
        finally:
            before.kill()


def test_a_process_that_left_the_tree_is_found_too() -> None:
    with ended_with_us():
        # The shell ends at once, and init adopts what it started.
        shell = subprocess.run(
            ["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"],
            capture_output=True,
            text=True,
            check=True,
        )
        orphan = psutil.Process(int(shell.stdout))
    assert ended(orphan)
