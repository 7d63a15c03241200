"""The tables of the gateway's database, in types that SQLite and PostgreSQL both have."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)

SCHEMA_VERSION = 3
"""Raise it with every change of a table, and add the step to it to `database.MIGRATIONS`."""

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("user", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("created", Float, nullable=False),
)

functions = Table(
    "functions",
    metadata,
    Column("function_id", Text, primary_key=True),
    Column("user", Text, nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("code", LargeBinary, nullable=False),
    Column("code_blob", Text, nullable=False),
    Column("created", Float, nullable=False),
)

calls = Table(
    "calls",
    metadata,
    Column("call_id", Text, primary_key=True),
    Column("user", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("function_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("app", Text, nullable=False),
    Column("function", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("notebook", Text, nullable=False),
    Column("cell", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("queued", Float, nullable=False),
    Column("started", Float, nullable=False),
    Column("first_output", Float, nullable=False),
    Column("ended", Float, nullable=False),
    Column("container_id", Text, nullable=False),
    Column("host_id", Text, nullable=False),
    Column("gpu", Text, nullable=False),
    Column("price", Float, nullable=False),
    Column("cost", Float, nullable=False),
    Column("peak_memory", Integer, nullable=False),
    Column("durable", Boolean, nullable=False),
    Column("detached", Boolean, nullable=False),
    Column("inputs", Integer, nullable=False),
    Column("inputs_total", Integer, nullable=False),
    Column("inputs_done", Integer, nullable=False),
    Column("events", Integer, nullable=False),
    Column("output_bytes", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("window", Integer, nullable=False),
    # Kept only while the call may still have to be given to a container.
    Column("args", LargeBinary, nullable=True),
    Column("args_blob", Text, nullable=False),
    Column("args_size", Integer, nullable=False),
    Index("calls_user_call", "user", "call_id"),
    Index("calls_ended", "ended"),
)

nested_calls = Table(
    "nested_calls",
    metadata,
    Column("call_id", Text, primary_key=True),
    # The call whose code made it.
    Column("parent", Text, nullable=False),
    Index("nested_calls_parent", "parent"),
)

output = Table(
    "output",
    metadata,
    Column("call_id", Text, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("count", Integer, nullable=False),
    Column("cost", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    # msgpack of the indexes of a map's inputs that have their result in this body; empty else.
    Column("done", LargeBinary, nullable=False),
    PrimaryKeyConstraint("call_id", "seq"),
)

# What a call used, of those that lasted for long enough: at most 300 samples.
call_usage = Table(
    "call_usage",
    metadata,
    Column("call_id", Text, primary_key=True),
    Column("samples", LargeBinary, nullable=False),
)

containers = Table(
    "containers",
    metadata,
    Column("container_id", Text, primary_key=True),
    Column("host_id", Text, nullable=False),
    Column("pool_id", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("app", Text, nullable=False),
    Column("function", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("notebook", Text, nullable=False),
    Column("gpu", Text, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("path", Text, nullable=False),
    Column("path_seconds", Float, nullable=False),
    Column("path_reason", Text, nullable=False),
    Column("started", Float, nullable=False),
    Column("ready", Float, nullable=False),
    Column("ended", Float, nullable=False),
    Column("exit_reason", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("calls", Integer, nullable=False),
    Column("price", Float, nullable=False),
    Column("cost", Float, nullable=False),
    # Up to when its cost is in the table of spend.
    Column("accrued", Float, nullable=False),
    Index("containers_user_started", "user", "started"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("user", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("notebook", Text, nullable=False),
    Column("last_used", Float, nullable=False),
)

sleeping_sessions = Table(
    "sleeping_sessions",
    metadata,
    Column("pool_id", Text, primary_key=True),
    Column("user", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("snapshot", LargeBinary, nullable=False),
    # A host that has it.
    Column("host_id", Text, nullable=False),
    Column("since", Float, nullable=False),
    # Why it could not be woken; empty else.
    Column("problem", Text, nullable=False),
    # asleep; ended: its host may have to be told yet; gone.
    Column("state", Text, nullable=False),
)

hosts = Table(
    "hosts",
    metadata,
    Column("host_id", Text, primary_key=True),
    Column("facts", LargeBinary, nullable=False),
    Column("seen", Float, nullable=False),
)

spend = Table(
    "spend",
    metadata,
    Column("day", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("notebook", Text, nullable=False),
    Column("function", Text, nullable=False),
    Column("gpu", Text, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("cost", Float, nullable=False),
    Column("idle_seconds", Float, nullable=False),
    Column("idle_cost", Float, nullable=False),
    Column("calls", Integer, nullable=False),
    PrimaryKeyConstraint("day", "user", "notebook", "function", "gpu"),
)
