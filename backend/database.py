"""The gateway's database."""

from __future__ import annotations

from pathlib import Path


class DatabaseError(Exception):
    """The database cannot be opened or used. The message names the file, why, and what to do."""


class Database:
    """SQLite through SQLAlchemy Core. Constructing it touches no file."""

    def __init__(self, path: Path, *, backlog_limit: int = 64 * 1024 * 1024) -> None:
        self.path = path
