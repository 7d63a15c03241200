"""Which calls a call has made: what `FunctionCall.get_call_graph` returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class InputStatus(IntEnum):
    """How a call ended; ``PENDING`` while it has not."""

    PENDING = 0
    SUCCESS = 1
    FAILURE = 2
    TERMINATED = 3
    TIMEOUT = 4


@dataclass
class InputInfo:
    """A call, and the calls that its code made."""

    input_id: str
    function_call_id: str
    task_id: str
    """The container that it ran in; "" before it ran."""
    status: InputStatus
    function_name: str
    app_name: str
    children: list[InputInfo] = field(default_factory=list)


_STATUS = {
    "done": InputStatus.SUCCESS,
    "failed": InputStatus.FAILURE,
    "cancelled": InputStatus.TERMINATED,
    "timeout": InputStatus.TIMEOUT,
}


def call_graph(nodes: Iterable[dict[str, Any]]) -> list[InputInfo]:
    """The tree of what ``/v1/calls/{id}/graph`` lists: the calls that have no parent in it."""
    found: dict[str, InputInfo] = {}
    parents: dict[str, str] = {}
    for node in nodes:
        call = node["call"]
        parents[call["call_id"]] = node["parent"]
        found[call["call_id"]] = InputInfo(
            input_id=call["call_id"],
            function_call_id=call["call_id"],
            task_id=call["container_id"],
            status=_STATUS.get(call["state"], InputStatus.PENDING),
            function_name=call["function"],
            app_name=call["app"],
        )
    roots: list[InputInfo] = []
    for call_id, info in found.items():
        parent = found.get(parents[call_id])
        (parent.children if parent is not None else roots).append(info)
    return roots
