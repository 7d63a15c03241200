from __future__ import annotations

import json
from typing import Any

import pytest
from IPython.core.displaypub import DisplayPublisher

from skylift.magics.output import Output
from skylift.wire import Event


class Recorder(DisplayPublisher):  # type: ignore[misc]
    """A publisher that keeps what it is given, with what was printed in between."""

    def __init__(self, shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(shell=shell)
        self.log: list[Any] = []
        self.capsys = capsys

    def printed(self) -> None:
        out, err = self.capsys.readouterr()
        self.log += [("out", out)] if out else []
        self.log += [("err", err)] if err else []

    def publish(self, data: Any, metadata: Any = None, **options: Any) -> None:
        self.printed()
        self.log.append(("display", data, options))

    def clear_output(self, wait: bool = False) -> None:
        self.printed()
        self.log.append(("clear", wait))


@pytest.fixture
def recorder(shell: Any, capsys: pytest.CaptureFixture[str]) -> Recorder:
    shell.display_pub = Recorder(shell, capsys)
    return shell.display_pub  # type: ignore[no-any-return]


@pytest.fixture
def output(shell: Any, recorder: Recorder) -> Output:
    return Output(shell, "se-1", lambda: recorder.log.append("status"))


def text(words: str, stream: str = "stdout") -> Event:
    return Event("output", {"stream": stream}, words.encode())


def display(data: dict[str, Any], **meta: Any) -> Event:
    return Event("display", meta, json.dumps({"data": data, "metadata": {}}).encode())


PLAIN = {"text/plain": "1"}


def test_everything_in_its_order(output: Output, recorder: Recorder) -> None:
    for event in (text("a\n"), display(PLAIN), text("b\n", "stderr")):
        output.put(event)
    output.flush()
    recorder.printed()
    assert [
        ("out", "a\n"),
        ("display", PLAIN, {"transient": {}, "update": False}),
        ("err", "b\n"),
    ] == recorder.log


def test_display_ids_of_sessions_are_kept_apart(output: Output, recorder: Recorder) -> None:
    output.put(display(PLAIN, display_id="p"))
    output.put(display(PLAIN, display_id="p", update=True))
    assert [
        ("display", PLAIN, {"transient": {"display_id": "se-1-p"}, "update": False}),
        ("display", PLAIN, {"transient": {"display_id": "se-1-p"}, "update": True}),
    ] == recorder.log


def test_the_status_line_comes_back_after_a_clear(output: Output, recorder: Recorder) -> None:
    output.put(Event("clear", {"wait": False}))
    assert [("clear", False), "status"] == recorder.log


def test_a_clear_that_waits_is_put_off_until_there_is_output(output: Output, recorder: Recorder) -> None:
    output.put(Event("clear", {"wait": True}))
    assert [] == recorder.log
    output.put(display(PLAIN))
    assert [("clear", True), "status", ("display", PLAIN, {"transient": {}, "update": False})] == recorder.log


def test_a_value_is_the_cells_result(output: Output, shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    sys.displayhook = shell.displayhook
    output.put(Event("value", {"execution_count": 1}, json.dumps({"data": {"text/plain": "42"}}).encode()))
    assert f"Out[{shell.displayhook.prompt_count}]: 42" in capsys.readouterr().out


def test_a_value_can_be_captured(shell: Any) -> None:
    from IPython.utils.capture import capture_output

    value = Event("value", {}, json.dumps({"data": {"text/plain": "42", "text/html": "<b>42</b>"}}).encode())
    with capture_output() as captured:
        Output(shell, "se-1", lambda: None).put(value)
    assert {"text/plain": "42", "text/html": "<b>42</b>"} == captured.outputs[0].data


def test_text_that_is_no_utf8_is_shown_all_the_same(output: Output, recorder: Recorder) -> None:
    output.put(Event("output", {"stream": "stdout"}, b"\xff\n"))
    output.flush()
    recorder.printed()
    assert [("out", "\ufffd\n")] == recorder.log
