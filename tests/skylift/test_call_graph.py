"""Trees of calls, from what the gateway lists."""

from __future__ import annotations

from typing import Any

from skylift.call_graph import InputStatus, call_graph


def node(call_id: str, parent: str = "", state: str = "done") -> dict[str, Any]:
    call = {"call_id": call_id, "container_id": f"co-of-{call_id}", "state": state}
    return {"call": {**call, "function": "f", "app": "a"}, "parent": parent}


def test_nothing() -> None:
    assert [] == call_graph([])


def test_children_stand_in_their_parents_in_whatever_order_they_come() -> None:
    nodes = [node("root"), node("d", "b"), node("a", "root"), node("b", "root"), node("c", "a")]
    (root,) = call_graph(nodes)
    assert ["a", "b"] == [child.function_call_id for child in root.children]
    assert [["c"], ["d"]] == [[each.input_id for each in child.children] for child in root.children]
    assert ("co-of-root", "f", "a") == (root.task_id, root.function_name, root.app_name)


def test_states() -> None:
    states = ["queued", "running", "done", "failed", "cancelled", "timeout"]
    found = call_graph([node(state, state=state) for state in states])
    assert [
        InputStatus.PENDING,
        InputStatus.PENDING,
        InputStatus.SUCCESS,
        InputStatus.FAILURE,
        InputStatus.TERMINATED,
        InputStatus.TIMEOUT,
    ] == [each.status for each in found]
