from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from skylift.magics.status import (
    STATUS_MIME,
    UPDATE_INTERVAL,
    CellState,
    DisplayLine,
    StatusLine,
    TerminalLine,
    dollars,
    duration,
)
from skylift.wire import CallStatus, CallTimes, ContainerInfo, End, Usage

CONTAINER = ContainerInfo(
    container_id="co-1",
    host_id="ho-1",
    state="ready",
    app="notebook",
    function="H100",
    gpu="H100",
    simulated=True,
    path="cold",
    path_seconds=0.9,
)


class Recorder:
    """A line that keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def show(self, state: CellState) -> None:
        self.shown.append(f"new: {state.text()}")

    def update(self, state: CellState) -> None:
        self.shown.append(state.text())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def line(recorder: Recorder, clock: Clock) -> StatusLine:
    return StatusLine(recorder, CellState(asked_for="H100"), clock)


def ended(state: str = "done", seconds: float = 12.0) -> End:
    return End(state=state, times=CallTimes(queued=1.0, started=2.0, ended=2.0 + seconds))  # type: ignore[arg-type]


def running(**fields: object) -> CallStatus:
    return CallStatus(call_id="fc-1", state="running", container=CONTAINER, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.004, "4 ms"),
        (0.25, "0.25 s"),
        (0.996, "1.0 s"),
        (1.23, "1.2 s"),
        (12.4, "12 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_duration(seconds: float, expected: str) -> None:
    assert expected == duration(seconds)


@pytest.mark.parametrize(("amount", "expected"), [(0, "$0.00"), (0.0044, "$0.0044"), (12.345, "$12.35")])
def test_dollars(amount: float, expected: str) -> None:
    assert expected == dollars(amount)


def test_a_finished_cell() -> None:
    state = CellState(asked_for="H100", phase="done", seconds=12, container=CONTAINER, new_container=True)
    assert "H100 · local · simulated · cold start 0.90 s · done in 12 s · $0.00" == state.text()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"path": "restore", "path_seconds": 0.24}, "restored in 0.24 s"),
        ({"path": "restore", "path_seconds": 0.24, "path_reason": "unforkable"}, "restored in 0.24 s"),
        ({"path": "fork", "path_seconds": 0.021}, "forked in 21 ms"),
        ({"path": "cold", "path_seconds": 3.1}, "cold start 3.1 s"),
        (
            {"path": "cold", "path_seconds": 3.1, "path_reason": "its template failed"},
            "cold start 3.1 s: its template failed",
        ),
        ({"path": "running"}, "warm"),
    ],
)
def test_how_a_container_came_to_be(fields: dict[str, Any], expected: str) -> None:
    container = msgspec.structs.replace(CONTAINER, **fields)
    state = CellState(asked_for="H100", phase="done", seconds=12, container=container, new_container=True)
    assert f"H100 · local · simulated · {expected} · done in 12 s · $0.00" == state.text()


def test_a_later_cell_finds_its_container_warm() -> None:
    state = CellState(asked_for="H100", phase="done", seconds=0.02, container=CONTAINER)
    assert "H100 · local · simulated · warm · done in 20 ms · $0.00" == state.text()


def test_a_running_cell_shows_its_gpu_and_its_price() -> None:
    usage = Usage(container_id="co-1", time=1.0, gpu=0.83, gpu_memory=12 << 30, gpu_memory_total=80 << 30)
    state = CellState(
        asked_for="H100",
        phase="running",
        seconds=12,
        container=CONTAINER,
        usage=usage,
        cost=0.0044,
        price=1.31,
    )
    expected = "H100 · local · simulated · $1.31/h · warm · running 12 s · GPU 83% · 12.0/80 GB · $0.0044"
    assert expected == state.text()


def test_the_html_says_the_same_as_the_text_and_escapes_it() -> None:
    class Text(HTMLParser):
        text = ""

        def handle_data(self, data: str) -> None:
            self.text += data

    state = CellState(asked_for="H100", phase="queued", detail="held by session <b>", note="a & b")
    parser = Text()
    parser.feed(state.html())
    assert "● H100 · queued: held by session <b>a & b" == parser.text
    assert "<script" not in state.html()
    assert "class=" not in state.html()


def test_queue_reasons_show_at_once(line: StatusLine, recorder: Recorder) -> None:
    line.show()
    detail = "waiting for an H100: 1 of 1 in use by session train"
    line.take(CallStatus(call_id="fc-1", state="queued", detail=detail), new_container=False)
    assert ["new: H100 · starting", f"H100 · queued: {detail}"] == recorder.shown


def test_figures_alone_are_throttled(line: StatusLine, recorder: Recorder, clock: Clock) -> None:
    line.take(running(cost=0.1), new_container=True)
    line.take(running(cost=0.2), new_container=True)
    line.tick()
    assert ["H100 · local · simulated · cold start 0.90 s · running 0 ms · $0.1000"] == recorder.shown
    clock.now += UPDATE_INTERVAL
    line.tick()
    assert ["H100 · local · simulated · cold start 0.90 s · running 1.0 s · $0.2000"] == recorder.shown[1:]


def test_the_end_shows_at_once_and_takes_its_time_from_the_container(
    line: StatusLine, recorder: Recorder
) -> None:
    line.take(running(), new_container=False)
    line.end(ended(seconds=3.0), interrupted=False, container=CONTAINER, new_container=False)
    assert "H100 · local · simulated · warm · done in 3.0 s · $0.00" == recorder.shown[-1]


def test_an_interrupted_cell(line: StatusLine, recorder: Recorder) -> None:
    line.end(ended("cancelled", 2.0), interrupted=True, container=CONTAINER, new_container=False)
    assert "interrupted after 2.0 s" in recorder.shown[-1]


def test_output_means_that_the_cell_runs(line: StatusLine, recorder: Recorder) -> None:
    line.started()
    line.tick()
    assert ["H100 · running 0 ms · $0.00"] == recorder.shown


def test_showing_again_keeps_what_is_known(line: StatusLine, recorder: Recorder) -> None:
    line.take(running(), new_container=False)
    line.show()
    assert "new: H100 · local · simulated · warm · running 0 ms · $0.00" == recorder.shown[-1]


def test_in_a_terminal_only_waiting_and_the_end_are_said() -> None:
    said: list[str] = []
    line = TerminalLine(said.append)
    state = CellState(asked_for="H100")
    line.show(state)
    line.update(replace(state, phase="queued", detail="waiting for an H100"))
    line.update(replace(state, phase="queued", detail="waiting for an H100", seconds=3.0))
    line.update(replace(state, phase="running", container=CONTAINER))
    line.update(replace(state, phase="done", seconds=1.0, container=CONTAINER))
    assert [
        "H100 · queued: waiting for an H100\n",
        "H100 · local · simulated · warm · done in 1.0 s · $0.00\n",
    ] == said


def test_a_cell_whose_container_died_has_the_time_that_was_seen(
    line: StatusLine, recorder: Recorder, clock: Clock
) -> None:
    line.take(running(), new_container=False)
    clock.now += 7
    end = End(state="failed", times=CallTimes(ended=1.7e9))
    line.end(end, interrupted=False, container=CONTAINER, new_container=False)
    assert "failed after 7.0 s" in recorder.shown[-1]


def test_the_data_has_the_parts_of_the_text(line: StatusLine) -> None:
    line.belongs_to("fc-1")
    line.take(running(cost=0.1, price=1.31), new_container=True)
    line.note("a note")
    data = line.state.data()
    assert {
        "call_id": "fc-1",
        "where": ["H100", "local", "simulated", "$1.31/h", "cold start 0.90 s"],
        "phase": "running",
        "seconds": 0.0,
        "detail": "",
        "use": "",
        "price": 1.31,
        "cost": 0.1,
        "note": "a note",
    } == data
    assert line.state.text().startswith(" · ".join(data["where"]))


def test_the_data_has_the_use_of_a_gpu_while_it_runs() -> None:
    usage = Usage(container_id="co-1", time=1.0, gpu=0.5, gpu_memory=1 << 30, gpu_memory_total=80 << 30)
    state = CellState(asked_for="H100", phase="running", container=CONTAINER, usage=usage)
    assert "GPU 50% · 1.0/80 GB" == state.data()["use"]
    assert "" == replace(state, phase="done").data()["use"]


def test_a_notebook_gets_the_line_in_three_ways_and_the_same_place() -> None:
    shown: list[tuple[set[str], str, bool]] = []

    def publish(data: Any, metadata: Any, *, transient: Any, update: bool) -> None:
        msgspec.json.encode(data)
        shown.append((set(data), transient["display_id"], update))

    line = DisplayLine(SimpleNamespace(display_pub=SimpleNamespace(publish=publish)), "one")
    line.show(CellState(asked_for="H100"))
    line.update(CellState(asked_for="H100", phase="running"))
    kinds = {STATUS_MIME, "text/html", "text/plain"}
    assert [(kinds, "one", False), (kinds, "one", True)] == shown
