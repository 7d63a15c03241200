"""What the log says: calls that were not over, a call's output from an event on."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, RowMapping, delete, func, literal, select

from skylift.backend.call_log import decode_done
from skylift.backend.database import Database
from skylift.backend.maps import IndexSet
from skylift.backend.schema import (
    call_usage,
    calls,
    containers,
    functions,
    nested_calls,
    output,
    sessions,
    sleeping_sessions,
)
from skylift.wire import FINAL_STATES, FunctionSpec, SleepingSession, SnapshotRef

PAGE_ROWS = 16
PAGE_BYTES = 512 * 1024
DELETED_AT_ONCE = 200
"""Calls that one transaction of the retention deletes."""


class Chunk(NamedTuple):
    """A row of a call's output: so many events, from `seq` on."""

    seq: int
    events: int
    cost: int
    body: bytes
    done: tuple[int, ...]


class Tail(NamedTuple):
    """How far the log has come with a call."""

    seq: int
    """The event after its last one."""
    total: int
    """Cost of the events below that."""


class StoredFunction(NamedTuple):
    """A function as the log has it."""

    function_id: str
    user: str
    spec: FunctionSpec
    code: bytes
    code_blob: str


class StoredSleep(NamedTuple):
    """A session that sleeps, as the log has it."""

    session: SleepingSession
    user: str
    host_id: str
    since: float
    ended: bool
    """It was given up, and its host may not have been told."""


class LogReader:
    """Reads in threads; what was written a moment ago may not be there yet (see `Database.flush`)."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def output(self, call_id: str, from_seq: int, limit: int = PAGE_BYTES) -> list[Chunk]:
        """Rows of output, the first of which has or follows event `from_seq`; about `limit` bytes of them."""
        return await self.database.read(lambda connection: read_output(connection, call_id, from_seq, limit))

    async def call(self, call_id: str) -> RowMapping | None:
        """A call's row."""
        return await self.database.read(
            lambda connection: (
                connection.execute(select(calls).where(calls.c.call_id == call_id)).mappings().first()
            )
        )

    async def calls(self, call_ids: list[str]) -> dict[str, RowMapping]:
        """The rows of those calls that the log has."""

        def query(connection: Connection) -> dict[str, RowMapping]:
            rows = connection.execute(select(calls).where(calls.c.call_id.in_(call_ids))).mappings()
            return {row["call_id"]: row for row in rows}

        return await self.database.read(query)

    async def graph(self, call_id: str, limit: int) -> list[RowMapping]:
        """The rows of a call and of the calls that its code made, and theirs in turn, each with its
        ``parent``; `limit` of them at most, the call itself first."""
        tree = select(literal(call_id).label("call_id"), literal("").label("parent")).cte(recursive=True)
        made = select(nested_calls.c.call_id, nested_calls.c.parent)
        tree = tree.union(made.join(tree, nested_calls.c.parent == tree.c.call_id))
        query = (
            select(calls, tree.c.parent)
            .join(tree, calls.c.call_id == tree.c.call_id)
            .order_by(tree.c.parent != "", calls.c.call_id)
            .limit(limit)
        )
        return await self.database.read(lambda connection: list(connection.execute(query).mappings()))

    async def unfinished(self) -> list[RowMapping]:
        """Rows of the calls that were not over when the gateway ended, in the order in which they came."""
        query = select(calls).where(calls.c.state.not_in(sorted(FINAL_STATES))).order_by(calls.c.queued)
        return await self.database.read(lambda connection: list(connection.execute(query).mappings()))

    async def running_containers(self) -> list[RowMapping]:
        """Rows of the containers that were up when the gateway ended."""
        query = select(containers).where(containers.c.state != "exited")
        return await self.database.read(lambda connection: list(connection.execute(query).mappings()))

    async def function(self, function_id: str) -> StoredFunction | None:
        """A function's code and spec. None too where they are of a version that cannot be read any more."""
        query = select(functions).where(functions.c.function_id == function_id)
        row = await self.database.read(lambda connection: connection.execute(query).mappings().first())
        if row is None:
            return None
        try:
            spec = msgspec.msgpack.decode(row["spec"], type=FunctionSpec)
        except msgspec.DecodeError:
            return None
        return StoredFunction(row["function_id"], row["user"], spec, row["code"], row["code_blob"])

    async def tail(self, call_id: str) -> Tail:
        """How far the log has come with a call."""
        query = select(func.max(output.c.seq + output.c.count), func.sum(output.c.cost)).where(
            output.c.call_id == call_id
        )
        seq, total = await self.database.read(lambda connection: connection.execute(query).one())
        return Tail(seq or 0, total or 0)

    async def usage(self, call_id: str) -> bytes:
        """A call's samples (see `usage_history`), or nothing."""
        query = select(call_usage.c.samples).where(call_usage.c.call_id == call_id)
        found: bytes | None = await self.database.read(lambda connection: connection.execute(query).scalar())
        return found or b""

    async def done(self, call_id: str) -> IndexSet:
        """The inputs of a map that have their result in the log."""

        def query(connection: Connection) -> IndexSet:
            found = IndexSet()
            rows = connection.execute(
                select(output.c.done).where(output.c.call_id == call_id).order_by(output.c.seq)
            )
            for (done,) in rows.yield_per(1000):
                for index in decode_done(done):
                    found.add(index)
            return found

        return await self.database.read(query)

    async def session_notebooks(self) -> dict[str, str]:
        """Which notebook a session belongs to."""
        query = select(sessions.c.session_id, sessions.c.notebook)
        rows = await self.database.read(lambda connection: list(connection.execute(query)))
        return {row.session_id: row.notebook for row in rows}

    async def sleeping_sessions(self) -> list[StoredSleep]:
        """The sessions that slept when the gateway ended; those are forgotten that do not sleep any more."""
        table = sleeping_sessions
        await self.database.maintain(_delete_woken)
        rows = await self.database.read(lambda connection: list(connection.execute(select(table))))
        found: list[StoredSleep] = []
        for row in rows:
            try:
                session = SleepingSession(
                    pool_id=row.pool_id,
                    spec=msgspec.msgpack.decode(row.spec, type=FunctionSpec),
                    snapshot=msgspec.msgpack.decode(row.snapshot, type=SnapshotRef),
                    problem=row.problem,
                )
            except msgspec.DecodeError:
                # Of a version that cannot be read any more. Its host says what it has.
                continue
            found.append(StoredSleep(session, row.user, row.host_id, row.since, row.state == "ended"))
        return found

    async def forget(self, before: float) -> int:
        """Delete calls that ended before a Unix time, with their output, and containers too. Returns how many
        calls."""
        gone = 0
        while True:
            query = (
                select(calls.c.call_id)
                .where(calls.c.ended > 0, calls.c.ended < before)
                .limit(DELETED_AT_ONCE)
            )
            old = await self.database.read(lambda connection: list(connection.execute(query).scalars()))  # noqa: B023
            if not old:
                break
            await self.database.maintain(lambda connection: _delete_calls(connection, old))  # noqa: B023
            gone += len(old)
        await self.database.maintain(lambda connection: _delete_containers(connection, before))
        return gone


def read_output(connection: Connection, call_id: str, from_seq: int, limit: int) -> list[Chunk]:
    """See `LogReader.output`."""
    first = connection.execute(
        select(func.max(output.c.seq)).where(output.c.call_id == call_id, output.c.seq <= from_seq)
    ).scalar()
    rows = connection.execute(
        select(output.c.seq, output.c.count, output.c.cost, output.c.body, output.c.done)
        .where(output.c.call_id == call_id, output.c.seq >= (first or 0))
        .order_by(output.c.seq)
        .limit(PAGE_ROWS)
    )
    chunks: list[Chunk] = []
    size = 0
    for seq, count, cost, body, done in rows:
        if seq + count <= from_seq:
            continue
        chunks.append(Chunk(seq, count, cost, body, tuple(decode_done(done))))
        size += len(body)
        if size >= limit:
            break
    return chunks


def _delete_calls(connection: Connection, call_ids: list[str]) -> None:
    connection.execute(delete(output).where(output.c.call_id.in_(call_ids)))
    connection.execute(delete(call_usage).where(call_usage.c.call_id.in_(call_ids)))
    connection.execute(delete(nested_calls).where(nested_calls.c.call_id.in_(call_ids)))
    connection.execute(delete(calls).where(calls.c.call_id.in_(call_ids)))


def _delete_woken(connection: Connection) -> None:
    connection.execute(delete(sleeping_sessions).where(sleeping_sessions.c.state == "gone"))


def _delete_containers(connection: Connection, before: float) -> None:
    connection.execute(delete(containers).where(containers.c.ended > 0, containers.c.ended < before))
