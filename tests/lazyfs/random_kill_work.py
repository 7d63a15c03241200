"""What the processes do that `test_random_kills` kills: upload, commit, collect garbage, for ever.

Run as a program it starts them: for each line ``KIND SEED`` on its input a process, whose pid it prints. It
has imported everything by then, so that starting one takes a millisecond.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import signal
import sys
from pathlib import Path

from skylift.lazyfs import leases
from skylift.lazyfs.garbage import collect
from skylift.lazyfs.leases import LeaseLostError
from skylift.lazyfs.names import LocalNames
from skylift.lazyfs.store import LocalStore
from skylift.lazyfs.volume_commits import volumes_reach
from skylift.lazyfs.volume_workdir import Workdir
from skylift.lazyfs.volumes import Volumes

SIZES = (0, 40, 3000, 3000, 40_000, 1_300_000)


def hurry() -> None:
    """Who is killed is forgotten within seconds: it happens every moment here."""
    leases.LEASE_SECONDS, leases.SWEEP_SECONDS = 3.0, 3.0
    leases._MARGIN_SECONDS, leases._RENEW_SECONDS = 0.5, 0.3


def opened(folder: Path) -> Volumes:
    return Volumes(LocalStore(folder / "blobs"), LocalNames(folder / "names"))


def content(chance: random.Random) -> bytes:
    """Bytes that show whether they are whole."""
    seed = chance.randbytes(16)
    size = chance.choice(SIZES)
    body = hashlib.shake_128(seed).digest(size)
    return seed + size.to_bytes(4, "big") + body


def is_whole(data: bytes) -> bool:
    size = int.from_bytes(data[16:20], "big")
    return data[20:] == hashlib.shake_128(data[:16]).digest(size)


def tell(folder: Path, version: int) -> None:
    """A commit has come back: the volume is never again before that."""
    with (folder / "told").open("a") as file:
        file.write(f"{version}\n")


def upload(folder: Path, seed: int) -> None:
    hurry()
    chance = random.Random(seed)
    volume = opened(folder).from_name("data")
    while True:
        with contextlib.suppress(LeaseLostError):
            with volume.batch_upload(force=True) as batch:
                for _ in range(chance.randint(1, 6)):
                    path = f"/up/{chance.randint(0, 3)}/{chance.randint(0, 9)}"
                    batch.put_file(io.BytesIO(content(chance)), path)
            tell(folder, volume.info().version)


def commit(folder: Path, seed: int) -> None:
    hurry()
    chance = random.Random(seed)
    volume = opened(folder).from_name("data")
    copy = folder / "copy"
    copy.mkdir(exist_ok=True)
    state = folder / "state"
    base = None if state.exists() else volume.history(1)[0]
    work = Workdir(volume, copy, base, overlay=False, state=state)
    while True:
        for _ in range(chance.randint(1, 5)):
            path = copy / "work" / str(chance.randint(0, 3)) / str(chance.randint(0, 9))
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = folder / "new"
            temporary.write_bytes(content(chance))
            temporary.replace(path)
        with contextlib.suppress(LeaseLostError):
            work.renew()
            tell(folder, work.commit().version.number)


def sweep(folder: Path, _seed: int) -> None:
    hurry()
    store, names = LocalStore(folder / "blobs"), LocalNames(folder / "names")
    while True:
        done = collect(store, names, [volumes_reach(store, names)], grace=0.0)
        with (folder / "swept").open("a") as file:
            file.write(f"{done.deleted} {done.left}\n")


def main(folder: Path) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        kind, seed = line.split()
        pid = os.fork()
        if pid == 0:
            {"upload": upload, "commit": commit, "sweep": sweep}[kind](folder, int(seed))
        print(pid, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
