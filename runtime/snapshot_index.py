"""Which snapshots there are, as all hosts that share the store see it.

Each snapshot has a small record under a name (`skylift.lazyfs.names`): ``snapshots/template/KEY/ID`` or
``snapshots/session/KEY/ID``, where ID begins its manifest's name. A key may have several, written on machines
that lack something of each other. A record whose snapshot was retired stays, so that it is not written again.
"""

from __future__ import annotations

import time

import msgspec

from skylift.lazyfs.names import Names
from skylift.runtime.snapshot_manifest import Kind
from skylift.runtime.snapshot_needs import Needs
from skylift.wire import SnapshotRef

PREFIX = "snapshots"
USED_STEP = 60.0
"""Seconds: a use is noted only where the last one noted is older."""
FORGET_RETIRED = 30 * 24 * 3600.0
"""Seconds after which a retired snapshot's record goes."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of one snapshot."""

    kind: Kind
    key: str
    ref: SnapshotRef
    needs: Needs
    host: str
    """Id of the host that wrote it."""
    used: float
    """Unix time of its last use, give or take `USED_STEP`."""
    retired: str = ""
    """Why it must not be restored any more; "" where it may."""
    retired_at: float = 0.0
    """Unix time."""
    retired_with: str = ""
    """CRIU and kernel that could not restore it."""


class SnapshotIndex:
    """The records. Methods may block, and raise OSError where the names cannot be reached."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def of(self, kind: Kind, key: str) -> list[Record]:
        """The records of a key, the newest first."""
        return self._read(f"{PREFIX}/{kind}/{key}")

    def all(self) -> list[Record]:
        """Every record, the newest first."""
        return self._read(PREFIX)

    def find(self, manifest: str) -> Record | None:
        """The record of a snapshot."""
        for name in self._names.under(PREFIX):
            if name.rpartition("/")[2] == _id(manifest):
                return self._record(name)
        return None

    def put(self, record: Record) -> None:
        """Write it, or write it anew."""
        self._names.put(_name(record), msgspec.json.encode(record))

    def delete(self, record: Record) -> None:
        """Idempotent."""
        self._names.delete(_name(record))

    def note_use(self, record: Record) -> None:
        """Its snapshot is used now."""
        now = time.time()
        if now - record.used > USED_STEP:
            self.put(msgspec.structs.replace(record, used=now))

    def _read(self, prefix: str) -> list[Record]:
        records = (self._record(name) for name in self._names.under(prefix))
        return sorted((each for each in records if each), key=lambda each: each.ref.created, reverse=True)

    def _record(self, name: str) -> Record | None:
        value = self._names.get(name)
        if value is None:
            return None  # deleted meanwhile
        try:
            return msgspec.json.decode(value, type=Record)
        except msgspec.MsgspecError:
            return None  # of another version: whoever wrote it knows what to do with it


def _name(record: Record) -> str:
    return f"{PREFIX}/{record.kind}/{record.key}/{_id(record.ref.manifest)}"


def _id(manifest: str) -> str:
    return manifest[:32]
