"""Notebook cells: the operations on a session (docs/protocol.md, "The envelope of a notebook cell")."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

from . import pickling
from .aio import EventLoop
from .cancel import Guard
from .capture import Capture
from .functions import described, finish_failed, lasting
from .pickling import RunnerError, type_name
from .references import NotSent, References, pickle_whole, pickle_within, why_not
from .stream import Stream

if TYPE_CHECKING:
    from .link import Header
    from .shell import CellShell

_DEFAULT_LIMIT = 1024 * 1024
_IPYTHONS_OWN = re.compile(r"__.*|_+|_i+|_i?\d+|_[iod]h")


class Cells:
    """The session that this container is."""

    def __init__(self, guard: Guard, loop: EventLoop, capture: Capture) -> None:
        self._guard = guard
        self._loop = loop
        self._capture = capture
        self._references = References()
        self._shell: CellShell | None = None
        self._outcome: tuple[str, str] | None = None
        """State and summary of the cell that runs, once an exception has ended it."""

    def run(self, header: Header, payload: bytes | memoryview, stream: Stream) -> None:
        """One envelope, from its arrival to its end."""
        guard = self._guard
        early = guard.begin(header["call"])
        self._outcome = None
        events: list[tuple[str, str, bytes]] = []
        try:
            if early is None:
                events = self._operate(payload)
                guard.active = False
        except BaseException as error:
            guard.active = False
            if self._outcome is None:
                self._report(error)
        if self._outcome is None and (early is not None or lasting(guard.delivered)):
            finish_failed(stream, guard.delivered, None)
        else:
            stream.finish(*(self._outcome or ("done", "")), last=events)

    def _operate(self, payload: bytes | memoryview) -> list[tuple[str, str, bytes]]:
        length = int.from_bytes(payload[:4], "big")
        envelope: Header = json.loads(bytes(payload[4 : 4 + length]))
        pickles = memoryview(payload)[4 + length :]
        self._guard.active = True
        operation = envelope["op"]
        if operation == "run":
            return self._run(envelope, pickles)
        if operation == "put":
            self._bind(envelope.get("send", {}), pickles)
            return []
        if operation == "get":
            return [("result", "{}", self._get(envelope["ref"]))]
        if operation == "names":
            return [("result", "{}", json.dumps(self._names()).encode())]
        raise RunnerError("InvalidError", f"a session does not know the operation {operation!r}")

    # --- names -----------------------------------------------------------------------------------

    @property
    def _namespace(self) -> dict[str, Any]:
        return vars(sys.modules["__main__"])

    def _bind(self, send: Header, pickles: memoryview) -> None:
        """Binds what was sent, all of it or nothing."""
        values: dict[str, Any] = {}
        position = 0
        for name, entry in send.items():
            if "ref" in entry:
                values[name] = self._referred(entry["ref"], name)
            else:
                data = pickles[position : position + entry["length"]]
                position += entry["length"]
                values[name] = pickling.loads(data, f"the variable {name}")
        self._namespace.update(values)

    def _referred(self, ref_id: str, name: str = "") -> Any:
        if ref_id not in self._references:
            what = f"{name} stands for a value that" if name else "this reference is to a value that"
            raise RunnerError(
                "NotFoundError",
                f"{what} the session no longer holds: its container was started anew, or the value was let "
                "go. Run the cell that makes it again.",
            )
        return self._references[ref_id]

    def _get(self, ref_id: str) -> bytes:
        value = self._referred(ref_id)
        try:
            return pickle_whole(value)
        except Exception as error:
            raise RunnerError(
                "SerializationError",
                f"the value of type {type_name(value)} cannot be sent: {why_not(value, error)}. It works on "
                "in the session's cells: bring what you need of it.",
            ) from error

    def _names(self) -> list[Header]:
        hidden = {} if self._shell is None else self._shell.user_ns_hidden
        return [
            {"name": name, **self._references.describe(value, "")}
            for name, value in self._namespace.items()
            if not _IPYTHONS_OWN.fullmatch(name) and not (name in hidden and hidden[name] is value)
        ]

    def _assigned(self, envelope: Header) -> list[tuple[str, str, bytes]]:
        """The names that a cell assigned, as one event."""
        namespace = self._namespace
        limit = envelope.get("limit", _DEFAULT_LIMIT)
        entries: dict[str, Any] = {}
        pickles: list[bytes] = []
        for name in envelope.get("assigned", ()):
            if name not in namespace:
                entries[name] = {"gone": True}
                continue
            value = namespace[name]
            try:
                data = pickle_within(value, limit)
            except NotSent as kept:
                entries[name] = {"ref": self._references.describe(value, kept.why)}
            else:
                entries[name] = {"length": len(data)}
                pickles.append(data)
        return [("names", json.dumps({"names": entries}), b"".join(pickles))] if entries else []

    # --- running ---------------------------------------------------------------------------------

    def _run(self, envelope: Header, pickles: memoryview) -> list[tuple[str, str, bytes]]:
        for ref_id in envelope.get("drop", ()):
            self._references.drop(ref_id)
        missing = [name for name in envelope.get("have", ()) if name not in self._namespace]
        if missing:
            return [("names", json.dumps({"names": {}, "missing": missing}), b"")]
        self._bind(envelope.get("send", {}), pickles)
        self._guard.active = False
        if self._shell is None:
            from .shell import make_shell

            self._shell = make_shell(self._capture, self._guard, self._loop, self._report)
        self._shell.begin_cell(
            envelope.get("filename", ""), envelope.get("first_line", 1), envelope.get("execution_count", 0)
        )
        if self._shell.run(envelope["code"], silent=bool(envelope.get("silent"))):
            self._outcome = None
        self._guard.active = True
        return self._assigned(envelope)

    def _report(self, error: BaseException) -> None:
        """Shows what a cell raised."""
        active, self._guard.active = self._guard.active, False
        state, event = described(self._guard.delivered, error)
        self._outcome = (state, event.summary)
        stream = self._capture.stream
        if stream is not None:
            stream.add(*event.event(), wait=False)
        self._guard.active = active
