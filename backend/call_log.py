"""The log of calls: their rows, their output, containers, functions and hosts, as they go to the database.

Rows of calls and containers are written behind: an object is marked as changed and written once per
transaction, as it is then. Output is written as it comes. `on_logged` is told what has been committed.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from skylift.backend import schema
from skylift.backend.calls import Call, Function
from skylift.backend.costs import SpendKey, day_of
from skylift.backend.database import Database
from skylift.backend.pools import Container, Host
from skylift.backend.statements import Row, upsert
from skylift.backend.usage_history import encode_samples
from skylift.wire import Events, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skylift.backend.sleeping import Sleeping

MERGED_BYTES = 256 * 1024
"""Frames of one call that are committed together become one row of about this size."""

SPEND_SECONDS = 60.0
"""How often what running containers cost goes to the table of spend."""

_encode = msgspec.msgpack.Encoder().encode


class Logged(msgspec.Struct, frozen=True):
    """What of a call a transaction has brought to the log."""

    call: Call
    seq: int
    """Events below this are there."""
    total: int
    """Their cost."""
    over: bool
    """So is how it ended."""


class CallLog:
    """Writes what happens to the database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.on_logged: Callable[[list[Logged]], None] = lambda logged: None
        self.on_changes: Callable[[Iterable[Call], Iterable[Container]], None] | None = None
        """Told what is about to be written, while somebody watches."""
        self._changed: dict[str, Call] = {}
        self._containers: dict[str, Container] = {}
        self._with_output: dict[str, Call] = {}
        dialect = database.engine.dialect
        self._calls_statement = upsert(schema.calls, dialect)
        self._containers_statement = upsert(schema.containers, dialect)
        self._functions_statement = upsert(schema.functions, dialect)
        self._sessions_statement = upsert(schema.sessions, dialect)
        self._hosts_statement = upsert(schema.hosts, dialect)
        self._spend_statement = upsert(
            schema.spend, dialect, add=("seconds", "cost", "idle_seconds", "idle_cost", "calls")
        )
        self._sleeping_statement = upsert(schema.sleeping_sessions, dialect)
        self._nested_statement = upsert(schema.nested_calls, dialect)
        self._usage_statement = upsert(schema.call_usage, dialect)
        self._output_statement = upsert(schema.output, dialect, merge=merge_output)
        database.collectors.append(self._collect)

    # --- what happens ------------------------------------------------------------------------------

    def changed(self, call: Call) -> None:
        """The call's row is to be written."""
        if not self._changed:
            self.database.touch()
        self._changed[call.call_id] = call

    def output(self, call: Call, frame: Events) -> None:
        """A frame of the call's events is to be written."""
        self.database.write(
            self._output_statement,
            (call.call_id, frame.seq, frame.count, frame.cost, frame.body, frame.done),
            len(frame.body),
        )
        self._with_output[call.call_id] = call

    def durable(self, call: Call, done: Callable[[Problem | None], None]) -> None:
        """Bring a call and its function to the disk now; see `Database.write_durable`."""
        writes = [(self._calls_statement, self._call_row(call))]
        if not call.function.saved:
            writes.insert(0, (self._functions_statement, _function_row(call.function)))
        self.database.write_durable(writes, done)

    def function(self, function: Function) -> None:
        """A function's code and spec are to be written, once."""
        if not function.saved:
            function.saved = True
            self.database.write(self._functions_statement, _function_row(function), len(function.code.data))

    def container(self, container: Container) -> None:
        """The container's row is to be written."""
        if not self._containers:
            self.database.touch()
        self._containers[container.container_id] = container

    def nested(self, call: Call, parent: Call) -> None:
        """A call was made by the code of another."""
        self.database.write(self._nested_statement, (call.call_id, parent.call_id))

    def usage(self, call: Call) -> None:
        """What the call has used is to be written."""
        if call.usage is not None:
            self.database.write(self._usage_statement, (call.call_id, encode_samples(call.usage.points())))

    def session(self, session_id: str, user: str, name: str, notebook: str) -> None:
        """A session was used."""
        self.database.write(self._sessions_statement, (session_id, user, name, notebook, time.time()))

    def sleeping(self, entry: Sleeping, state: Literal["asleep", "ended", "gone"]) -> None:
        """A session sleeps, or was given up, or does not sleep any more."""
        session = entry.session
        spec = session.spec
        row = (entry.pool_id, entry.user, spec.session, _encode(spec), _encode(session.snapshot))
        host_id = min(entry.hosts, default="")
        self.database.write(self._sleeping_statement, (*row, host_id, entry.since, session.problem, state))

    def host(self, host: Host) -> None:
        """A host has connected."""
        self.database.write(self._hosts_statement, (host.host_id, _encode(host.facts), time.time()))

    def spend(self, container: Container) -> None:
        """Charge what the container has cost since it was last charged for."""
        now = time.time()
        if container.busy_since:
            container.meter.busy += max(0.0, now - max(container.busy_since, container.meter.accrued))
        day = day_of(container.meter.accrued)
        seconds, cost, idle_seconds, idle_cost, calls = container.meter.read(now)
        container.cost += cost
        spec = container.pool.spec
        key = SpendKey(day, container.pool.user, container.notebook, f"{spec.app}.{spec.name}", container.gpu)
        self.database.write(self._spend_statement, (*key, seconds, cost, idle_seconds, idle_cost, calls))
        self.container(container)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call back when what happened up to now is in the log."""
        self.database.after_commit(callback)

    # --- rows --------------------------------------------------------------------------------------

    def _collect(self) -> None:
        if not (self._changed or self._containers or self._with_output):
            return
        write = self.database.write
        changed, self._changed = self._changed, {}
        for call in changed.values():
            write(self._calls_statement, self._call_row(call), len(call.args.data))
            if call.usage is not None and call.over:
                self.usage(call)
                call.usage = None
        containers, self._containers = self._containers, {}
        for container in containers.values():
            write(self._containers_statement, _container_row(container))
        touched, self._with_output = self._with_output, {}
        for call in changed.values():
            if call.over:
                touched[call.call_id] = call
        if touched:
            logged = [Logged(call, call.next_seq, call.total, call.over) for call in touched.values()]
            self.database.after_commit(lambda: self.on_logged(logged))
        if self.on_changes is not None:
            self.on_changes(changed.values(), containers.values())

    def _call_row(self, call: Call) -> Row:
        spec = call.function.spec
        inputs = call.inputs
        # Whatever may have to be given to a container once more, by a gateway that does not know it yet.
        keeps_args = not call.over and (call.durable or call.state == "queued")
        return (
            call.call_id,
            call.user,
            call.client_id,
            call.function.function_id,
            call.kind,
            call.state,
            spec.app,
            spec.name,
            spec.session,
            call.notebook,
            call.cell,
            call.summary,
            call.error,
            call.queued,
            call.started,
            call.first_output,
            call.ended,
            call.container_id,
            call.host_id,
            call.gpu,
            call.price,
            call.cost,
            call.peak_memory,
            call.durable,
            call.detached,
            inputs.received if inputs is not None else 0,
            inputs.total if inputs is not None else -1,
            inputs.done.count if inputs is not None else 0,
            call.next_seq,
            call.output_bytes,
            call.attempts,
            call.window,
            call.args.data if keeps_args else None,
            call.args.blob if keeps_args else "",
            call.args.size if keeps_args else 0,
        )


def _function_row(function: Function) -> Row:
    return (
        function.function_id,
        function.user,
        _encode(function.spec),
        function.code.data,
        function.code.blob,
        time.time(),
    )


def _container_row(container: Container) -> Row:
    info = container.info
    return (
        container.container_id,
        container.host_id,
        container.pool_id,
        container.pool.user,
        info.state,
        info.app,
        info.function,
        info.session,
        container.notebook,
        info.gpu,
        info.simulated,
        info.path,
        info.path_seconds,
        info.path_reason,
        container.started,
        container.ready,
        container.ended,
        container.exit_reason,
        container.reason,
        container.calls,
        container.price,
        container.cost,
        container.meter.accrued,
    )


# --- merging rows of output ------------------------------------------------------------------------


def merge_output(rows: list[Row]) -> list[Row]:
    """Make one row of a call's rows that follow each other, and encode the indexes of done inputs.

    A body is the msgpack of a list, so lists are joined by joining what follows their headers.
    """
    by_call: dict[str, list[Row]] = {}
    for row in rows:
        by_call.setdefault(row[0], []).append(row)
    merged: list[Row] = []
    for call_id, parts in by_call.items():
        group: list[Row] = []
        size = 0
        for part in parts:
            if group and (
                size + len(part[4]) > MERGED_BYTES or group[-1][1] + group[-1][2] != part[1] or not part[2]
            ):
                merged.append(_one_row(call_id, group))
                group, size = [], 0
            group.append(part)
            size += len(part[4])
        merged.append(_one_row(call_id, group))
    return merged


def _one_row(call_id: str, group: list[Row]) -> Row:
    if len(group) == 1:
        _, seq, count, cost, body, done = group[0]
        return call_id, seq, count, cost, body, _indexes(done)
    count = sum(row[2] for row in group)
    body = b"".join((_array_header(count), *(memoryview(row[4])[_header_length(row[4]) :] for row in group)))
    done = [index for row in group for index in _decoded(row[5])]
    return call_id, group[0][1], count, sum(row[3] for row in group), body, _indexes(done)


def _indexes(done: Any) -> bytes:
    if isinstance(done, bytes):
        return done
    return _encode(done) if done else b""


def _decoded(done: Any) -> Iterable[int]:
    return decode_done(done) if isinstance(done, bytes) else done


def decode_done(done: bytes) -> list[int]:
    """The indexes in a row's ``done``."""
    return msgspec.msgpack.decode(done, type=list[int]) if done else []


def _array_header(count: int) -> bytes:
    if count < 16:
        return bytes([0x90 | count])
    if count < 65536:
        return struct.pack(">BH", 0xDC, count)
    return struct.pack(">BI", 0xDD, count)


def _header_length(body: bytes) -> int:
    first = body[0]
    return 1 if first & 0xF0 == 0x90 else 3 if first == 0xDC else 5
