"""The ``local`` engine: one host process on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from skylift.backend.engines.base import Engine, EngineStatus
from skylift.backend.settings import Settings

END_SECONDS = 20.0
"""How long a host process that was told to end has, before it is killed."""

QUICK = 10.0
"""Seconds. A host process that ends sooner than that after its start counts as one that does not start."""

RESTART_SECONDS = 0.5
"""Before it is started again after such an end, doubled each time."""

MAX_QUICK_ENDS = 3
"""In a row; then it is not started again."""

log = logging.getLogger(__name__)


class HostNote(msgspec.Struct):
    """``host/host.json``."""

    pid: int


class LocalEngine(Engine):
    """Starts ``python -m skylift.runtime`` unless it is running, and starts it again when it has ended.

    The process is detached: a gateway that ends leaves it and its containers alone, and the next one finds
    it by ``host/host.json``.
    """

    name = "local"

    def __init__(self, settings: Settings, command: Sequence[str] | None = None) -> None:
        """`command`: what to start in the place of the runtime."""
        self._home = settings.home
        self._folder = settings.home / "host"
        self._command = list(
            command
            if command is not None
            else [sys.executable, "-m", "skylift.runtime", "--home", str(settings.home)]
        )
        self._changed: Callable[[], None] = lambda: None
        self._pid = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._since = 0.0
        self._quick_ends = 0
        self._problem = ""
        self._watch: asyncio.Task[None] | None = None

    # --- the engine ------------------------------------------------------------------------------------

    async def start(self, changed: Callable[[], None]) -> None:
        """See `Engine.start`."""
        self._changed = changed
        self._watch = asyncio.create_task(self._look_after())
        # The first attempt is over when this returns, so that `describe` has something to say.
        await asyncio.sleep(0)

    async def stop(self, end_hosts: bool) -> None:
        """See `Engine.stop`."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        if end_hosts and self._pid:
            await self._end(self._pid)

    def describe(self) -> EngineStatus:
        """See `Engine.describe`."""
        if self._problem:
            return EngineStatus(name=self.name, detail="no host process", problem=self._problem)
        detail = f"host process {self._pid} on this machine" if self._pid else "starting a host process"
        return EngineStatus(name=self.name, detail=detail)

    # --- the process -----------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        while True:
            self._pid = self._running() or self._start_process()
            if not self._pid:
                self._changed()
                return
            self._since = time.monotonic()
            self._changed()
            await wait_for_end(self._pid)
            code = self._child.wait() if self._child is not None else None
            self._child = None
            self._pid = 0
            lived = time.monotonic() - self._since
            self._quick_ends = self._quick_ends + 1 if lived < QUICK else 0
            log.warning("The host process ended after %.1f s (exit status %s)", lived, code)
            if self._quick_ends >= MAX_QUICK_ENDS:
                self._problem = self._why_it_ends(code)
                self._changed()
                return
            self._changed()
            if self._quick_ends:
                await asyncio.sleep(RESTART_SECONDS * 2**self._quick_ends)

    def _running(self) -> int:
        """The process id of a host that runs for this home, or 0."""
        try:
            note = msgspec.json.decode((self._folder / "host.json").read_bytes(), type=HostNote)
        except (OSError, msgspec.DecodeError):
            return 0
        return note.pid if is_host_process(note.pid, self._home) else 0

    def _start_process(self) -> int:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(self._stderr(), "wb") as errors:
                self._child = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                    cwd="/",
                )
        except OSError as error:
            self._problem = f"The host process cannot be started ({self._command[0]}): {error}."
            return 0
        return self._child.pid

    def _why_it_ends(self, code: int | None) -> str:
        try:
            said = self._stderr().read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            said = ""
        last = said.splitlines()[-1] if said else f"it ends with status {code} at once"
        return f"The host process of this machine does not start: {last} (see {self._folder / 'host.log'})"

    def _stderr(self) -> Path:
        return self._folder / "start.log"

    async def _end(self, pid: int) -> None:
        """Wait for the end of a process that was told to end by its link; make it end where it does not."""
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(wait_for_end(pid), END_SECONDS / 2)
                break
        if self._child is not None:
            self._child.wait()
            self._child = None
        self._pid = 0


def is_host_process(pid: int, home: Path) -> bool:
    """Whether the process is alive and a host of this home, not another that got its number later."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        # No /proc here: that it is ours to signal must do.
        return not Path("/proc/self").exists()
    return str(home).encode() in words and b"--home" in words


async def wait_for_end(pid: int) -> None:
    """Return when the process has ended, whoever started it."""
    loop = asyncio.get_running_loop()
    if not hasattr(os, "pidfd_open"):
        while _alive(pid):  # noqa: ASYNC110
            await asyncio.sleep(1.0)
        return
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _alive(pid: int) -> bool:
    try:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
