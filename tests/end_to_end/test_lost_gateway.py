"""The gateway is killed, or the notebook's connection is cut: nothing is lost, and nothing comes twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_gateway import BreakingNetwork, RunningGateway

from skylift import App, FunctionCall

ITEMS = 10_000
PAD = bytes(2_000)
"""Of each item, so that a window has room for a few hundred: the stream is under way when it is broken."""


def test_a_stream_survives_a_kill_of_the_gateway(gateway: RunningGateway) -> None:
    app = App("kill")

    @app.function()
    def numbers(count: int) -> Iterator[tuple[int, bytes]]:
        for number in range(count):
            yield number, PAD

    seen = []
    with app.run():
        for number, _ in numbers.remote_gen(ITEMS):
            seen.append(number)
            if number in (1_000, 4_000):
                gateway.restart()
            if number == 7_000:
                gateway.restart_politely()
    assert list(range(ITEMS)) == seen


def test_a_stream_survives_five_cuts_of_the_connection(
    gateway: RunningGateway, network: BreakingNetwork
) -> None:
    app = App("cut")

    @app.function()
    def numbers(count: int) -> Iterator[tuple[int, bytes]]:
        for number in range(count):
            yield number, PAD

    seen = []
    with app.run():
        for number, _ in numbers.remote_gen(ITEMS):
            seen.append(number)
            if number in (0, 1_000, 3_000, 5_000, 9_000):
                network.cut()
    assert list(range(ITEMS)) == seen
    assert 6 <= network.connections


def test_a_map_survives_a_kill_of_the_gateway(gateway: RunningGateway) -> None:
    app = App("map")

    @app.function(max_containers=2)
    def square(number: int) -> int:
        return number * number

    seen = []
    with app.run():
        for answer in square.map(range(5_000)):
            seen.append(answer)
            if len(seen) in (500, 2_500):
                gateway.restart()
    assert [number * number for number in range(5_000)] == seen


def test_a_map_survives_cuts_of_the_connection(gateway: RunningGateway, network: BreakingNetwork) -> None:
    app = App("map")

    @app.function(max_containers=2)
    def square(number: int) -> int:
        return number * number

    seen = []
    with app.run():
        for answer in square.map(range(5_000)):
            seen.append(answer)
            if len(seen) in (1, 500, 1_500, 2_500, 3_500):
                network.cut()
    assert [number * number for number in range(5_000)] == seen


def test_a_call_runs_once_though_the_gateway_is_killed_while_it_runs(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    app = App("once")

    @app.function()
    def started_at_once(number: int) -> tuple[int, int]:
        import time

        time.sleep(1.5)
        return number, time.monotonic_ns()

    with app.run():
        call = started_at_once.spawn(7)
        gateway.wait_for(f"/v1/calls/{call.object_id}", lambda answer: answer["call"]["state"] == "running")
        gateway.restart()
        number, first = call.get(timeout=60)
        assert 7 == number
        assert first == FunctionCall.from_id(call.object_id).get(timeout=10)[1]
    assert 1 == gateway.get(f"/v1/calls/{call.object_id}")["attempts"]


@pytest.mark.parametrize("number", range(5))
def test_what_was_spawned_is_on_disk(gateway: RunningGateway, number: int) -> None:
    app = App("durable")

    @app.function()
    def double(number: int) -> int:
        return 2 * number

    with app.run():
        call = double.spawn(number)
        gateway.kill()
        gateway.start()
        assert 2 * number == FunctionCall.from_id(call.object_id).get(timeout=60)
        assert 2 * number == call.get(timeout=60)


def test_a_session_keeps_its_container_over_a_restart(gateway: RunningGateway) -> None:
    app = App("container")

    @app.function()
    def where() -> tuple[str, int]:
        return os.uname().nodename, os.getpid()

    with app.run():
        before = where.remote()
        gateway.restart()
        assert before == where.remote()
