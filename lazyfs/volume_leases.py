"""Leases: what is being written, and which trees are in use, so that no collector takes them.

A blob that no root reaches is garbage, unless somebody is about to refer to it. Who writes to a volume holds
a lease meanwhile; so does a container, for the tree that it sees. The rule between writers and collectors:

- A writer writes its lease first, then waits while a sweep goes on. So no blob that it found in the store,
  and therefore did not send, is deleted under its hands.
- A collector announces its sweep first, then looks for writers. Where there is one, it deletes nothing this
  time. What was reached from the roots it has to find out again then, since a writer may have come and gone.

Who is killed leaves a lease behind. It counts until it was not renewed for `LEASE_SECONDS`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import msgspec

from skylift.lazyfs.names import Names
from skylift.wire.ids import new_id

LEASE_SECONDS = 600.0
"""A lease that was not renewed for so long is that of somebody who is gone."""
SWEEP_SECONDS = 60.0
"""No sweep takes longer; one that seems to is that of somebody who is gone."""
_RENEW_SECONDS = 60.0
_FOLDER = "leases"
_SWEEP = "sweeps/now"

Clock = Callable[[], float]


class LeaseRecord(msgspec.Struct, frozen=True):
    """A lease as it is kept."""

    what: str
    """For people: "upload to volume data"."""
    started: float
    """Seconds since 1970."""
    renewed: float
    writing: bool
    """Blobs are being put, or found, that nothing refers to yet."""
    trees: tuple[str, ...] = ()
    """Roots of trees that are in use."""


class Lease:
    """One lease. A context manager: it ends with the block."""

    def __init__(
        self,
        names: Names,
        what: str,
        *,
        writing: bool = True,
        trees: tuple[str, ...] = (),
        clock: Clock = time.time,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Takes the lease, and waits while a sweep goes on. Raises OSError."""
        self._names = names
        self._clock = clock
        self._name = f"{_FOLDER}/{new_id('le')}"
        now = clock()
        self._record = LeaseRecord(what, now, now, writing, trees)
        self._put()
        while _sweeping(names, clock()):
            wait(0.05)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        # What it is left for has ended already, well or badly; an old lease expires.
        with contextlib.suppress(OSError):
            self.end()

    def renew(self, trees: tuple[str, ...] | None = None) -> None:
        """Say that the holder lives; with `trees`, that these are in use now. Raises OSError."""
        trees = self._record.trees if trees is None else trees
        self._record = msgspec.structs.replace(self._record, renewed=self._clock(), trees=trees)
        self._put()

    def renew_when_due(self) -> None:
        """`renew` where that was not done for a minute. Cheap: for loops."""
        if self._clock() - self._record.renewed >= _RENEW_SECONDS:
            self.renew()

    def end(self) -> None:
        """Give it back. Raises OSError."""
        self._names.delete(self._name)

    def _put(self) -> None:
        self._names.put(self._name, msgspec.json.encode(self._record))


def live_leases(names: Names, now: float) -> list[LeaseRecord]:
    """The leases of those who live. Those of others are deleted. Raises OSError."""
    found = []
    for name in names.under(_FOLDER):
        value = names.get(name)
        if value is None:
            continue
        try:
            record = msgspec.json.decode(value, type=LeaseRecord)
        except msgspec.MsgspecError:
            names.delete(name)
            continue
        if now - record.renewed < LEASE_SECONDS:
            found.append(record)
        else:
            names.delete(name)
    return found


@contextlib.contextmanager
def sweeping(names: Names, clock: Clock = time.time) -> Iterator[bool]:
    """Around a sweep of at most `SWEEP_SECONDS`: whether blobs may be deleted now. Raises OSError.

    With True, find out once more what the roots reach, within the block, then delete. Writers wait.
    """
    names.put(_SWEEP, msgspec.json.encode(clock()))
    try:
        yield not any(lease.writing for lease in live_leases(names, clock()))
    finally:
        names.delete(_SWEEP)


def _sweeping(names: Names, now: float) -> bool:
    value = names.get(_SWEEP)
    try:
        return value is not None and now - msgspec.json.decode(value, type=float) < SWEEP_SECONDS
    except msgspec.MsgspecError:
        return False
