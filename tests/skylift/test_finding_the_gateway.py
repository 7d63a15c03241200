"""Where the gateway is found, and how one is started."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from skylift import exceptions, gateway_process
from skylift.cli import main
from skylift.gateway_process import find_gateway, gateway_pid, is_gateway, running_gateway, skylift_home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SKYLIFT_GATEWAY_URL", "SKYLIFT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SKYLIFT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def local_gateway(home: Path) -> Iterator[Path]:
    """A home whose gateway, if a test starts one, is ended with its host."""
    home.mkdir(mode=0o700)
    # Nothing here needs containers, and this isolation needs nothing of the machine.
    (home / "config.toml").write_text('[host]\nisolation = "process"\n')
    yield home
    assert 0 == main(["gateway", "stop", "--containers"])


def test_the_environment_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYLIFT_GATEWAY_URL", "https://gateway.example/")
    with pytest.raises(exceptions.AuthError, match="set SKYLIFT_TOKEN"):
        find_gateway()
    monkeypatch.setenv("SKYLIFT_TOKEN", "t")
    gateway = find_gateway()
    assert ("https://gateway.example", "t", None) == (gateway.url, gateway.token, gateway.home)


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYLIFT_HOME", "~/elsewhere")
    assert Path("~/elsewhere").expanduser() == skylift_home()
    monkeypatch.delenv("SKYLIFT_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert Path("/data/skylift") == skylift_home()


def test_a_container_without_a_way_out_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYLIFT_SOCKET", "/run/skylift/runner.sock")
    with pytest.raises(exceptions.ConnectionError, match="this container has no way to the gateway"):
        find_gateway()


def test_none_runs_and_none_is_to_be_started(home: Path) -> None:
    with pytest.raises(exceptions.ConnectionError, match=r"no gateway runs in .*skylift gateway start"):
        find_gateway(start=False)


def test_a_file_of_another_process_is_not_believed(home: Path) -> None:
    home.mkdir()
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (home / "gateway.json").write_text(json.dumps({"url": "http://127.0.0.1:1", "pid": sleeper.pid}))
        assert None is running_gateway(home)
        (home / "gateway.json").write_text("{")
        assert None is running_gateway(home)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_one_that_does_not_start_shows_why(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("[gateway]\nprot = 80\n")
    with pytest.raises(exceptions.ConnectionError, match="ended while it started") as caught:
        find_gateway()
    assert "gateway.log" in str(caught.value)
    assert "prot" in str(caught.value)


def test_a_home_that_cannot_be_written(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SKYLIFT_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(exceptions.ConnectionError, match="Set SKYLIFT_HOME to a folder that can"):
        find_gateway()


def test_someone_else_is_starting_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(gateway_process, "START_TIMEOUT", 0.2)
    home.mkdir()
    with (home / "gateway-start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(exceptions.ConnectionError, match="another process has been starting the gateway"):
            find_gateway()


@pytest.mark.slow
def test_many_at_once_start_one(local_gateway: Path) -> None:
    told: list[str] = []
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(find_gateway(progress=told.append).url))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert 4 == len(found)
    assert 1 == len(set(found))
    assert ["skylift: starting the gateway …"] == told
    assert 0o700 == local_gateway.stat().st_mode & 0o777


@pytest.mark.slow
def test_the_command_line_starts_shows_and_stops_it(
    local_gateway: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 1 == main(["gateway", "status"])
    assert f"no gateway runs in {local_gateway}\n" == capsys.readouterr().out
    assert 0 == main(["gateway", "start"])
    url = capsys.readouterr().out.strip()
    assert url.startswith("http://127.0.0.1:")
    assert 0 == main(["gateway", "status"])
    assert url in capsys.readouterr().out
    assert 0 == main(["calls"])
    assert 0 == main(["token"])
    assert (local_gateway / "token").read_text().strip() == capsys.readouterr().out.strip()
    assert 1 == main(["logs", "fc-00000000"])
    assert capsys.readouterr().err.startswith("skylift: ")
    pid = gateway_pid(local_gateway)
    assert pid is not None
    assert 0 == main(["gateway", "stop"])
    assert None is gateway_pid(local_gateway)
    assert not is_gateway(pid)
    # Its host goes on; the next gateway takes it up, and ends it when it is told to.
    assert 0 == main(["gateway", "start"])
