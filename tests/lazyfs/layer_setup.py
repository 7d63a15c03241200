"""A daemon that serves layers from a local store, ended and unmounted whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from skylift.lazyfs import mount_calls
from skylift.lazyfs.chunked import ChunkedFile
from skylift.lazyfs.daemon_link import LayerDaemon
from skylift.lazyfs.layers import Layer, build_layer, open_layer
from skylift.lazyfs.mounts import LayerMounts
from skylift.lazyfs.store import LocalStore

READ = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"


class Setup:
    """A store, a daemon on it, and its mounts, under one folder."""

    def __init__(self, folder: Path, *, patience: float = 20) -> None:
        self.folder = folder
        self.store = LocalStore(folder / "store" / "blobs")
        self.daemon = LayerDaemon(folder / "daemon", str(folder / "store"), patience=patience)
        self.daemon.start()
        self.mounts = LayerMounts(folder / "mounts", self.daemon)

    def layer(self, files: dict[str, bytes]) -> Layer:
        """One of these files."""
        source = self.folder / f"source{len(list(self.folder.iterdir()))}"
        source.mkdir()
        for name, data in files.items():
            (source / name).write_bytes(data)
        return build_layer(source, self.store, scratch=self.folder)

    def file(self, layer: Layer) -> ChunkedFile:
        """What the layer is made of."""
        return open_layer(layer.id, self.store)

    def blob_path(self, layer: Layer, chunk: int) -> Path:
        """Where the store has a chunk."""
        return self.store.path(self.file(layer).chunks[chunk].blob)

    def copy_folder(self, layer: Layer) -> Path:
        """Where the daemon keeps what was read."""
        return self.folder / "daemon" / "copies" / layer.id

    def read(self, path: Path, seconds: float = 60) -> bytes:
        """Read in a process of its own, since a read that hangs cannot be ended otherwise. Raises OSError."""
        done = subprocess.run(
            [sys.executable, "-c", READ, str(path)], capture_output=True, timeout=seconds, check=False
        )
        if done.returncode:
            raise OSError(done.stderr.decode().strip().splitlines()[-1])
        return done.stdout

    def kill_worker(self) -> int:
        """kill -9 the process that answers; its pid."""
        pid = self.daemon.stats().pid
        os.kill(pid, signal.SIGKILL)
        return pid

    def drop_caches(self) -> None:
        """What the kernel remembers of files."""
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")

    def log(self) -> str:
        """What the daemon said."""
        return self.daemon.log_file.read_text()


@contextlib.contextmanager
def layer_setup(folder: Path, *, patience: float = 20) -> Iterator[Setup]:
    """Ends the daemon and unmounts all, also after an error."""
    setup = None
    try:
        setup = Setup(folder, patience=patience)
        yield setup
    finally:
        if setup is not None:
            setup.mounts.close()
            setup.daemon.stop()
        for left in mount_calls.mounted_under(folder):
            with contextlib.suppress(OSError):
                mount_calls.unmount(left.target, lazily=True)
