"""A session for the fake gateway: cells are executed in a dict."""

from __future__ import annotations

import ast
import json
import pickle
from typing import TYPE_CHECKING, Any

from sdk_gateway import dumps, pickles_and_header

if TYPE_CHECKING:
    from sdk_gateway import FakeCall, FakeControl


def run_cell(control: FakeControl, call: FakeCall, namespace: dict[str, Any]) -> None:
    """Carries out one envelope in a session's namespace."""
    header, pickles = pickles_and_header(control.bytes_of(call.submit.args))
    refs: dict[str, Any] = namespace.setdefault("__refs__", {})
    operation = header["op"]
    if operation == "get":
        control.emit_value(call, "result", {}, refs[header["ref"]])
        return
    if operation == "names":
        listed = [
            {"name": name, **_described(refs, value, "")}
            for name, value in namespace.items()
            if not name.startswith("__")
        ]
        control.emit(call, "result", {}, json.dumps(listed).encode())
        return
    for ref_id in header.get("drop", []):
        refs.pop(ref_id, None)
    missing = [name for name in header.get("have", []) if name not in namespace]
    if missing:
        control.emit(call, "names", {"names": {}, "missing": missing})
        return
    position = 0
    for name, entry in header.get("send", {}).items():
        if "ref" in entry:
            namespace[name] = refs[entry["ref"]]
        else:
            namespace[name] = pickle.loads(pickles[position : position + entry["length"]])
            position += entry["length"]
    if operation == "put":
        return
    namespace["print"] = lambda *values: control.emit(
        call, "output", {"stream": "stdout"}, (" ".join(map(str, values)) + "\n").encode()
    )
    exec(compile(ast.parse(header["code"]), header["filename"], "exec"), namespace)
    entries: dict[str, Any] = {}
    parts: list[bytes] = []
    for name in header["assigned"]:
        if name not in namespace:
            entries[name] = {"gone": True}
            continue
        try:
            data = dumps(namespace[name])
        except Exception as error:
            entries[name] = {"ref": _described(refs, namespace[name], f"unpicklable: {error}")}
            continue
        if len(data) > header["limit"]:
            entries[name] = {"ref": _described(refs, namespace[name], "size")}
            continue
        entries[name] = {"length": len(data)}
        parts.append(data)
    if entries:
        control.emit(call, "names", {"names": entries}, b"".join(parts))


def _described(refs: dict[str, Any], value: Any, why: str) -> dict[str, Any]:
    ref_id = next((known for known in refs if refs[known] is value), f"rf-{len(refs) + 1}")
    refs[ref_id] = value
    kind = type(value)
    described = {"id": ref_id, "type": kind.__qualname__, "module": kind.__module__, "why": why}
    if hasattr(value, "shape"):
        described.update(shape=list(value.shape), dtype=str(value.dtype), nbytes=value.nbytes)
    return {**described, "repr": repr(value)[:200]}
