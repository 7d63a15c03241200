"""Files of a volume in a container beside files of ext4: ``python -m benchmarks.volume_io``.

The same code reads and writes both, in the same container: files of a volume, and files of the host's own
disk, which the container sees through a bind mount (a folder of the notebook). Reads are warm (a second time)
and cold (page cache dropped, and nothing in the daemon's memory). Needs root.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import print_result, print_table
from scripts.own_gateway import own_gateway

SIZE = 256 << 20
"""Bytes of the file that is read and written from its beginning to its end."""
SMALL_FILES, SMALL_SIZE = 2000, 4096
ROUNDS = 5
WARM = 3
"""Reads of what is in memory, in each round."""


def read(folder: str) -> float:
    """Seconds for the large file, MiB by MiB."""
    buffer = memoryview(bytearray(1 << 20))
    begin = time.perf_counter()
    with open(f"{folder}/big.bin", "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - begin


def read_small(folder: str) -> float:
    """Seconds for listing and reading all small files."""
    begin = time.perf_counter()
    for entry in os.scandir(f"{folder}/small"):
        with open(entry.path, "rb", buffering=0) as file:
            file.read()
    return time.perf_counter() - begin


def write(folder: str, size: int) -> float:
    """Seconds for another file as large, until it is on the disk."""
    data = os.urandom(1 << 20)
    begin = time.perf_counter()
    with open(f"{folder}/written.bin", "wb", buffering=0) as file:
        for _ in range(size >> 20):
            file.write(data)
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    os.remove(f"{folder}/written.bin")
    return seconds


def drop_caches() -> None:
    """Of the whole machine. Raises PermissionError."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def make(folder: Path, size: int) -> None:
    """The files to be read; they do not compress."""
    (folder / "small").mkdir(parents=True)
    with (folder / "big.bin").open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    for number in range(SMALL_FILES):
        (folder / "small" / f"{number:05}").write_bytes(os.urandom(SMALL_SIZE))


class Sides:
    """A function in a container that has both."""

    def __init__(self, folder: Path, size: int) -> None:
        import skylift

        self._plain = folder / "plain"
        self._size = size
        make(self._plain, size)
        volume = skylift.Volume.from_name("data", create_if_missing=True)
        with volume.batch_upload() as batch:
            batch.put_directory(self._plain, "/")
        self._app = skylift.App("volume-io")
        # Memory enough that what is read stays in the page cache.
        self.measure = self._app.function(
            volumes={"/data": volume}, max_containers=1, timeout=600, scaledown_window=600, memory=(512, 8192)
        )(_measure)

    def volume(self, what: str) -> float:
        """Seconds in the volume."""
        with self._app.run():
            return float(self.measure.remote(what, "/data", self._size))

    def ext4(self, what: str) -> float:
        """Seconds on the disk, by the same code in this process."""
        return _measure(what, str(self._plain), self._size)


def _measure(what: str, folder: str, size: int) -> float:
    if what == "write":
        return write(folder, size)
    return read_small(folder) if what == "small" else read(folder)


@contextmanager
def sides(size: int) -> Iterator[Sides]:
    """Starts a gateway and a host with a home of their own; ends them and what they started."""
    with (
        tempfile.TemporaryDirectory(prefix="skylift-benchmark-", dir="/var/tmp") as folder,
        own_gateway(Path(folder) / "home") as environment,
    ):
        os.environ.update(environment)
        yield Sides(Path(folder), size)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.volume_io")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--size", type=int, default=SIZE, help="bytes of the large file")
    options = parser.parse_args()
    times: dict[tuple[str, str], list[float]] = {}
    with sides(options.size) as both:
        each: dict[str, Callable[[str], float]] = {"volume": both.volume, "ext4": both.ext4}
        both.volume("read")  # starts the container
        for number in range(options.rounds):
            for name in ("volume", "ext4") if number % 2 else ("ext4", "volume"):
                side = each[name]
                for what in ("read", "small"):
                    drop_caches()
                    times.setdefault((name, f"cold {what}"), []).append(side(what))
                    times.setdefault((name, f"warm {what}"), []).extend(side(what) for _ in range(WARM))
                times.setdefault((name, "write"), []).append(side("write"))
    report(times, options.size)


def report(times: dict[tuple[str, str], list[float]], size: int) -> None:
    """The table and the last line."""
    kinds = ("warm read", "cold read", "write", "warm small", "cold small")
    medians: dict[tuple[str, str], Any] = {key: statistics.median(found) for key, found in times.items()}
    ratios = {kind: medians["ext4", kind] / medians["volume", kind] for kind in kinds}
    labels = {
        "warm read": f"read {size >> 20} MiB, warm",
        "cold read": "the same, cold",
        "write": f"write {size >> 20} MiB, to the disk",
        "warm small": f"read {SMALL_FILES:,} files of 4 KiB, warm",
        "cold small": "the same, cold",
    }
    print_table(
        "A volume in a container beside ext4, in milliseconds",
        ("", "volume", "ext4", "ext4 / volume"),
        [
            (labels[kind], medians["volume", kind] * 1e3, medians["ext4", kind] * 1e3, ratios[kind])
            for kind in kinds
        ],
    )
    print_result(
        {
            "warm_read_ratio_ext4": ratios["warm read"],
            "cold_read_ratio_ext4": ratios["cold read"],
            "write_ratio_ext4": ratios["write"],
            "small_files_ratio_ext4": ratios["warm small"],
            "small_files_cold_ratio_ext4": ratios["cold small"],
        }
    )


if __name__ == "__main__":
    main()
