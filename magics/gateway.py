"""What the gateway answers over REST (docs/protocol.md): the JSON of `skylift.backend.views`."""

from __future__ import annotations

from typing import Any

from skylift.gateway_process import find_gateway
from skylift.http import Http
from skylift.wire import FINAL_STATES


def fetch(path: str, **query: str | int) -> Any:
    """The answer to ``GET path``, from the gateway that the notebook uses (started if need be).

    Raises the errors of `find_gateway` and `Http.get`.
    """
    return Http(find_gateway()).get(path, **query)


def end_session(session_id: str) -> None:
    """Ends a session, and returns when the gateway has heard it. Raises where no gateway runs: none is
    started for that."""
    Http(find_gateway(start=False)).delete(f"/v1/sessions/{session_id}")


def is_running(call_id: str) -> bool:
    """Whether a call has not ended yet. Raises as `fetch`."""
    return fetch(f"/v1/calls/{call_id}")["call"]["state"] not in FINAL_STATES
