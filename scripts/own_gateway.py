"""A gateway and its host with a home of their own, for as long as a ``with`` block lasts."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

START_PATIENCE = 30.0
"""Seconds until a gateway must have said where it listens."""
STOP_PATIENCE = 20.0
"""Seconds until a process that was asked to stop is killed."""


class GatewayError(RuntimeError):
    """The gateway did not start; the message has the end of its log."""


class LeftBehindError(RuntimeError):
    """Something of the gateway's or the host's was still there after they had stopped."""


@contextlib.contextmanager
def own_gateway(home: Path, config: str = "") -> Iterator[dict[str, str]]:
    """Starts a gateway on a free port of the loopback; yields the environment that leads to it.

    `config` becomes the home's ``config.toml``. At the end gateway and host are stopped. Raises
    `GatewayError` at the start, `LeftBehindError` at the end.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / "config.toml").write_text(config, encoding="utf-8")
    environment = os.environ | {"SKYLIFT_HOME": str(home)}
    for name in ("SKYLIFT_GATEWAY_URL", "SKYLIFT_TOKEN"):
        environment.pop(name, None)
    with (home / "gateway.out").open("wb") as output:
        gateway = subprocess.Popen(
            [sys.executable, "-m", "skylift.kernel_gateway", "--home", str(home)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_it_listens(gateway, home)
        yield {"SKYLIFT_HOME": str(home)}
    finally:
        host = _host_pid(home)
        # SIGINT is the gateway's word for ending its host and containers as well.
        _stop(gateway.pid, signal.SIGINT)
        gateway.wait()
        if host is not None:
            _stop(host, signal.SIGTERM)
    left = left_behind(home)
    if left:
        raise LeftBehindError("still there after the gateway and its host had stopped: " + "; ".join(left))


def end_in_order() -> None:
    """Makes SIGTERM and SIGHUP (a closed terminal) end this process by way of its ``finally``."""

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def left_behind(home: Path) -> list[str]:
    """Processes that run with this home, and mounts in it: each as a text for people."""
    found = []
    needle = f"SKYLIFT_HOME={home}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if needle in (folder / "environ").read_bytes().split(b"\0") or str(home).encode() in command:
                found.append(f"process {folder.name} ({b' '.join(command).decode(errors='replace').strip()})")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        place = line.split(" ")[4]
        if place.startswith(f"{home}/"):
            found.append(f"mount {place}")
    return found


def _wait_until_it_listens(gateway: subprocess.Popen[bytes], home: Path) -> None:
    deadline = time.monotonic() + START_PATIENCE
    while not (home / "gateway.json").exists():
        if gateway.poll() is not None:
            raise GatewayError(f"the gateway ended with status {gateway.returncode}:\n{_last_words(home)}")
        if time.monotonic() > deadline:
            raise GatewayError(f"no gateway after {START_PATIENCE:.0f} s:\n{_last_words(home)}")
        time.sleep(0.02)


def _last_words(home: Path) -> str:
    lines: list[str] = []
    for name in ("gateway.out", "gateway.log", "host/host.log"):
        with contextlib.suppress(OSError):
            lines += (home / name).read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
    return "\n".join(f"    {line}" for line in lines) or "    (it said nothing)"


def _host_pid(home: Path) -> int | None:
    try:
        pid = int(json.loads((home / "host" / "host.json").read_bytes())["pid"])
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError, KeyError):
        return None
    # The file outlives a host that was killed, and its number may be another process's by now.
    return pid if str(home).encode() in command else None


def _stop(pid: int, politely: signal.Signals) -> None:
    """SIGKILL follows where the first signal did not end it in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number in (politely, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            if select.select([descriptor], [], [], STOP_PATIENCE)[0]:
                return
    finally:
        os.close(descriptor)
