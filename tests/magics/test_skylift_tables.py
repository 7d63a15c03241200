"""``%skylift sessions``: rows of what the gateway answers."""

from __future__ import annotations

from typing import Any

import pytest

from skylift.magics import skylift_magic

SESSION = {
    "session_id": "se-1",
    "name": "train",
    "notebook": "a.ipynb",
    "state": "running",
    "detail": "",
    "gpu": "H100",
    "container": {"simulated": True},
    "ends_at": 0.0,
    "kept": "",
    "idle_policy": "sleep",
    "since": 0.0,
    "size": 0,
    "problem": "",
}


def test_the_sessions_of_all_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {**SESSION, "name": "", "gpu": "", "container": None, "state": "waiting", "detail": "no room"}

    def fetch(path: str, **query: Any) -> Any:
        assert "/v1/sessions" == path
        return [SESSION, plain]

    monkeypatch.setattr(skylift_magic, "fetch", fetch)
    table = skylift_magic.sessions()
    assert ["train", "a.ipynb", "H100 (simulated)", "running"] == table.rows[0][:4]
    assert ["se-1", "a.ipynb", "cpu"] == table.rows[1][:3]
    assert "no room" in table.rows[1][3]
