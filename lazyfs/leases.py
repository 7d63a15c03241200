"""Leases: who is writing, and which trees are in use, so that no collector takes them.

A blob that no root reaches is garbage, unless somebody is about to refer to it. Who writes holds a lease
meanwhile; so does a container, for the trees that it sees. The rule between writers and collectors:

- A writer writes its lease first, then waits while a sweep goes on. So no blob that it found in the store,
  and therefore did not send, is deleted under its hands.
- A collector announces its sweep first, then looks for writers. Where there is one, it deletes nothing this
  time. What the roots reach it finds out again then, since a writer may have come and gone.

Who is killed leaves a lease behind. It counts until it was not renewed for `LEASE_SECONDS`; then a collector
removes it, and a holder that was only very slow is told so by `Lease.renew`. Names of leases are
``leases/ID``; the announcement of a sweep is ``sweeps/now``.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from skylift.lazyfs.names import Names
from skylift.lazyfs.store import StoreError
from skylift.wire.ids import new_id

LEASE_SECONDS = 600.0
"""A lease that was not renewed for so long is that of somebody who is gone."""
SWEEP_SECONDS = 60.0
"""An announcement that was not renewed for so long is that of a collector that is gone."""
_MARGIN_SECONDS = 20.0
"""So long before its announcement ends a collector deletes nothing more: clocks differ, requests are slow."""
_RENEW_SECONDS = 60.0
_FOLDER = "leases"
_SWEEP = "sweeps/now"
_ENDED = b"0.0"

Clock = Callable[[], float]


class LeaseLostError(StoreError):
    """A lease was not renewed for too long, and does not count any more."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The lease of the {what} has ended: it was not renewed for {LEASE_SECONDS:.0f} seconds, because "
            "this machine slept or the store did not answer. What it wrote may have been collected; do it "
            "again."
        )


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
    """One lease. A context manager: it ends with the block. Thread-safe."""

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
        """Takes the lease, and waits while a sweep goes on.

        Trees that were not roots by then may be gone: look whether they are there. Raises OSError.
        """
        self._names = names
        self._clock = clock
        self._lock = threading.Lock()
        self.name = f"{_FOLDER}/{new_id('le')}"
        now = clock()
        self._record = LeaseRecord(what, now, now, writing, trees)
        self._value = msgspec.json.encode(self._record)
        names.put(self.name, self._value)
        try:
            while sweep_announced(names, clock()):
                wait(0.05)
                self.renew_when_due()
        except BaseException:
            with contextlib.suppress(OSError):
                self.end()
            raise

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        # What it is left for has ended already, well or badly; an old lease expires.
        with contextlib.suppress(OSError):
            self.end()

    def renew(self, trees: tuple[str, ...] | None = None) -> None:
        """Say that the holder lives; with `trees`, that these are in use now.

        A writer does so right before it makes a root, and again when that is made: then no collector has
        taken what the root needs. Raises `LeaseLostError` (nothing that was written counts), and OSError.
        """
        with self._lock:
            trees = self._record.trees if trees is None else trees
            record = msgspec.structs.replace(self._record, renewed=self._clock(), trees=trees)
            value = msgspec.json.encode(record)
            # Not `put`: that would bring a lease back that a collector has seen end.
            if not self._names.swap(self.name, self._value, value) and self._names.get(self.name) != value:
                raise LeaseLostError(record.what)
            self._record, self._value = record, value

    def renew_when_due(self) -> None:
        """`renew` where that was not done for a minute. Cheap: for loops. Raises as it does."""
        if self._clock() - self._record.renewed >= _RENEW_SECONDS:
            self.renew()

    @contextlib.contextmanager
    def renewed_meanwhile(self, every: float = _RENEW_SECONDS) -> Iterator[None]:
        """Around what takes long and calls nothing of ours: renewed by a thread. Errors come by `renew`."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(every):
                with contextlib.suppress(LeaseLostError, OSError):  # the holder's own `renew` says it
                    self.renew()

        thread = threading.Thread(target=beat, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def end(self) -> None:
        """Give it back. Raises OSError."""
        self._names.delete(self.name)


def live_leases(names: Names, now: float, *, remove: bool = True) -> list[LeaseRecord]:
    """The leases of those who live; with `remove`, those of others are deleted. Raises OSError."""
    found = []
    for name in names.under(_FOLDER):
        value = names.get(name)
        if value is None:
            continue
        record: LeaseRecord | None
        try:
            record = msgspec.json.decode(value, type=LeaseRecord)
        except msgspec.MsgspecError:
            record = None
        if record is not None and now - record.renewed < LEASE_SECONDS:
            found.append(record)
        elif remove:
            names.delete(name)
    return found


class Sweep:
    """An announced sweep; writers wait until it ends."""

    def __init__(self, names: Names, clock: Clock, value: bytes) -> None:
        self._names = names
        self._clock = clock
        self._value = value
        self._renewed = clock()

    @property
    def may_delete(self) -> bool:
        """Whether it counts for long enough that one more blob can be deleted."""
        return 0 <= self._clock() - self._renewed < SWEEP_SECONDS - _MARGIN_SECONDS

    def renew_when_due(self) -> None:
        """Let it count longer; where that fails, it ends by itself. Raises OSError."""
        if self.may_delete and self._clock() - self._renewed >= _MARGIN_SECONDS:
            now = self._clock()
            value = _announcement(now)
            if self._names.swap(_SWEEP, self._value, value):
                self._value, self._renewed = value, now

    def end(self) -> None:
        """Let the writers go on. Raises OSError."""
        self._names.swap(_SWEEP, self._value, _ENDED)  # another's stays


def announce_sweep(names: Names, clock: Clock = time.time) -> Sweep | None:
    """Announce a sweep; None where another collector has. Raises OSError."""
    current = names.get(_SWEEP)
    now = clock()
    if _counts(current, now):
        return None
    value = _announcement(now)
    sweep = Sweep(names, clock, value)
    return sweep if names.swap(_SWEEP, current, value) or names.get(_SWEEP) == value else None


def sweep_announced(names: Names, now: float) -> bool:
    """Whether a sweep goes on. Raises OSError."""
    return _counts(names.get(_SWEEP), now)


def _announcement(now: float) -> bytes:
    """A number, of which no two collectors write the same."""
    return f"{now:.3f}{random.SystemRandom().randrange(10**9):09}".encode()


def _counts(value: bytes | None, now: float) -> bool:
    try:
        return value is not None and now - msgspec.json.decode(value, type=float) < SWEEP_SECONDS
    except msgspec.MsgspecError:
        return False
