"""The files by which one gateway owns a folder and is found there."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from skylift.backend.control import VERSION
from skylift.kernel_gateway.home import AlreadyRunningError, GatewayHome


def test_the_folder_is_made_for_its_user_alone(tmp_path: Path) -> None:
    GatewayHome(tmp_path / "a" / "b").lock()
    assert 0o700 == stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode)
    (tmp_path / "open").mkdir(mode=0o755)
    GatewayHome(tmp_path / "open").lock()
    assert 0o700 == stat.S_IMODE((tmp_path / "open").stat().st_mode)


def test_one_gateway_a_folder(tmp_path: Path) -> None:
    holder = GatewayHome(tmp_path)
    holder.lock()
    holder.announce("http://127.0.0.1:1234", "ga-00000000")
    with pytest.raises(AlreadyRunningError) as refused:
        GatewayHome(tmp_path).lock()
    assert (
        f"A gateway is running for {tmp_path} already: process {os.getpid()} at http://127.0.0.1:1234. "
        f"To end it: kill {os.getpid()}."
    ) == str(refused.value)


def test_one_that_is_just_starting(tmp_path: Path) -> None:
    holder = GatewayHome(tmp_path)
    holder.lock()
    with pytest.raises(AlreadyRunningError, match="already, and is just starting or stopping"):
        GatewayHome(tmp_path).lock()


def test_a_killed_gateway_leaves_the_folder_free(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib; from skylift.kernel_gateway.home import GatewayHome; "
        "home = GatewayHome(pathlib.Path(sys.argv[1])); home.lock(); "
        "home.announce('http://127.0.0.1:1', 'ga-00000000'); os.kill(os.getpid(), 9)"
    )
    assert -9 == subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode
    GatewayHome(tmp_path).lock()


def test_what_is_announced(tmp_path: Path) -> None:
    home = GatewayHome(tmp_path)
    home.announce("http://127.0.0.1:1234", "ga-00000000")
    file = tmp_path / "gateway.json"
    assert {
        "url": "http://127.0.0.1:1234",
        "pid": os.getpid(),
        "gateway_id": "ga-00000000",
        "version": VERSION,
    } == json.loads(file.read_text())
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert [file] == list(tmp_path.iterdir())
    home.withdraw()
    home.withdraw()
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "x", "-1", "0", "65536", "99999999999"])
def test_a_port_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "gateway.port").write_text(content)
    assert 0 == GatewayHome(tmp_path).last_port()


def test_the_port_is_remembered(tmp_path: Path) -> None:
    home = GatewayHome(tmp_path)
    assert 0 == home.last_port()
    home.remember_port(1234)
    assert 1234 == GatewayHome(tmp_path).last_port()
