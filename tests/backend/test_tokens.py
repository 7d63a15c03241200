"""Tokens: made where they are missing, kept as hashes, readable by their owner only."""

from __future__ import annotations

import os
import stat

import pytest
from control_harness import Plane
from sqlalchemy import select

from skylift.backend.schema import tokens

pytestmark = pytest.mark.anyio


async def test_the_local_users_token_is_made_and_valid(plane: Plane) -> None:
    token = (plane.home / "token").read_text().strip()
    assert len(token) >= 43
    assert "local" == plane.control.authenticate(token)
    assert plane.control.authenticate(token[:-1]) is None
    assert plane.control.authenticate("") is None
    for name in ("token", "host-token"):
        assert 0o600 == stat.S_IMODE((plane.home / name).stat().st_mode)


async def test_the_database_has_only_hashes(plane: Plane) -> None:
    token = (plane.home / "token").read_text().strip()
    other = await plane.control.tokens.create("ada", "ada's laptop")
    await plane.settle()
    rows = await plane.database.read(lambda connection: connection.execute(select(tokens)).all())
    assert ["ada", "local"] == sorted(row.user for row in rows)
    content = b"".join(path.read_bytes() for path in plane.home.glob("skylift.db*"))
    assert token.encode() not in content
    assert other.encode() not in content
    assert "ada" == plane.control.authenticate(other)


async def test_tokens_outlive_a_restart(plane: Plane) -> None:
    token = (plane.home / "token").read_text().strip()
    other = await plane.control.tokens.create("ada", "ada's laptop")
    await plane.stop()
    await plane.start()
    assert ("local", "ada") == (plane.control.authenticate(token), plane.control.authenticate(other))
    assert ["ada", "local"] == plane.control.tokens.users()


async def test_a_token_file_that_was_replaced_ends_the_old_token(plane: Plane) -> None:
    token = (plane.home / "token").read_text().strip()
    await plane.stop()
    (plane.home / "token").unlink()
    await plane.start()
    assert plane.control.authenticate(token) is None
    assert "local" == plane.control.authenticate((plane.home / "token").read_text().strip())


async def test_a_token_file_that_others_can_read_is_closed(plane: Plane) -> None:
    await plane.stop()
    os.chmod(plane.home / "token", 0o644)
    await plane.start()
    assert 0o600 == stat.S_IMODE(os.stat(plane.home / "token").st_mode)
