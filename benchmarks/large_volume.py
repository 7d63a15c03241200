"""A volume of 20,000 files and 2 GB: ``python -m benchmarks.large_volume``.

How long it takes to list, and what a commit moves that changes one file. No peers: the figures that count are
a time for people and a number of bytes.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.harness import print_result, print_table
from skylift.lazyfs.listing import stored_blobs
from skylift.lazyfs.names import LocalNames
from skylift.lazyfs.store import LocalStore
from skylift.lazyfs.volume_workdir import Workdir
from skylift.lazyfs.volumes import Volume, Volumes

FILES = 20_000
SIZE = 100_000
"""Bytes of each file."""
ROUNDS = 5


class Shelf:
    """A store with one volume, looked at as a process would that knows nothing of it yet."""

    def __init__(self, folder: Path) -> None:
        self.store = LocalStore(folder / "blobs")
        self._names = LocalNames(folder / "names")
        Volumes(self.store, self._names).create("data")

    def volume(self) -> Volume:
        return Volumes(self.store, self._names).from_name("data")

    def blobs(self) -> dict[str, int]:
        return {found.blob: found.size for found in stored_blobs(self.store)}


def make(source: Path, files: int) -> None:
    """Bytes that neither compress nor repeat."""
    source.mkdir()
    for number in range(files):
        (source / f"{number:05}.bin").write_bytes(os.urandom(SIZE))


def one_file(shelf: Shelf, work: Workdir, source: Path) -> tuple[float, int, int]:
    """Seconds of a commit of a folder in which one file has changed; blobs and bytes that came of it."""
    before = shelf.blobs()
    (source / "00042.bin").write_bytes(os.urandom(SIZE))
    begin = time.perf_counter()
    work.commit()
    seconds = time.perf_counter() - begin
    new = [size for blob, size in shelf.blobs().items() if blob not in before]
    return seconds, len(new), sum(new)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_volume", description=__doc__)
    parser.add_argument("--files", type=int, default=FILES)
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory(prefix="large-volume-") as name:
        folder = Path(name)
        shelf, copy = Shelf(folder), folder / "copy"
        copy.mkdir()
        make(copy / "data", files)
        begin = time.perf_counter()
        work = Workdir(
            shelf.volume(), copy, shelf.volume().history(1)[0], overlay=False, state=folder / "state"
        )
        work.commit()
        sent = time.perf_counter() - begin
        listing = []
        for _ in range(ROUNDS):
            volume = shelf.volume()
            begin = time.perf_counter()
            found = volume.listdir("/data")
            listing.append(time.perf_counter() - begin)
            if len(found) != files:
                raise RuntimeError(f"{len(found)} files are listed, of {files}")
        commits = [one_file(shelf, work, copy / "data") for _ in range(ROUNDS)]
        begin = time.perf_counter()
        with shelf.volume().batch_upload(force=True) as batch:
            batch.put_file(io.BytesIO(os.urandom(SIZE)), "/data/00043.bin")
        upload = time.perf_counter() - begin
        work.close()
    seconds, blobs, moved = (statistics.median(each) for each in zip(*commits, strict=True))
    print_table(
        f"A volume of {files:,} files, {files * SIZE / 1e9:.1f} GB",
        ("", ""),
        [
            ("all of it sent, s", sent),
            ("listed, ms", statistics.median(listing) * 1e3),
            ("commit of a folder, one file changed, s", seconds),
            ("upload of one file, s", upload),
            ("bytes of the file", SIZE),
            ("bytes that the commit moved", moved),
        ],
    )
    print_result(
        {
            "files": files,
            "gb": files * SIZE / 1e9,
            "send_s": sent,
            "listdir_ms": statistics.median(listing) * 1e3,
            "commit_one_file_s": seconds,
            "upload_one_file_s": upload,
            "moved_blobs": blobs,
            "moved_bytes": moved,
            "file_bytes": SIZE,
        }
    )


if __name__ == "__main__":
    main()
