"""Who may speak to the gateway: users by their tokens, hosts by the host token."""

from __future__ import annotations

import hmac
import os
import secrets
import time
from hashlib import sha256
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select

from skylift.backend.database import Database
from skylift.backend.schema import tokens

LOCAL_USER = "local"
LOCAL_LABEL = "the token file of this machine"


class TokenBook:
    """The valid tokens. The database has their SHA-256 only: they are long and random, so nothing slower than
    that is needed."""

    def __init__(self, home: Path, database: Database) -> None:
        self._home = home
        self._database = database
        self._users: dict[bytes, str] = {}
        """By hash."""
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


def _hash(token: str) -> bytes:
    return sha256(token.encode()).digest()


def _replace_local(connection: Connection, local: str) -> None:
    connection.execute(delete(tokens).where(tokens.c.label == LOCAL_LABEL))
    _run(connection, {"hash": local, "user": LOCAL_USER, "label": LOCAL_LABEL, "created": time.time()})


def _run(connection: Connection, row: dict[str, object]) -> None:
    connection.execute(insert(tokens).values(row))
