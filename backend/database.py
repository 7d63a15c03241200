"""The gateway's database: reads in threads, writes by one thread that commits in groups.

A write never blocks the event loop. Rows gather for `group_seconds`, and one transaction takes them all;
a durable write makes it start at once and waits for the disk. When the database cannot be written to (a
full disk, a lock that another program holds), durable writes are refused with the reason, and the other
rows are kept and tried again; `congested` says when so many have gathered that their source should be
held back.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, exc, insert, select

from skylift.backend.problems import BUSY_SECONDS, database_problem
from skylift.backend.schema import SCHEMA_VERSION, call_usage, meta, metadata, sleeping_sessions
from skylift.backend.statements import Row, Statement
from skylift.wire import Problem

T = TypeVar("T")

MIGRATIONS: dict[int, Callable[[Connection], None]] = {
    1: lambda connection: sleeping_sessions.create(connection, checkfirst=True),
    2: lambda connection: call_usage.create(connection, checkfirst=True),
}
"""From a version to the next one. New tables are there already when they are called."""

_WRONG_ROW = (exc.IntegrityError, exc.DataError, exc.ProgrammingError, exc.NotSupportedError)
"""It fails again however often it is tried."""

log = logging.getLogger(__name__)


class DatabaseError(Exception):
    """The database cannot be opened or used. The message names the file, why, and what to do."""


class _Durable:
    __slots__ = ("done", "writes")

    def __init__(
        self, writes: Sequence[tuple[Statement, Row]], done: Callable[[Problem | None], None]
    ) -> None:
        self.writes = writes
        self.done = done


class _Batch:
    """What one transaction writes."""

    __slots__ = ("committed", "durable", "rows", "size", "tried")

    def __init__(self) -> None:
        self.rows: dict[Statement, list[Row]] = {}
        self.durable: list[_Durable] = []
        self.committed: list[Callable[[], None]] = []
        self.tried: list[asyncio.Future[None]] = []
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self.rows or self.durable or self.committed or self.tried)


class _Task:
    __slots__ = ("done", "work")

    def __init__(self, work: Callable[[Connection], None], done: asyncio.Future[None]) -> None:
        self.work = work
        self.done = done


class Database:
    """SQLite through SQLAlchemy Core. Constructing it touches no file; `open` does."""

    def __init__(
        self,
        path: Path,
        *,
        backlog_limit: int = 64 * 1024 * 1024,
        group_seconds: float = 0.02,
        retry_seconds: float = 1.0,
    ) -> None:
        """`backlog_limit`: bytes that may wait before `congested` holds."""
        self.path = path
        self.engine: Engine = create_engine(
            f"sqlite:///{path}", connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}
        )
        event.listen(self.engine, "connect", _set_up_connection)
        self.collectors: list[Callable[[], None]] = []
        """Called on the event loop before a transaction is handed over, to add their rows with `write`."""
        self.drained: list[Callable[[], None]] = []
        """Called on the event loop when it is no longer congested."""
        self.problem: Problem | None = None
        """Why the last transaction failed, until one succeeds."""
        self.congested = False
        self._limit = backlog_limit
        self._group_seconds = group_seconds
        self._retry_seconds = retry_seconds
        self._pending = _Batch()
        self._failed: _Batch | None = None
        self._in_hand = 0
        self._busy = False
        self._urgent = False
        self._timer: asyncio.TimerHandle | None = None
        self._batches: queue.SimpleQueue[_Batch | _Task | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="skylift-read")

    # --- opening and closing ---------------------------------------------------------------------

    async def open(self) -> None:
        """Create or check the tables and start the writer. Raises `DatabaseError`."""
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(self._readers, self._prepare_file)
        self._thread = threading.Thread(target=self._write_batches, name="skylift-write", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Write what is pending, once more where it failed, and close the files."""
        if self._thread is None:
            return
        await self.flush()
        if self._timer is not None:
            self._timer.cancel()
        self._batches.put(None)
        await self._loop.run_in_executor(self._readers, self._thread.join)
        self._thread = None
        self._readers.shutdown()
        self.engine.dispose()

    def _prepare_file(self) -> None:
        try:
            with self.engine.begin() as connection:
                metadata.create_all(connection)
                found = connection.execute(select(meta.c.value).where(meta.c.key == "schema")).scalar()
                if found is None:
                    connection.execute(insert(meta).values(key="schema", value=str(SCHEMA_VERSION)))
                    return
                version = int(found)
                if version > SCHEMA_VERSION:
                    raise DatabaseError(
                        f"{self.path} was written by a newer Skylift (schema {version}, this one knows "
                        f"{SCHEMA_VERSION}). Upgrade Skylift, or move the file away to start without its "
                        "history."
                    )
                while version < SCHEMA_VERSION:
                    MIGRATIONS[version](connection)
                    version += 1
                connection.execute(meta.update().where(meta.c.key == "schema").values(value=str(version)))
        except (exc.DatabaseError, sqlite3.Error) as error:
            raise DatabaseError(database_problem(self.path, error).message) from error

    # --- writing ---------------------------------------------------------------------------------

    def write(self, statement: Statement, row: Row, size: int = 0) -> None:
        """Write a row with the next transaction. `size`: bytes of what is large in it, for `backlog`."""
        pending = self._pending
        rows = pending.rows.get(statement)
        if rows is None:
            pending.rows[statement] = [row]
        else:
            rows.append(row)
        pending.size += size + 200
        if self._timer is None and not self._busy:
            self.touch()

    def touch(self) -> None:
        """See to it that a transaction comes (a collector has something to add)."""
        if self._timer is None and not self._busy and self._thread is not None:
            delay = self._retry_seconds if self._failed is not None else self._group_seconds
            self._timer = self._loop.call_later(delay, self._hand_over)

    def write_durable(
        self, writes: Sequence[tuple[Statement, Row]], done: Callable[[Problem | None], None]
    ) -> None:
        """Write rows in a transaction that starts at once; `done` is called on the event loop when they are
        on the disk, or with the reason why they are not and will not be."""
        if self._failed is not None and self.problem is not None:
            self._loop.call_soon(done, self.problem)
            return
        self._pending.durable.append(_Durable(writes, done))
        self._hurry()

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call back on the event loop when what has been written up to now is committed."""
        self._pending.committed.append(callback)
        self.touch()

    def attempt(self) -> asyncio.Future[None]:
        """Start a transaction at once. The future is done when what has been written up to now is
        committed, or could not be for now."""
        tried: asyncio.Future[None] = self._loop.create_future()
        self._pending.tried.append(tried)
        self._hurry()
        return tried

    async def flush(self) -> None:
        """Wait for an `attempt`; do nothing when it is not open."""
        if self._thread is not None:
            await self.attempt()

    @property
    def backlog(self) -> int:
        """Bytes that wait to be written."""
        return self._pending.size + self._in_hand + (self._failed.size if self._failed else 0)

    def _hurry(self) -> None:
        self._urgent = True
        if self._busy or self._thread is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        # In the next turn, so that durable writes of this turn share a transaction.
        self._timer = self._loop.call_later(0, self._hand_over)

    def _hand_over(self) -> None:
        self._timer = None
        self._urgent = False
        for collect in self.collectors:
            collect()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = self._pending
        self._pending = _Batch()
        if self._failed is not None:
            batch = _joined(self._failed, batch)
            self._failed = None
        if not batch:
            return
        self._busy = True
        self._in_hand = batch.size
        self._check_congestion()
        self._batches.put(batch)

    def _finished(
        self, batch: _Batch, outcome: Problem | None, refused: list[tuple[_Durable, Problem]]
    ) -> None:
        self._busy = False
        self._in_hand = 0
        self.problem = outcome
        callbacks: list[Callable[[], None]] = []
        lost = {id(durable) for durable, _ in refused}
        for durable, problem in refused:
            durable.done(problem)
        if outcome is None:
            callbacks = [*batch.committed]
            for durable in batch.durable:
                if id(durable) not in lost:
                    durable.done(None)
        else:
            for durable in batch.durable:
                durable.done(outcome)
            batch.durable = []
        for tried in batch.tried:
            if not tried.done():
                tried.set_result(None)
        batch.tried = []
        if outcome is not None and batch:
            self._failed = batch
        for callback in callbacks:
            callback()
        self._check_congestion()
        if self._urgent:
            self._hurry()
        elif self._pending or self._failed is not None:
            self.touch()

    def _check_congestion(self) -> None:
        backlog = self.backlog
        if backlog > self._limit:
            self.congested = True
        elif self.congested and backlog <= self._limit // 2:
            self.congested = False
            for callback in self.drained:
                callback()

    # --- the writer's thread ---------------------------------------------------------------------

    def _write_batches(self) -> None:
        while (batch := self._batches.get()) is not None:
            if isinstance(batch, _Task):
                self._maintain(batch)
                continue
            refused: list[tuple[_Durable, Problem]] = []
            try:
                outcome = self._commit(batch, refused)
            except Exception as error:
                log.exception("The writer of %s failed", self.path)
                outcome = Problem(
                    error="InternalFailure", message=f"Writing to {self.path} failed: {error!r}"
                )
            self._loop.call_soon_threadsafe(self._finished, batch, outcome, refused)
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _maintain(self, task: _Task) -> None:
        error: DatabaseError | None = None
        try:
            connection = self._begin(durable=False)
            task.work(connection)
            connection.exec_driver_sql("COMMIT")
        except (exc.DatabaseError, sqlite3.Error) as failure:
            self._rollback()
            error = DatabaseError(database_problem(self.path, failure).message)
        self._loop.call_soon_threadsafe(_settle, task.done, error)

    def _commit(self, batch: _Batch, refused: list[tuple[_Durable, Problem]]) -> Problem | None:
        for statement, rows in batch.rows.items():
            if statement.merge is not None:
                batch.rows[statement] = statement.merge(rows)
        try:
            try:
                self._transaction(batch)
            except _WRONG_ROW as error:
                log.error(
                    "A row for %s is not valid (%s): writing this batch row by row", self.path, error.orig
                )
                self._rollback()
                self._one_by_one(batch, refused)
        except (exc.DBAPIError, sqlite3.Error) as error:
            self._rollback()
            return database_problem(self.path, error)
        return None

    def _transaction(self, batch: _Batch) -> None:
        connection = self._begin(durable=bool(batch.durable))
        # Durable rows come first: the others may say what became of the same thing since.
        for durable in batch.durable:
            for statement, row in durable.writes:
                connection.exec_driver_sql(statement.sql, row)
        for statement, rows in batch.rows.items():
            connection.exec_driver_sql(statement.sql, rows)
        connection.exec_driver_sql("COMMIT")

    def _one_by_one(self, batch: _Batch, refused: list[tuple[_Durable, Problem]]) -> None:
        """As `_transaction`, but leaving out what the database says is wrong."""
        connection = self._begin(durable=bool(batch.durable))

        def attempt(writes: Sequence[tuple[Statement, Row]]) -> Problem | None:
            connection.exec_driver_sql("SAVEPOINT attempt")
            try:
                for statement, row in writes:
                    connection.exec_driver_sql(statement.sql, row)
            except _WRONG_ROW as error:
                log.error("Left out of %s: a row of %s (%s)", self.path, statement.name, error.orig)
                connection.exec_driver_sql("ROLLBACK TO attempt")
                return database_problem(self.path, error)
            connection.exec_driver_sql("RELEASE attempt")
            return None

        for durable in batch.durable:
            problem = attempt(durable.writes)
            if problem is not None:
                refused.append((durable, problem))
        for statement, rows in batch.rows.items():
            for row in rows:
                attempt([(statement, row)])
        connection.exec_driver_sql("COMMIT")

    def _begin(self, durable: bool) -> Connection:
        if self._connection is None:
            self._connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._connection.exec_driver_sql("BEGIN IMMEDIATE")
        return self._connection

    def _rollback(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.exec_driver_sql("ROLLBACK")
        except exc.DBAPIError:
            connection.invalidate()
        finally:
            connection.close()

    async def maintain(self, work: Callable[[Connection], None]) -> None:
        """Run `work` as one transaction between those of the writer. Raises `DatabaseError`."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._batches.put(_Task(work, done))
        await done

    # --- reading ---------------------------------------------------------------------------------

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` with a connection of its own in a thread. Raises `DatabaseError`."""
        return await self._loop.run_in_executor(self._readers, self._read, query)

    def _read(self, query: Callable[[Connection], T]) -> T:
        try:
            with self.engine.connect() as connection:
                return query(connection)
        except (exc.DatabaseError, sqlite3.Error) as error:
            raise DatabaseError(database_problem(self.path, error).message) from error


def _settle(done: asyncio.Future[None], error: DatabaseError | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _joined(first: _Batch, second: _Batch) -> _Batch:
    for statement, rows in second.rows.items():
        first.rows.setdefault(statement, []).extend(rows)
    first.durable += second.durable
    first.committed += second.committed
    first.tried += second.tried
    first.size += second.size
    return first


def _set_up_connection(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
