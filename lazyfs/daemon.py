"""Holds the FUSE connection through which layers are served: ``python -m skylift.lazyfs.daemon``.

This process mounts, listens, and does nothing else but start the worker that answers
(`skylift.lazyfs.daemon_worker`) again whenever it dies. Readers wait meanwhile and see no error. Where the
worker dies again and again, the connection ends, so that they get EIO and do not hang.

Says ``ready`` on its standard output once layers can be added at ``control.sock`` of its folder.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from skylift.lazyfs import mount_calls
from skylift.lazyfs.daemon_worker import FILES, SERVED

log = logging.getLogger(__name__)

CONTROL = "control.sock"
_MOST_DEATHS = 5
_DEATHS_WITHIN = 30.0
"""Seconds."""


class Holder:
    """The FUSE connection, the control socket, and the worker that has both."""

    def __init__(
        self,
        folder: Path,
        store: str,
        patience: float,
        home: Path,
        *,
        worker: str = "skylift.lazyfs.daemon_worker",
        more: Sequence[str] = (),
    ) -> None:
        """Mounts ``folder/files``; `worker` is the module that answers there, `more` are arguments for it.
        Raises OSError."""
        self._folder = folder
        self._module = worker
        self._arguments = ["--folder", str(folder), "--store", store, "--patience", str(patience)]
        self._arguments += ["--home", str(home), *more]
        self._asked_to_end = False
        self._worker: subprocess.Popen[bytes] | None = None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The worker has it too: as long as one of the two lives, no other daemon takes this folder.
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unmount_left(folder)
        (folder / SERVED).unlink(missing_ok=True)
        self._listening = _listen(folder / CONTROL)
        self._connection = _mount(folder / FILES)

    def run(self) -> int:
        """Until somebody ends it (0), or the worker cannot be kept alive (1)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        deaths: deque[float] = deque(maxlen=_MOST_DEATHS)
        self._start_worker([])
        print("ready", flush=True)
        while True:
            assert self._worker is not None
            code = self._worker.wait()
            if code == 0 or self._asked_to_end:
                self._close()
                return 0
            log.error("The process that serves files died (%s): starting another", code)
            deaths.append(time.monotonic())
            if len(deaths) == _MOST_DEATHS and deaths[-1] - deaths[0] < _DEATHS_WITHIN:
                log.error("It died %d times in a row: reads fail from now on", _MOST_DEATHS)
                self._close()
                return 1
            self._start_worker(["--go-on"])

    def _start_worker(self, more: list[str]) -> None:
        passed = (self._connection, self._listening.fileno(), self._lock)
        self._worker = subprocess.Popen(
            [
                *(sys.executable, "-m", self._module, *self._arguments),
                *("--connection", str(passed[0]), "--listening", str(passed[1]), *more),
            ],
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        if self._asked_to_end:
            self._worker.terminate()

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_end = True
        if self._worker is not None:
            self._worker.terminate()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # the worker has done it
            mount_calls.unmount(self._folder / FILES, lazily=True)
        (self._folder / CONTROL).unlink(missing_ok=True)
        self._listening.close()
        # The last one that holds it: what waits for an answer gets an error.
        os.close(self._connection)


def unmount_left(folder: Path) -> None:
    """Unmount what a daemon or a host that was killed has left in a folder. Raises OSError."""
    for mounted in mount_calls.mounted_under(folder):
        log.warning("%s was left mounted: unmounting it", mounted.target)
        mount_calls.unmount(mounted.target, lazily=True)


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # By way of the folder: a path for a socket may have 107 bytes.
    here = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        listening.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)
    path.chmod(0o600)
    listening.listen(64)
    return listening


def _mount(target: Path) -> int:
    target.mkdir(mode=0o700, exist_ok=True)
    connection = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={connection},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()}"
        flags = mount_calls.MS_RDONLY | mount_calls.MS_NOSUID | mount_calls.MS_NODEV
        mount_calls.mount("skylift", target, "fuse.skylift", flags, options)
    except BaseException:
        os.close(connection)
        raise
    return connection


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m skylift.lazyfs.daemon")
    parser.add_argument("--folder", type=Path, required=True, help="for what it keeps, and its socket")
    parser.add_argument("--store", required=True, help="a store's URL")
    parser.add_argument("--home", type=Path, help="where the store of an empty URL is")
    parser.add_argument("--patience", type=float, default=60, help="seconds that a read waits for the store")
    parser.add_argument("--no-push", action="store_true", help="give the kernel what it asks for and no more")
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    folder = options.folder.absolute()
    try:
        more = ["--no-push"] if options.no_push else []
        holder = Holder(folder, options.store, options.patience, options.home or folder, more=more)
    except BlockingIOError:
        log.error("Another daemon serves layers in %s already", folder)
        return 2
    except OSError as error:
        log.error("Layers cannot be served in %s: %s", folder, error)
        return 1
    return holder.run()


if __name__ == "__main__":
    sys.exit(main())
