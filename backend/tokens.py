"""Who may speak to the gateway: users by their tokens, hosts by the host token."""

from __future__ import annotations

import hmac
import os
import secrets
import time
from hashlib import sha256
from pathlib import Path

from sqlalchemy import Connection, bindparam, delete, insert, select

from skylift.backend.database import Database
from skylift.backend.schema import tokens
from skylift.backend.statements import Statement, upsert

LOCAL_USER = "local"
LOCAL_LABEL = "the token file of this machine"
CONTAINER_LABEL = "container "
"""Followed by the container's id."""


class TokenBook:
    """The valid tokens. The database has their SHA-256 only: they are long and random, so nothing slower than
    that is needed."""

    def __init__(self, home: Path, database: Database) -> None:
        self._home = home
        self._database = database
        self._users: dict[bytes, str] = {}
        """By hash."""
        self._containers: dict[bytes, str] = {}
        """By hash: the containers whose tokens are among those of the users."""
        self._keep = upsert(tokens, database.engine.dialect)
        self._remove = _removal(database)
        self._host_token = b""

    async def open(self) -> None:
        """Read the tokens; make the local user's (``token``) and the hosts' (``host-token``) where they are
        missing. Raises `DatabaseError`, and OSError where a file cannot be made."""
        token = secret_file(self._home / "token")
        self._host_token = _hash(secret_file(self._home / "host-token"))
        rows = await self._database.read(
            lambda connection: connection.execute(select(tokens.c.hash, tokens.c.user, tokens.c.label)).all()
        )
        self._users = {bytes.fromhex(row.hash): row.user for row in rows if row.label != LOCAL_LABEL}
        self._containers = {
            bytes.fromhex(row.hash): row.label.removeprefix(CONTAINER_LABEL)
            for row in rows
            if row.label.startswith(CONTAINER_LABEL)
        }
        local = _hash(token)
        self._users[local] = LOCAL_USER
        if local.hex() not in {row.hash for row in rows}:
            await self._database.maintain(lambda connection: _replace_local(connection, local.hex()))

    async def create(self, user: str, label: str) -> str:
        """A new token for a user; it is shown this once."""
        token = secrets.token_urlsafe(32)
        row = {"hash": _hash(token).hex(), "user": user, "label": label, "created": time.time()}
        await self._database.maintain(lambda connection: _run(connection, row))
        self._users[_hash(token)] = user
        return token

    def mint(self, container_id: str, user: str) -> str:
        """A token for code in a container, which acts for that user. Valid at once, and until `revoke`; kept
        over a restart."""
        token = secrets.token_urlsafe(32)
        key = _hash(token)
        self._users[key] = user
        self._containers[key] = container_id
        row = {
            "hash": key.hex(),
            "user": user,
            "label": CONTAINER_LABEL + container_id,
            "created": time.time(),
        }
        self._database.write(self._keep, tuple(row[column] for column in self._keep.columns))
        return token

    def revoke(self, container_id: str) -> None:
        """A container has ended: its token is worth nothing any more."""
        for key in [key for key, known in self._containers.items() if known == container_id]:
            del self._containers[key], self._users[key]
            self._database.write(self._remove, (key.hex(),))

    def container_of(self, token: str) -> str:
        """The container whose token this is; "" for that of a user."""
        return self._containers.get(_hash(token), "")

    def containers(self) -> set[str]:
        """Those that have a token."""
        return set(self._containers.values())

    def authenticate(self, token: str) -> str | None:
        """The user whose token this is. Takes the same time wherever it differs from a valid one."""
        given = _hash(token)
        found = None
        for known, user in self._users.items():
            if hmac.compare_digest(known, given):
                found = user
        return found

    def is_host(self, token: str) -> bool:
        """Whether this is the hosts' token."""
        return hmac.compare_digest(self._host_token, _hash(token))

    def users(self) -> list[str]:
        """Everyone who has a token."""
        return sorted({LOCAL_USER, *self._users.values()})


def secret_file(path: Path) -> str:
    """What the file holds; where there is none, a new random token is put there, readable by its owner
    only."""
    try:
        text = path.read_text(encoding="ascii").strip()
        if text:
            path.chmod(0o600)
            return text
    except FileNotFoundError:
        pass
    token = secrets.token_urlsafe(32)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
    temporary.replace(path)
    return token


def _removal(database: Database) -> Statement:
    compiled = (
        delete(tokens).where(tokens.c.hash == bindparam("hash")).compile(dialect=database.engine.dialect)
    )
    return Statement(tokens.name, str(compiled), tuple(compiled.positiontup or ()), None)


def _hash(token: str) -> bytes:
    return sha256(token.encode()).digest()


def _replace_local(connection: Connection, local: str) -> None:
    connection.execute(delete(tokens).where(tokens.c.label == LOCAL_LABEL))
    _run(connection, {"hash": local, "user": LOCAL_USER, "label": LOCAL_LABEL, "created": time.time()})


def _run(connection: Connection, row: dict[str, object]) -> None:
    connection.execute(insert(tokens).values(row))
