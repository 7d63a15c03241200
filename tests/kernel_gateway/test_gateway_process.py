"""``python -m skylift.kernel_gateway``: how it starts, and what it says when it cannot."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

COMMAND = [sys.executable, "-m", "skylift.kernel_gateway"]


def fails(home: Path, *options: str) -> str:
    """What a gateway that cannot start says."""
    ended = subprocess.run(
        [*COMMAND, "--home", str(home), *options], capture_output=True, text=True, timeout=30, check=False
    )
    assert (1, "") == (ended.returncode, ended.stdout)
    assert "Traceback" not in ended.stderr
    assert not (home / "gateway.json").exists()
    return ended.stderr.strip()


@contextlib.contextmanager
def running(home: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A gateway that listens, and its URL."""
    process = subprocess.Popen(
        [*COMMAND, "--home", str(home), "--foreground", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"Skylift gateway: (http://\S+)\n", line)
        assert found, line + (process.stderr.read() if process.stderr and not line else "")
        yield process, found[1]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home whose host isolates nothing and so needs nothing."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "config.toml").write_text('[host]\nisolation = "process"\n')
    yield folder
    with contextlib.suppress(FileNotFoundError):
        os.kill(host_pid(folder), signal.SIGTERM)


def host_pid(home: Path) -> int:
    return int(json.loads((home / "host" / "host.json").read_bytes())["pid"])


def wait_for_host(home: Path, url: str) -> int:
    """Wait until a host has dialled in: its process id."""
    token = (home / "token").read_text().strip()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        hosts = urllib3.request("GET", f"{url}/v1/hosts", headers={"Authorization": f"Bearer {token}"}).json()
        if any(host["connected"] for host in hosts):
            return host_pid(home)
        time.sleep(0.05)
    raise AssertionError("no host has dialled in")


def test_a_wrong_key_in_the_configuration(home: Path) -> None:
    (home / "config.toml").write_text("[gateway]\norigin = []\n")
    assert "Unknown key 'origin' in [gateway] of config.toml. Did you mean origins?" == fails(home)


def test_a_port_that_is_taken(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = fails(home, "--listen", f"127.0.0.1:{port}")
    assert (
        f"The gateway cannot listen on 127.0.0.1:{port}: Address already in use. Another program has that "
        "port: set another one, or 0 for any, as `port` in [gateway] of config.toml or with --listen."
    ) == said


def test_an_address_that_is_not_here(home: Path) -> None:
    said = fails(home, "--listen", "192.0.2.1:0")
    assert said.startswith("The gateway cannot listen on 192.0.2.1: Cannot assign requested address. Set an")


def test_an_address_that_is_none(home: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "--home", str(home), "--listen", "localhost"], capture_output=True, text=True, check=False
    )
    assert 2 == ended.returncode
    assert "'localhost' is not HOST:PORT, such as 127.0.0.1:0" in ended.stderr


def test_a_home_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = fails(tmp_path / "file" / "home")
    assert f"The gateway cannot use {tmp_path / 'file' / 'home'}: Not a directory." == said


def test_a_database_that_is_none(home: Path) -> None:
    (home / "skylift.db").write_bytes(b"this is no database" * 1000)
    said = fails(home)
    assert str(home / "skylift.db") in said
    assert "damaged or no database" in said


@pytest.mark.slow
def test_a_gateway_is_found_answers_and_ends(home: Path) -> None:
    with running(home) as (process, url):
        described = (home / "gateway.json").read_text()
        assert f'"url":"{url}"' in described
        assert f'"pid":{process.pid}' in described
        assert 0o600 == (home / "token").stat().st_mode & 0o777
        said = fails_as_second(home)
        assert f"A gateway is running for {home} already: process {process.pid} at {url}." in said
        process.send_signal(signal.SIGINT)
        assert 0 == process.wait(30)
        assert process.stderr is not None
        assert "" == process.stderr.read()
    assert not (home / "gateway.json").exists()
    assert not (home / "gateway.sock").exists()
    assert not (home / "host" / "host.json").exists()


def fails_as_second(home: Path) -> str:
    ended = subprocess.run(
        [*COMMAND, "--home", str(home)], capture_output=True, text=True, timeout=30, check=False
    )
    assert 1 == ended.returncode
    return ended.stderr


@pytest.mark.slow
def test_it_keeps_its_port_over_ends_of_every_kind(home: Path) -> None:
    with running(home) as (process, url):
        host = wait_for_host(home, url)
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(30)
    with running(home) as (process, again):
        assert (url, host) == (again, wait_for_host(home, again))
        process.kill()
        process.wait(30)
        assert (home / "gateway.json").exists()
    with running(home) as (process, again):
        assert (url, host) == (again, wait_for_host(home, again))
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(30)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(url.rpartition(":")[2])))
        other.listen()
        with running(home) as (_, elsewhere):
            assert url != elsewhere
            assert host == wait_for_host(home, elsewhere)
    assert "is taken now" in (home / "gateway.log").read_text()
    assert not (home / "host" / "host.json").exists()


def test_a_store_that_cannot_be_is_named(home: Path) -> None:
    (home / "config.toml").write_text('[host]\nstore = "ftp://there"\n')
    assert "'ftp://there' is not the URL of a store: ftp:// is not known." in fails(home)
