"""The other side of the daemon that serves layers: starts it, and asks it for things."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from skylift.lazyfs import daemon_messages as messages
from skylift.lazyfs.store import StoreError

_START_SECONDS = 30.0
_ANSWER_SECONDS = 120.0
_A = TypeVar("_A", messages.Added, messages.Stats, messages.Trace, messages.Done)


class DaemonError(StoreError):
    """The daemon that serves layers could not do it, or is not there."""


class LayerDaemon:
    """One host's daemon that serves layers. Thread-safe."""

    module = "skylift.lazyfs.daemon"
    what = "layers"
    """That it serves, for people."""

    def __init__(
        self, folder: Path, store: str, *, home: Path | None = None, patience: float = 60, push: bool = True
    ) -> None:
        """`folder` is the daemon's own, `store` a store's URL (with `home` as for `open_store`); a read waits
        `patience` seconds for that. With `push` the kernel is given whole chunks."""
        self.folder = folder.absolute()
        self._store = store
        self._home = (home or folder).absolute()
        self._patience = patience
        self._push = push
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def log_file(self) -> Path:
        """Where it says what went wrong."""
        return self.folder / "daemon.log"

    def start(self) -> None:
        """Start it, where none runs in this folder. Raises `DaemonError`."""
        with self._lock:
            with contextlib.suppress(DaemonError):
                self._ask(messages.GetStats(), messages.Stats)
                return
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.log_file.open("ab") as log:
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-m", self.module, "--folder", str(self.folder)),
                        *("--store", self._store, "--home", str(self._home)),
                        *("--patience", str(self._patience)),
                        *self.arguments(),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,  # a Ctrl-C is for the host, which ends it in its turn
                )
            assert self._process.stdout is not None
            with self._process.stdout as stdout:
                said = stdout.readline()
            if said != b"ready\n":
                self._process.wait()
                raise DaemonError(
                    f"{self.what.capitalize()} cannot be served on this host: {self._last_words()}"
                )

    def arguments(self) -> list[str]:
        """Further ones of its command line."""
        return [] if self._push else ["--no-push"]

    def stop(self) -> None:
        """End it, here or wherever it was started; reads of its layers fail from then on."""
        with self._lock:
            with contextlib.suppress(DaemonError):
                self._ask(messages.Stop(), messages.Done)
            if self._process is not None:
                try:
                    self._process.wait(_START_SECONDS)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
                self._process = None

    def add(self, layer: str) -> Path:
        """Serve a layer; the file that is its image. Raises `DaemonError`."""
        return Path(self._ask(messages.AddLayer(layer), messages.Added).file)

    def remove(self, layer: str, *, forget: bool = False) -> None:
        """Serve it no more; with `forget` nothing of it stays on this host. Raises `DaemonError`."""
        self._ask(messages.RemoveLayer(layer, forget), messages.Done)

    def stats(self) -> messages.Stats:
        """What it has seen. Raises `DaemonError`."""
        return self._ask(messages.GetStats(), messages.Stats)

    def trace(self, layer: str) -> tuple[int, ...]:
        """The layer's chunks in the order of their first reads here. Raises `DaemonError`."""
        return self._ask(messages.GetTrace(layer), messages.Trace).chunks

    def prefetch(self, layer: str, chunks: Iterable[int]) -> None:
        """Fetch chunks in this order, in the background: a trace of another host's. Raises `DaemonError`."""
        self._ask(messages.Prefetch(layer, tuple(chunks)), messages.Done)

    def _ask(self, message: messages.Asked, expected: type[_A]) -> _A:
        answered = self._answer_to(message) or self._answer_to(message)  # all of them can be said twice
        if answered is None:
            raise DaemonError(
                f"The daemon that serves layers in {self.folder} ended twice while it was asked for "
                f"something: see {self.log_file}."
            )
        if isinstance(answered, messages.Failed):
            raise DaemonError(answered.message)
        if not isinstance(answered, expected):
            raise DaemonError(f"The daemon that serves layers answered {type(answered).__name__}.")
        return answered

    def _answer_to(self, message: messages.Asked) -> messages.Answered | None:
        """None where its process ended meanwhile: the next one listens already."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_ANSWER_SECONDS)
                here = os.open(self.folder, os.O_PATH | os.O_DIRECTORY)
                try:
                    connection.connect(f"/proc/self/fd/{here}/control.sock")
                finally:
                    os.close(here)
                with contextlib.suppress(ConnectionError):
                    messages.send(connection, message)
                    return messages.receive_answered(connection)
                return None
        except (OSError, msgspec.DecodeError) as error:
            raise DaemonError(
                f"The daemon that serves layers in {self.folder} does not answer: {error}. "
                f"See {self.log_file}."
            ) from error

    def _last_words(self) -> str:
        lines = self.log_file.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"
