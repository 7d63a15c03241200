"""A gateway for the length of a block: what it says when it cannot start, and what it notices at the end."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.own_gateway import GatewayError, LeftBehindError, left_behind, own_gateway


def test_a_gateway_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(GatewayError) as caught, own_gateway(tmp_path / "home", "[gateway]\nporrt = 1\n"):
        pass
    assert "the gateway ended with status 1" in str(caught.value)
    assert "Unknown key 'porrt' in [gateway] of config.toml" in str(caught.value)


@contextlib.contextmanager
def sleep_until_killed(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"], env=os.environ | environment) as sleeper:
        try:
            yield sleeper
        finally:
            sleeper.kill()


def test_a_process_that_outlives_the_block_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with contextlib.ExitStack() as stack:
        with pytest.raises(LeftBehindError) as caught, own_gateway(home) as environment:
            sleeper = stack.enter_context(sleep_until_killed(environment))
        assert f"process {sleeper.pid} (sleep 600)" in str(caught.value)
    assert left_behind(home) == []


def test_an_error_in_the_block_comes_out_and_the_gateway_ends(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with pytest.raises(ZeroDivisionError), own_gateway(home):
        raise ZeroDivisionError
    assert left_behind(home) == []
    assert not (home / "gateway.json").exists()
