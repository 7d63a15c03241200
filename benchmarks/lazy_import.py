"""A cold ``import torch`` from a lazily mounted layer: ``python -m benchmarks.lazy_import``.

Beside the same files on the disk's own file system, the whole image fetched first, and squashfuse; all with
nothing in the kernel's caches. Needs root, erofs-utils, and much disk. ``--python`` names an interpreter that
has PyTorch; without it, NumPy and Matplotlib are imported.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.far_store import far_store
from benchmarks.harness import print_result, print_table, take_turns
from skylift.lazyfs import mount_calls
from skylift.lazyfs.chunked import ChunkedReader
from skylift.lazyfs.daemon_link import LayerDaemon
from skylift.lazyfs.layers import Layer, build_layer, open_layer
from skylift.lazyfs.mounts import LayerMounts, mount_image, why_not
from skylift.lazyfs.open_store import open_store
from skylift.lazyfs.store import LocalStore

ROUNDS = 3
LATENCY = 0.005
BYTES_PER_SECOND = 1e9 / 8
MODULES = ("torch", "numpy, matplotlib.pyplot")

LAZY, PREFETCHED, PULL = "lazy", "lazy, with another host's trace", "whole image first"
FAR = ", store 5 ms and 1 Gbit/s away"
DISK, SQUASHFUSE = "files on the disk", "squashfuse"


class Environment:
    """An interpreter, what it imports, and the folder that has it."""

    def __init__(self, python: str) -> None:
        self.python = python
        self.modules, self.folder = self._find()

    def _find(self) -> tuple[str, Path]:
        for modules in MODULES:
            first = modules.partition(",")[0]
            look = f"import {modules}, os; print(os.path.dirname(os.path.dirname({first}.__file__)))"
            done = subprocess.run([self.python, "-c", look], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return modules, Path(done.stdout.strip())
        raise SystemExit(f"{self.python} has neither PyTorch nor NumPy with Matplotlib")

    def run(self, tree: Path) -> None:
        """Import from `tree`, in a process of its own. Raises where something came from elsewhere."""
        first = self.modules.partition(",")[0]
        program = (
            f"import {self.modules}; assert {first}.__file__.startswith({str(tree)!r}), {first}.__file__"
        )
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run([self.python, "-s", "-c", program], env=environment, check=True, timeout=300)


def drop_caches() -> None:
    """Forget what the kernel remembers of files."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def timed(run: Callable[[], object]) -> float:
    """Seconds, from empty caches on."""
    drop_caches()
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


class Sides:
    """The ways to the files. Each run begins on a host that has nothing of them."""

    def __init__(self, environment: Environment, layer: Layer, folder: Path) -> None:
        self._environment = environment
        self._layer = layer
        self._folder = folder
        self._count = itertools.count()
        self.trace: tuple[int, ...] = ()
        self.read = 0.0
        """What the kernel asks for where it is given no more, as a part of the image."""
        self.fetched: list[float] = []
        """What came from the store for it: whole chunks, and some ahead."""

    def disk(self) -> float:
        return timed(lambda: self._environment.run(self._environment.folder))

    def lazy(self, store: str, *, prefetch: bool = False, push: bool = True) -> float:
        folder = self._new_folder()
        daemon = LayerDaemon(folder / "daemon", store, push=push)
        daemon.start()
        mounts = LayerMounts(folder / "mounts", daemon)

        def run() -> None:
            if prefetch:
                daemon.add(self._layer.id)
                daemon.prefetch(self._layer.id, self.trace)
            self._environment.run(mounts.acquire(self._layer.id))

        try:
            seconds = timed(run)
            if not prefetch:
                (stats,) = daemon.stats().layers
                if not push:
                    self.read = stats.read_bytes / stats.size
                self.fetched.append(stats.fetched_bytes / stats.size)
                self.trace = daemon.trace(self._layer.id)
            return seconds
        finally:
            mounts.close()
            daemon.stop()
            shutil.rmtree(folder)

    def pull(self, url: str) -> float:
        folder = self._new_folder()
        target = folder / "mount"
        target.mkdir()
        store = open_store(url, folder, cache=folder / "cache", cache_budget=1 << 20).store

        def run() -> None:
            ChunkedReader(open_layer(self._layer.id, store), store).copy_to(folder / "image")
            mount_image(folder / "image", target)
            self._environment.run(target)

        try:
            return timed(run)
        finally:
            self._remove(folder)

    def squashfuse(self, image: Path) -> float:
        folder = self._new_folder()
        target = folder / "mount"
        target.mkdir()

        def run() -> None:
            subprocess.run(["squashfuse", str(image), str(target)], check=True)
            self._environment.run(target)

        try:
            return timed(run)
        finally:
            self._remove(folder)

    def _new_folder(self) -> Path:
        folder = self._folder / f"host{next(self._count)}"
        folder.mkdir()
        return folder

    def _remove(self, folder: Path) -> None:
        for mounted in mount_calls.mounted_under(folder):
            mount_calls.unmount(mounted.target)
        shutil.rmtree(folder)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lazy_import", description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="an interpreter with PyTorch")
    options = parser.parse_args()
    reason = why_not()
    if reason:
        raise SystemExit(f"Layers cannot be mounted here: {reason}")
    environment = Environment(options.python)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lazy-import-")))
        near = str(folder / "store")
        store = LocalStore(folder / "store" / "blobs")
        layer = build_layer(environment.folder, store, scratch=folder)
        far = stack.enter_context(far_store(store, latency=LATENCY, bytes_per_second=BYTES_PER_SECOND))
        sides = Sides(environment, layer, folder)
        turns: dict[str, Callable[[], float]] = {
            LAZY: partial(sides.lazy, near),
            DISK: sides.disk,
            PREFETCHED: partial(sides.lazy, near, prefetch=True),
            PULL: partial(sides.pull, near),
            LAZY + FAR: partial(sides.lazy, far),
            PREFETCHED + FAR: partial(sides.lazy, far, prefetch=True),
            PULL + FAR: partial(sides.pull, far),
        }
        if shutil.which("squashfuse") and shutil.which("mksquashfs"):
            image = folder / "image.squashfs"
            subprocess.run(
                [
                    "mksquashfs",
                    str(environment.folder),
                    str(image),
                    "-comp",
                    "zstd",
                    "-Xcompression-level",
                    "1",
                ],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            turns[SQUASHFUSE] = partial(sides.squashfuse, image)
        sides.lazy(near, push=False)  # the trace, for the first turn
        load = os.getloadavg()[0]
        times = take_turns(ROUNDS, turns)
    seconds = {side: statistics.median(values) for side, values in times.items()}
    print_table(
        f"import {environment.modules}, nothing cached: {layer.size / 1e6:,.0f} MB, {ROUNDS} rounds, "
        f"load {load:.1f} before",
        ("", "median s", "least s", "most s"),
        ((side, seconds[side], min(values), max(values)) for side, values in times.items()),
    )
    result = {
        "lazy_s": seconds[LAZY],
        "ext4_s": seconds[DISK],
        "pull_then_run_s": seconds[PULL],
        "ratio_ext4": seconds[LAZY] / seconds[DISK],
        "fraction_read": sides.read,
        "fraction_fetched": statistics.median(sides.fetched),
        "prefetched_s": seconds[PREFETCHED],
        "far_lazy_s": seconds[LAZY + FAR],
        "far_prefetched_s": seconds[PREFETCHED + FAR],
        "far_pull_then_run_s": seconds[PULL + FAR],
    }
    if SQUASHFUSE in seconds:
        result["squashfuse_s"] = seconds[SQUASHFUSE]
    print_result(result)


if __name__ == "__main__":
    main()
