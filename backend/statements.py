"""Statements whose SQL is made once, to be executed with many rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from sqlalchemy import Dialect, Table
from sqlalchemy.dialects.sqlite import insert

Row: TypeAlias = tuple[Any, ...]


class Statement:
    """A statement whose SQL was made once; it is executed with many rows at a time."""

    __slots__ = ("columns", "merge", "name", "sql")

    def __init__(
        self, name: str, sql: str, columns: tuple[str, ...], merge: Callable[[list[Row]], list[Row]] | None
    ) -> None:
        self.name = name
        self.sql = sql
        self.columns = columns
        """What a row's values are, in this order."""
        self.merge = merge
        """Makes fewer rows of those of one transaction, in the writer's thread."""


def upsert(
    table: Table,
    dialect: Dialect,
    add: tuple[str, ...] = (),
    merge: Callable[[list[Row]], list[Row]] | None = None,
) -> Statement:
    """Insert a whole row, or replace the one with its key; what is in columns named in `add` is added."""
    statement = insert(table)
    keys = [column.name for column in table.primary_key]
    changed = {
        column.name: column + statement.excluded[column.name]
        if column.name in add
        else statement.excluded[column.name]
        for column in table.columns
        if column.name not in keys
    }
    compiled = statement.on_conflict_do_update(index_elements=keys, set_=changed).compile(dialect=dialect)
    return Statement(table.name, str(compiled), tuple(compiled.positiontup or ()), merge)
