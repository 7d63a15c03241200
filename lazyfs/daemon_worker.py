"""The process that serves layers: answers the kernel's reads, and what is asked over the control socket.

Started by `skylift.lazyfs.daemon`, which holds the FUSE connection and the listening socket open, so that the
next worker goes on where one that died has left off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Protocol

import msgspec

from skylift.lazyfs import daemon_messages as messages
from skylift.lazyfs import fuse_protocol, mount_calls
from skylift.lazyfs.cached_store import CachedStore
from skylift.lazyfs.chunked import decode
from skylift.lazyfs.fetching import Fetching
from skylift.lazyfs.local_copy import LocalCopy, remember_layer, remembered_layer
from skylift.lazyfs.open_store import open_store
from skylift.lazyfs.pushing import Pushing
from skylift.lazyfs.served_files import ServedFile, ServedFiles
from skylift.lazyfs.store import LocalStore, Store, StoreError

log = logging.getLogger(__name__)

FILES, COPIES, SERVED = "files", "copies", "served.json"
"""Of the daemon's folder: where the layers' images appear, what is here of them, and which are served."""

_LAYER = re.compile(r"[0-9a-f]{64}")
SWITCH_INTERVAL = 0.0005
"""Seconds. Threads that only pass something on would wait for one that computes."""
_STORE_CACHE = 64 << 20
"""Bytes of the folder in front of a store that is far away, which is not used."""


class Worker:
    """The layers that are served. Thread-safe."""

    def __init__(self, folder: Path, store: Store, fetching: Fetching, pushing: Pushing | None) -> None:
        self._folder = folder
        self._store = store
        self._fetching = fetching
        self._pushing = pushing
        self._lock = threading.Lock()
        self._copies: dict[str, LocalCopy] = {}
        self.files: dict[str, ServedFile] = {}
        """By the names that the kernel sees."""

    def go_on(self) -> None:
        """Serve what the worker before has served."""
        try:
            layers = json.loads((self._folder / SERVED).read_text())
        except FileNotFoundError:
            return
        for layer in layers:
            try:
                self._serve(layer)
            except (StoreError, OSError) as error:  # noqa: PERF203  # the others are
                log.error("Layer %s is not served any more: %s", layer, error)

    def answer(self, asked: messages.Asked) -> messages.Answered:
        """Do what is asked (`Stop` is not for here)."""
        try:
            return self._answer(asked)
        except (StoreError, OSError, ValueError) as error:
            return messages.Failed(str(error))

    def _answer(self, asked: messages.Asked) -> messages.Answered:
        if isinstance(asked, messages.AddLayer):
            copy = self._serve(asked.layer)
            self._write_served()
            return messages.Added(str(self._folder / FILES / f"{asked.layer}.erofs"), copy.size)
        if isinstance(asked, messages.RemoveLayer):
            self._remove(asked)
        elif isinstance(asked, messages.GetStats):
            with self._lock:
                copies = list(self._copies.values())
            return messages.Stats(tuple(copy.stats() for copy in copies), os.getpid())
        elif isinstance(asked, messages.GetTrace):
            return messages.Trace(tuple(self._copy(asked.layer).trace()))
        elif isinstance(asked, messages.Prefetch):
            self._copy(asked.layer).prefetch(asked.chunks)
        return messages.Done()

    def _copy(self, layer: str) -> LocalCopy:
        with self._lock:
            if layer not in self._copies:
                raise StoreError(f"Layer {layer} is not served here: add it first.")
            return self._copies[layer]

    def _serve(self, layer: str) -> LocalCopy:
        if not _LAYER.fullmatch(layer):
            raise ValueError(f"{layer!r} is not the id of a layer (64 hex digits)")
        with self._lock:
            if layer in self._copies:
                return self._copies[layer]
        folder = self._folder / COPIES / layer
        manifest = remembered_layer(folder, layer)
        if manifest is None:
            manifest = self._store.get(layer)
            file = decode(manifest)
            with contextlib.suppress(OSError):  # a full disk: it is fetched again next time
                remember_layer(folder, manifest)
        else:
            file = decode(manifest)
        with self._lock:
            if layer not in self._copies:  # another may have been faster
                copy = LocalCopy(layer, file, self._store, folder, self._fetching, self._pushing)
                self._copies[layer] = copy
                self.files[f"{layer}.erofs"] = copy
            return self._copies[layer]

    def _remove(self, asked: messages.RemoveLayer) -> None:
        with self._lock:
            copy = self._copies.pop(asked.layer, None)
            self.files.pop(f"{asked.layer}.erofs", None)
        self._write_served()
        if copy is not None:
            copy.close()
        if asked.forget and _LAYER.fullmatch(asked.layer):
            shutil.rmtree(self._folder / COPIES / asked.layer, ignore_errors=True)

    def _write_served(self) -> None:
        with self._lock:
            temporary = self._folder / f"{SERVED}.new"
            temporary.write_text(json.dumps(sorted(self._copies)))
            temporary.replace(self._folder / SERVED)


class Answers(Protocol):
    """Who is asked over the control socket."""

    def answer(self, asked: messages.Asked) -> messages.Answered:
        """Do what is asked."""


class Control:
    """Answers at the control socket."""

    def __init__(self, listening: socket.socket, worker: Answers) -> None:
        self._listening = listening
        self._worker = worker
        self.stop = threading.Event()

    def start(self) -> None:
        """Answer in threads of its own."""
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            threading.Thread(target=self._talk, args=(connection,), name="talk", daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, msgspec.DecodeError):
            while (asked := messages.receive_asked(connection)) is not None:
                if isinstance(asked, messages.Stop):
                    messages.send(connection, messages.Done())
                    self.stop.set()
                    return
                messages.send(connection, self._worker.answer(asked))


def asked_again(connection: int, folder: Path, so: str) -> bool:
    """Have the kernel send again what a worker that died had read of its requests, and not answered.

    Where it cannot, the connection ends, and the log says `so`: False.
    """
    try:
        fuse_protocol.ask_again(connection)
    except OSError as error:
        log.error(
            "This kernel does not send requests again (%s; Linux 6.9 does), and reads that were under "
            "way would hang: %s.",
            error,
            so,
        )
        mount_calls.abort(folder / FILES)
        return False
    return True


def main() -> int:
    """Serve until the connection ends or somebody says so; 0 then."""
    parser = argparse.ArgumentParser(prog="python -m skylift.lazyfs.daemon_worker")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--connection", type=int, required=True, help="descriptor of /dev/fuse")
    parser.add_argument("--listening", type=int, required=True, help="descriptor of the control socket")
    parser.add_argument("--patience", type=float, default=60)
    parser.add_argument("--no-push", action="store_true")
    parser.add_argument("--go-on", action="store_true", help="after a worker that died")
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    folder: Path = options.folder
    home: Path = options.home or folder
    opened = open_store(options.store, home, cache=folder / "store-cache", cache_budget=_STORE_CACHE)
    # What is read is kept in the copies, and not once more.
    store = opened.store.remote if isinstance(opened.store, CachedStore) else opened.store
    fetching = Fetching(patience=options.patience, near=isinstance(store, LocalStore))
    pushing = None if options.no_push else Pushing(options.connection)
    worker = Worker(folder, store, fetching, pushing)
    control = Control(socket.socket(fileno=options.listening), worker)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: control.stop.set())
    if options.go_on:
        worker.go_on()
        so = "the layers' reads fail now, and they must be mounted anew"
        if not asked_again(options.connection, folder, so):
            return 3
    ServedFiles(options.connection, worker.files).start(control.stop.set)
    control.start()
    control.stop.wait()
    with contextlib.suppress(OSError):
        mount_calls.unmount(folder / FILES, lazily=True)
    fetching.close()
    logging.shutdown()
    sys.stdout.flush()
    # Threads that wait for a store which does not answer would be waited for.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
