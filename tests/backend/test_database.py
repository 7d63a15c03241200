"""The writer: group commit, durable writes, and what happens when the disk does not take them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from control_harness import Accepted, Plane, Refused
from sqlalchemy import Connection, event, select

from skylift.backend.database import Database, DatabaseError
from skylift.backend.log_reader import LogReader
from skylift.backend.schema import SCHEMA_VERSION, meta, metadata
from skylift.backend.statements import Row, upsert
from skylift.wire import Problem

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "skylift.db", backlog_limit=10_000, retry_seconds=0.02)
    await database.open()
    yield database
    await database.close()


def rows(connection: Connection) -> dict[str, str]:
    found = connection.execute(select(meta.c.key, meta.c.value)).all()
    return {key: value for key, value in found if key != "schema"}  # noqa: C416, RUF100


class Disk:
    """Makes the database's file refuse to grow, as a full disk does."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.full = False
        event.listen(database.engine, "connect", self._limit)

    def _limit(self, connection: sqlite3.Connection, _record: object) -> None:
        if self.full:
            connection.execute("PRAGMA max_page_count = 1")

    async def fill(self) -> None:
        self.full = True
        await self._reconnect()

    async def free(self) -> None:
        self.full = False
        await self._reconnect()

    async def _reconnect(self) -> None:
        self.database.engine.dispose()
        # The writer has a connection of its own, which it makes anew after a failure.
        await self.database.maintain(lambda connection: connection.exec_driver_sql(self._pragma()))

    def _pragma(self) -> str:
        return f"PRAGMA max_page_count = {1 if self.full else 1_000_000_000}"


async def test_rows_are_written_in_one_transaction_a_little_later(database: Database) -> None:
    put = upsert(meta, database.engine.dialect)
    committed = asyncio.Event()
    for number in range(100):
        database.write(put, (f"k{number}", "v"))
    database.after_commit(committed.set)
    assert {} == await database.read(rows)
    await asyncio.wait_for(committed.wait(), 10)
    assert 100 == len(await database.read(rows))


async def test_a_row_is_replaced_by_a_later_one(database: Database) -> None:
    put = upsert(meta, database.engine.dialect)
    database.write(put, ("k", "1"))
    database.write(put, ("k", "2"))
    await database.flush()
    assert {"k": "2"} == await database.read(rows)


async def test_collectors_add_their_rows_just_before_a_transaction(database: Database) -> None:
    put = upsert(meta, database.engine.dialect)
    state = {"value": "old"}
    database.collectors.append(lambda: database.write(put, ("k", state["value"])))
    database.touch()
    state["value"] = "new"
    await database.flush()
    assert {"k": "new"} == await database.read(rows)


async def test_a_durable_write_says_when_it_is_on_disk(database: Database) -> None:
    put = upsert(meta, database.engine.dialect)
    done: asyncio.Future[Problem | None] = asyncio.get_running_loop().create_future()
    database.write_durable([(put, ("k", "v"))], done.set_result)
    assert await asyncio.wait_for(done, 10) is None
    assert {"k": "v"} == await database.read(rows)


async def test_a_full_disk_refuses_durable_writes_and_keeps_the_others(database: Database) -> None:
    put = upsert(meta, database.engine.dialect)
    disk = Disk(database)
    await disk.fill()
    outcomes: list[Problem | None] = []
    news = asyncio.Event()

    def done(problem: Problem | None) -> None:
        outcomes.append(problem)
        news.set()

    for number in range(20):
        database.write(put, (f"k{number}", "v" * 4000))
    database.write_durable([(put, ("durable", "v" * 40_000))], done)
    await asyncio.wait_for(news.wait(), 10)
    (problem,) = outcomes
    assert problem is not None
    assert ("ResourceExhaustedError", problem) == (problem.error, database.problem)
    assert (
        f"The gateway cannot write to {database.path}: the disk is full. Free some space there; until then, "
        "calls that must be on disk before they are accepted (spawn) are refused." == problem.message
    )
    news.clear()
    database.write_durable([(put, ("another", "v"))], done)
    await asyncio.wait_for(news.wait(), 10)
    assert outcomes[1] == problem
    assert {} == await database.read(rows)

    committed = asyncio.Event()
    database.after_commit(committed.set)
    await disk.free()
    await asyncio.wait_for(committed.wait(), 10)
    assert {f"k{number}" for number in range(20)} == set(await database.read(rows))
    assert database.problem is None


async def test_too_long_a_backlog_is_congestion_until_it_has_drained(database: Database) -> None:
    put = upsert(meta, database.engine.dialect)
    disk = Disk(database)
    await disk.fill()
    drained = asyncio.Event()
    database.drained.append(drained.set)
    for number in range(20):
        database.write(put, (f"k{number}", "v" * 4000), 4000)
    await database.flush()
    assert database.congested
    assert database.backlog > 10_000
    await disk.free()
    await asyncio.wait_for(drained.wait(), 10)
    assert not database.congested
    assert 0 == database.backlog


async def test_a_row_that_can_never_be_written_does_not_hold_up_the_others(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    put = upsert(meta, database.engine.dialect)
    bad: Row = ("bad", None)
    database.write(put, ("a", "1"))
    database.write(put, bad)
    database.write(put, ("b", "2"))
    refused: list[Problem | None] = []
    database.write_durable([(put, ("worse", None))], refused.append)
    await database.flush()
    assert {"a": "1", "b": "2"} == await database.read(rows)
    assert "NOT NULL constraint failed: meta.value" in caplog.text
    (problem,) = refused
    assert problem is not None
    assert "InternalFailure" == problem.error


async def test_a_database_that_another_program_has_locked_is_said_to_be(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = upsert(meta, database.engine.dialect)
    await database.maintain(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout = 10"))
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    done: asyncio.Future[Problem | None] = asyncio.get_running_loop().create_future()
    database.write_durable([(put, ("k", "v"))], done.set_result)
    problem = await asyncio.wait_for(done, 10)
    other.execute("ROLLBACK")
    other.close()
    assert problem is not None
    assert "another program holds it locked" in problem.message
    database.write(put, ("later", "v"))
    await database.flush()
    assert {"later": "v"} == await database.read(rows)


async def test_a_database_of_version_1_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "skylift.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((Path(__file__).parent / "schema_1.sql").read_text())
    connection.close()
    for _ in range(2):
        database = Database(path)
        await database.open()
        assert {"se-00000001": "nb.ipynb"} == await LogReader(database).session_notebooks()
        assert [] == await LogReader(database).sleeping_sessions()
        await database.close()
    with sqlite3.connect(path) as connection:
        assert [(str(SCHEMA_VERSION),)] == connection.execute(
            "SELECT value FROM meta WHERE key = 'schema'"
        ).fetchall()
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert set(metadata.tables) == tables


async def test_a_newer_database_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "skylift.db"
    first = Database(path)
    await first.open()
    await first.maintain(lambda connection: connection.exec_driver_sql("UPDATE meta SET value = '99'"))
    await first.close()
    with pytest.raises(DatabaseError) as raised:
        await Database(path).open()
    assert (
        f"{path} was written by a newer Skylift (schema 99, this one knows {SCHEMA_VERSION}). Upgrade "
        "Skylift, or move the file away to start without its history." == str(raised.value)
    )


async def test_what_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "skylift.db"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(DatabaseError, match=r"is damaged or no database .*Move it away"):
        await Database(path).open()


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "skylift.db"
    with pytest.raises(
        DatabaseError, match=r"missing/skylift\.db for writing .*Check that its folder exists"
    ):
        await Database(path).open()


async def test_work_between_transactions_raises_what_is_wrong_with_it(database: Database) -> None:
    with pytest.raises(DatabaseError, match="no such table: nowhere"):
        await database.maintain(lambda connection: connection.exec_driver_sql("DELETE FROM nowhere"))


async def test_closing_writes_what_is_pending(tmp_path: Path) -> None:
    path = tmp_path / "skylift.db"
    first = Database(path)
    await first.open()
    first.write(upsert(meta, first.engine.dialect), ("k", "v"))
    await first.close()
    second = Database(path)
    await second.open()
    assert {"k": "v"} == await second.read(rows)
    await second.close()


# --- seen from the control plane ---------------------------------------------------------------------


async def test_a_full_disk_refuses_spawn_and_runs_calls_all_the_same(plane: Plane) -> None:
    host, client = plane.host(), plane.client()
    function_id = client.define()
    await host.run(client.submit(function_id))
    await plane.settle()
    disk = Disk(plane.database)
    await disk.fill()
    spawned = client.submit(function_id, durable=True, detached=True, summary="x" * 10_000)
    refused = await client.one(Refused, call_id=spawned)
    assert "ResourceExhaustedError" == refused.problem.error
    assert "the disk is full" in refused.problem.message
    plain = client.submit(function_id)
    await client.one(Accepted, call_id=plain)
    await host.run(plain)
    host.finish(plain)
    assert "done" == (await client.ended(plain)).state
    await disk.free()
    again = client.submit(function_id, durable=True, detached=True)
    await client.one(Accepted, call_id=again)
