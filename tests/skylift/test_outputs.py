"""Where the output of remote functions is shown, and the line that says what a call waits for."""

from __future__ import annotations

import io
import json
import sys

import pytest

import skylift
from skylift import context, outputs
from skylift.outputs import Output
from skylift.wire import CallStatus, ContainerInfo, Event


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_streams_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with skylift.enable_output():
        output = Output("f")
        output.event(Event("output", {"stream": "stdout"}, "a ü\n".encode()))
        output.event(Event("output", {"stream": "stderr"}, b"b\n"))
    assert ("a ü\n", "b\n") == capsys.readouterr()


def test_without_output_nothing_is_shown_and_nobody_polls(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output("f")
    output.event(Event("output", {"stream": "stdout"}, b"a\n"))
    output.waiting(None)
    assert None is output.poll
    assert ("", "") == capsys.readouterr()


def test_a_terminal_line_comes_late_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with skylift.enable_output():
        output = Output("train")
    assert outputs.FIRST_STATUS_AFTER == output.poll
    output.waiting(CallStatus(call_id="fc-1", state="queued", detail="waiting for an H100"))
    assert "train: waiting for an H100 · 0 s" in terminal.getvalue()
    assert outputs.STATUS_EVERY == output.poll
    output.waiting(CallStatus(call_id="fc-1", state="running"))
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert None is output.poll


def test_where_nobody_looks_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with skylift.enable_output():
        output = Output("train")
    output.waiting(None)
    output.began(None)
    assert "" == sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_displays_have_a_text_form_outside_of_notebooks(capsys: pytest.CaptureFixture[str]) -> None:
    bundle = {"data": {"text/plain": "<Figure>", "image/png": "…"}, "metadata": {}}
    with skylift.enable_output():
        output = Output("f")
        output.event(Event("display", {}, json.dumps(bundle).encode()))
        output.event(Event("clear", {"wait": False}))
    assert "<Figure>\n" == capsys.readouterr().out


def test_a_notebook_line_ends_as_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Shell:
        kernel = object()

    class Handle:
        def update(self, bundle: dict[str, str], raw: bool) -> None:
            shown.append(bundle["text/plain"])

    def display(bundle: dict[str, str], raw: bool, display_id: bool) -> Handle:
        shown.append(bundle["text/plain"])
        return Handle()

    monkeypatch.setattr(outputs, "ipython", Shell)
    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(outputs, "output_enabled", lambda: True)
    output = Output("train")
    output.waiting(None)
    output.waiting(CallStatus(call_id="fc-1", state="queued", detail="starting a container"))
    info = ContainerInfo(
        container_id="co-1",
        host_id="ho-1",
        state="ready",
        app="a",
        function="train",
        gpu="H100",
        path="cold",
        path_seconds=1.25,
    )
    output.began(CallStatus(call_id="fc-1", state="running", container=info))
    assert ["train: queued · 0 s", "train: starting a container · 0 s"] == shown[:2]
    assert "train: started after 0.0 s on H100 (cold in 1.2 s)" == shown[2]


def test_where_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert skylift.is_local()
    assert None is skylift.current_input_id()
    assert not context.in_notebook()
    monkeypatch.setenv("SKYLIFT_SOCKET", "/run/skylift/runner.sock")
    assert not skylift.is_local()
    assert context.output_enabled()
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert context.in_notebook()
    with pytest.raises(skylift.exceptions.InvalidError, match=r"skylift\.interact is not built yet"):
        skylift.interact()
