"""Which gateways share a store: only each of them knows what its own calls need of it."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

from blake3 import blake3

from skylift.lazyfs.names import Names
from skylift.lazyfs.store import StoreError
from skylift.wire import machine_id

_PREFIX = "gateways"


class SharedStoreError(StoreError):
    """What is garbage cannot be known, since other gateways keep blobs in this store too."""


def note_gateway(names: Names, home: Path, keeps_days: float) -> None:
    """Say that a gateway keeps blobs here, for so many days after its last call. Within a day of its first
    blob, and every day from then on. Raises OSError and `StoreError`."""
    until = time.time() + (keeps_days + 1) * 24 * 3600
    record = {"where": f"{home} on {platform.node()}", "until": until}
    names.put(_name_of(home), json.dumps(record).encode())


def check_alone(names: Names, home: Path) -> None:
    """Raises `SharedStoreError` where other gateways keep blobs here, OSError and other `StoreError`s where
    that cannot be read."""
    others = []
    for name in names.under(_PREFIX):
        value = names.get(name)
        if name == _name_of(home) or value is None:
            continue
        record = json.loads(value)
        if record["until"] > time.time():
            others.append(record["where"])
        else:
            names.delete(name)
    if others:
        raise SharedStoreError(
            f"other gateways keep their calls in this store too ({', '.join(sorted(others))}), and what "
            "these need is not known here. Give each gateway a folder of its own in the bucket "
            "(s3://BUCKET/FOLDER) if it is to be freed."
        )


def _name_of(home: Path) -> str:
    return f"{_PREFIX}/{blake3(f'{machine_id()} {home}'.encode()).hexdigest()[:32]}"
