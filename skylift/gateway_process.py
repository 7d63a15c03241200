"""Finds the gateway that this process talks to, and starts one on this machine where there is none."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from skylift import exceptions
from skylift.context import is_local

UNIX = "unix://"
"""What the URL of a gateway at a Unix socket begins with: ``unix:///run/skylift/gateway.sock``."""
START_TIMEOUT = 60.0
_POLL = 0.02
_TAIL_LINES = 15


@dataclass(frozen=True)
class Gateway:
    """Where a gateway is, and what to show it."""

    url: str
    token: str
    home: Path | None
    """Folder of the local gateway; None where the environment named another."""


def skylift_home() -> Path:
    """``$SKYLIFT_HOME``, or ``skylift`` in the user's data folder."""
    home = os.environ.get("SKYLIFT_HOME")
    if home:
        return Path(home).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return Path(data) / "skylift"


def find_gateway(*, start: bool = True, progress: Callable[[str], None] | None = None) -> Gateway:
    """The gateway to use: ``$SKYLIFT_GATEWAY_URL``, else the local one, started if need be.

    `progress` is told, in one line, what takes long. Raises `AuthError` when there is no token and
    `exceptions.ConnectionError` when the gateway does not start, or does not run and `start` is False.
    """
    home = skylift_home()
    url = os.environ.get("SKYLIFT_GATEWAY_URL", "").rstrip("/")
    if url:
        return Gateway(url, _token(home), None)
    if not is_local():
        raise exceptions.ConnectionError(
            "this container has no way to the gateway ($SKYLIFT_GATEWAY_URL is not set), so code in it "
            "cannot call other functions"
        )
    return _local(home, start, progress)


def container_token() -> str:
    """The token of the container that this process runs in; "" outside of one. A container that is restored
    from a snapshot has another one than before."""
    return "" if is_local() else os.environ.get("SKYLIFT_TOKEN", "")


def find_again(gateway: Gateway, *, start: bool) -> Gateway:
    """Where a gateway that was lost is now, whatever the environment says by now: a local one may have been
    started anew, and is with `start`. Only in a container what the environment says counts, for there it may
    have another token since (`container_token`). Raises as `find_gateway` does."""
    if gateway.home is not None:
        return _local(gateway.home, start, None)
    return gateway if is_local() else find_gateway(start=False)


def _local(home: Path, start: bool, progress: Callable[[str], None] | None) -> Gateway:
    running = running_gateway(home)
    if running is None:
        if not start:
            raise exceptions.ConnectionError(f"no gateway runs in {home}. Start it: skylift gateway start")
        running = _start(home, progress or _say_nothing)
    return running


def running_gateway(home: Path) -> Gateway | None:
    """The gateway that ``gateway.json`` speaks of, if its process lives."""
    described = _read_json(home / "gateway.json")
    pid, url = described.get("pid"), described.get("url")
    if not isinstance(pid, int) or not isinstance(url, str) or not is_gateway(pid):
        return None
    return Gateway(url.rstrip("/"), _token(home), home)


def gateway_pid(home: Path) -> int | None:
    """Process id of the running local gateway."""
    pid = _read_json(home / "gateway.json").get("pid")
    return pid if isinstance(pid, int) and is_gateway(pid) else None


def log_tail(home: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of the gateway's log."""
    try:
        with (home / "gateway.log").open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 16384))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _start(home: Path, progress: Callable[[str], None]) -> Gateway:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = (home / "gateway.log").open("ab")
    except OSError as error:
        raise exceptions.ConnectionError(
            f"cannot start the gateway: {home} cannot be written ({error.strerror}). "
            "Set SKYLIFT_HOME to a folder that can"
        ) from error
    deadline = time.monotonic() + START_TIMEOUT
    with log, _lock(home / "gateway-start.lock", deadline):
        running = running_gateway(home)
        if running is not None:
            return running
        progress("skylift: starting the gateway …")
        process = subprocess.Popen(
            [sys.executable, "-m", "skylift.kernel_gateway", "--home", str(home)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=home,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )
        while time.monotonic() < deadline:
            running = running_gateway(home)
            if running is not None:
                # It is not ours to wait for; without this its end would leave a zombie of this process.
                _reap_later(process)
                return running
            if process.poll() is not None:
                raise exceptions.ConnectionError(
                    f"the gateway ended while it started (exit status {process.returncode}). "
                    f"The end of {home / 'gateway.log'}:\n{log_tail(home)}"
                )
            time.sleep(_POLL)
        process.terminate()
        raise exceptions.ConnectionError(
            f"the gateway did not start within {START_TIMEOUT:.0f} seconds. "
            f"The end of {home / 'gateway.log'}:\n{log_tail(home)}"
        )


@contextlib.contextmanager
def _lock(path: Path, deadline: float) -> Iterator[None]:
    """One process at a time starts the gateway; the others wait, and find it running."""
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise exceptions.ConnectionError(
                        f"another process has been starting the gateway for {START_TIMEOUT:.0f} seconds "
                        f"(it holds {path})"
                    ) from None
                time.sleep(_POLL)
        yield


def _reap_later(process: subprocess.Popen[bytes]) -> None:
    import threading

    threading.Thread(target=process.wait, name="skylift-gateway-reaper", daemon=True).start()


def _token(home: Path) -> str:
    token = os.environ.get("SKYLIFT_TOKEN", "").strip()
    if token:
        return token
    try:
        return (home / "token").read_text(encoding="utf-8").strip()
    except OSError:
        raise exceptions.AuthError(
            f"no token for the gateway: set SKYLIFT_TOKEN (there is no file {home / 'token'} either)"
        ) from None


def is_gateway(pid: int) -> bool:
    """Whether that process lives and is a gateway."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:  # no /proc here
        return True
    # The number may belong to another program by now; and a zombie answers to signal 0 too.
    return state != "Z" and b"kernel_gateway" in command


def _read_json(path: Path) -> dict[str, object]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return described if isinstance(described, dict) else {}


def _say_nothing(text: str) -> None:
    pass
