"""The process that shows trees: answers the kernel, and what is asked over the control socket.

Started by `skylift.lazyfs.tree_daemon`; the next one goes on where one that died has left off.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from skylift.lazyfs import daemon_messages as messages
from skylift.lazyfs import mount_calls
from skylift.lazyfs.daemon_worker import FILES, SWITCH_INTERVAL, Control, asked_again
from skylift.lazyfs.open_store import open_store
from skylift.lazyfs.tree_files import TreeFiles
from skylift.lazyfs.tree_nodes import Nodes
from skylift.lazyfs.trees import Trees

log = logging.getLogger(__name__)

NODES = "nodes"
_KEPT_ENTRIES = 300_000


class Worker:
    """What it is asked."""

    def answer(self, asked: messages.Asked) -> messages.Answered:
        """Only whether it lives."""
        if isinstance(asked, messages.GetStats):
            return messages.Stats((), os.getpid())
        return messages.Failed("This daemon shows trees, and nothing else can be asked of it.")


def main() -> int:
    """Serve until the connection ends or somebody says so; 0 then."""
    parser = argparse.ArgumentParser(prog="python -m skylift.lazyfs.tree_worker")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--connection", type=int, required=True, help="descriptor of /dev/fuse")
    parser.add_argument("--listening", type=int, required=True, help="descriptor of the control socket")
    parser.add_argument("--patience", type=float, default=60)
    parser.add_argument("--owner", required=True)
    parser.add_argument("--go-on", action="store_true", help="after a worker that died")
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    folder: Path = options.folder
    home: Path = options.home or folder
    store = open_store(options.store, home, cache=folder / "cache").store
    user, _, group = options.owner.partition(":")
    nodes = Nodes(folder / NODES, go_on=options.go_on)
    files = TreeFiles(
        options.connection, Trees(store, kept_entries=_KEPT_ENTRIES), nodes, (int(user), int(group))
    )
    control = Control(socket.socket(fileno=options.listening), Worker())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: control.stop.set())
    if options.go_on and not asked_again(options.connection, folder, "reads of volumes fail now"):
        return 3
    files.start(control.stop.set)
    control.start()
    control.stop.wait()
    with contextlib.suppress(OSError):
        mount_calls.unmount(folder / FILES, lazily=True)
    logging.shutdown()
    # Threads that wait for a store which does not answer would be waited for.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
