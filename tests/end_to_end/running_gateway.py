"""A gateway and its host as processes, which a test may kill and start again; and a network that breaks."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import urllib3

PATIENCE = 60.0
"""Seconds after which something that should have happened is missed."""


class RunningGateway:
    """``python -m skylift.kernel_gateway`` with a home of its own, and the host that it starts."""

    def __init__(self, home: Path, config: str) -> None:
        home.mkdir(mode=0o700, parents=True)
        (home / "config.toml").write_text(config)
        self.home = home
        self.process: subprocess.Popen[str] | None = None
        self.url = ""

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    def start(self) -> None:
        """Start it and wait until it listens."""
        with (self.home / "gateway.err").open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "skylift.kernel_gateway", "--home", str(self.home), "--foreground"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Skylift gateway: "), (self.home / "gateway.err").read_text()
        self.url = line.removeprefix("Skylift gateway: ").strip()

    def kill(self) -> None:
        """``kill -9``."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """``kill -9``, and a new one."""
        self.kill()
        self.start()

    def restart_politely(self) -> None:
        """As an upgrade does: SIGTERM, and a new one."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert 0 == self.process.wait(PATIENCE)
        self.start()

    def get(self, path: str) -> Any:
        """The JSON that it answers with to its user."""
        answer = urllib3.request("GET", self.url + path, headers={"Authorization": f"Bearer {self.token}"})
        assert 200 == answer.status, answer.data
        return answer.json()

    def get_lines(self, path: str) -> list[Any]:
        """The same of what answers with lines of JSON."""
        answer = urllib3.request("GET", self.url + path, headers={"Authorization": f"Bearer {self.token}"})
        assert 200 == answer.status, answer.data
        return [json.loads(line) for line in answer.data.splitlines()]

    def wait_for(self, path: str, holds: Any) -> Any:
        """Ask until ``holds(answer)``."""
        deadline = time.monotonic() + PATIENCE
        while not holds(answer := self.get(path)):
            assert time.monotonic() < deadline, f"{path} is still {answer}"
            time.sleep(0.05)
        return answer

    def memory(self) -> int:
        """Bytes of the gateway process that are in memory."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        """End gateway, host and containers, whatever state they are in."""
        host = self._host()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
            self.process.kill()
            self.process.wait()
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        if host is not None:
            end(host)

    def _host(self) -> int | None:
        try:
            pid = int(json.loads((self.home / "host" / "host.json").read_bytes())["pid"])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        # The file outlives a host that was killed, and its number may be another process's by now.
        return pid if str(self.home).encode() in command else None

    def logs(self) -> str:
        """What gateway and host wrote down."""
        return "".join(
            f"--- {name}\n{(self.home / name).read_text(errors='replace')}"
            for name in ("gateway.err", "gateway.log", "host/host.log", "host/start.log")
            if (self.home / name).exists()
        )


def end(pid: int) -> None:
    """SIGTERM, and SIGKILL where that does not do."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                signal.pidfd_send_signal(descriptor, number)
                if select.select([descriptor], [], [], PATIENCE)[0]:
                    return
        finally:
            os.close(descriptor)


class BreakingNetwork:
    """A TCP proxy before a gateway. `cut` breaks every connection that goes through it, as a network does."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break what is connected now; who connects again gets through."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                # With a reset, and whatever is under way lost.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, 10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # From here on `cut` may close them at any moment.
            with self._lock:
                self._pairs.append((near, far))
                self.connections += 1
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
