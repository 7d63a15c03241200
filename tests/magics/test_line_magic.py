"""``%gpu``: sessions that are asleep, put to sleep and woken, against a gateway that is not there."""

from __future__ import annotations

import time
from typing import Any

import pytest

from skylift.magics import follow, line_magic
from skylift.magics.options import parse_line
from skylift.magics.sessions import NotebookSession, NotebookSessions
from skylift.session import Slept


class Known:
    """A notebook with one session, and what the gateway says of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sessions = NotebookSessions()
        self.session: NotebookSession = self.sessions.for_cell(parse_line("H100 --name train"), {})
        self.sessions.keep(self.session)
        self.view: dict[str, Any] | None = None
        self.containers: list[dict[str, Any]] = []
        monkeypatch.setattr(line_magic, "fetch", self.fetch)
        monkeypatch.setattr(follow, "fetch", self.fetch)

    def fetch(self, path: str, **query: Any) -> Any:
        if path == "/v1/containers":
            return self.containers
        return [] if self.view is None else [self.view]

    def shows(self, **view: Any) -> list[str]:
        """The row of the session in the table."""
        defaults: dict[str, Any] = {
            "session_id": self.session.session.session_id,
            "state": "idle",
            "detail": "",
            "gpu": "",
            "container": None,
            "ends_at": 0.0,
            "kept": "",
            "idle_policy": "sleep",
            "since": 0.0,
            "size": 0,
            "problem": "",
        }
        self.view = {**defaults, **view}
        (row,) = line_magic.table(self.sessions).rows
        assert ["train", "H100"] == list(row[:2])
        return list(row[2:])


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Known:
    return Known(monkeypatch)


def test_a_sleeping_session_in_the_table(known: Known) -> None:
    local = time.localtime()
    since = time.mktime((local.tm_year, local.tm_mon, local.tm_mday, 0, 0, 0, 0, 0, -1))
    asleep = {"state": "asleep", "since": since, "size": 210_000_000}
    assert ["asleep since 00:00, 210 MB", "the next cell wakes it"] == known.shows(**asleep)
    assert (
        "asleep since 00:00, 210 MB; could not be woken: no room"
        == known.shows(**asleep, problem="no room")[0]
    )


def test_what_becomes_of_an_idle_session_in_the_table(known: Known) -> None:
    soon = time.time() + 300.4
    assert ["idle", "sleeps in 5 min 00 s if nothing runs"] == known.shows(ends_at=soon)
    assert "ends in 5 min 00 s if nothing runs" == known.shows(ends_at=soon, idle_policy="stop")[1]
    why = "cannot sleep: it has an open connection to 10.0.0.5:443"
    assert ["idle", why] == known.shows(kept=why)
    assert ["falling asleep", ""] == known.shows(state="falling asleep")


@pytest.mark.parametrize(
    ("slept", "line"),
    [
        (
            Slept(0.8, 210_000_000, 600_000_000),
            "Session train sleeps: 210 MB in 0.80 s. The next cell wakes it.",
        ),
        (
            Slept(0.0, 210_000_000, 600_000_000),
            "Session train sleeps: 210 MB already. The next cell wakes it.",
        ),
    ],
)
def test_sleeping(
    known: Known,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    slept: Slept,
    line: str,
) -> None:
    monkeypatch.setattr(known.session.session, "sleep", lambda: slept)
    line_magic.run(None, known.sessions, "sleep train")
    assert f"{line}\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (0.24, "Session train is awake: restored in 0.24 s."),
        (0.0, "Session train is awake: it was already."),
    ],
)
def test_waking(
    known: Known,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: float,
    line: str,
) -> None:
    monkeypatch.setattr(known.session.session, "wake", lambda: seconds)
    line_magic.run(None, known.sessions, "wake")
    assert f"{line}\n" == capsys.readouterr().out


def test_a_session_that_has_slept_has_lost_nothing(known: Known) -> None:
    known.containers = [
        {"container_id": "co-2", "reason": "waking session train on H100", "exit_reason": ""},
        {"container_id": "co-1", "reason": "", "exit_reason": "it was put to sleep: idle for 600 s"},
    ]
    assert "" == follow._what_became_of("co-1", "co-2")
    known.containers[0]["reason"] = "the session's container on H100"
    known.containers[1]["exit_reason"] = "out of memory. It used 4 GB"
    assert (
        "The session's earlier container has ended (out of memory); what lived only there is gone."
        == follow._what_became_of("co-1", "co-2")
    )
