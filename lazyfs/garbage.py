"""The collector: deletes the blobs that nothing refers to.

What is in use is said by the callers, as functions that find every blob which their roots reach. They are
asked twice: at leisure, for what may be garbage, and again when the sweep is announced and nobody writes
(see `skylift.lazyfs.leases`). Killed at any point, it leaves nothing behind that the next one cannot go on
from: each blob that it deletes is garbage by itself, and its announcement ends after a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from skylift.lazyfs.leases import LeaseRecord, Sweep, announce_sweep, live_leases
from skylift.lazyfs.listing import StoredBlob, put_again, stored_blobs
from skylift.lazyfs.names import Names
from skylift.lazyfs.store import Store, StoreError
from skylift.lazyfs.volume_errors import VolumeError

GRACE_SECONDS = 24 * 3600.0
"""A blob that was put since then is never garbage: not everybody who puts blobs holds a lease."""
SWEEP_LIMIT_SECONDS = 30.0
"""Writers wait for a sweep, so that it goes on for no longer; the rest is for the next one."""

Reach: TypeAlias = Callable[[Sequence[LeaseRecord]], Iterable[str]]
"""Every blob that some kind of root reaches, given the leases (which name trees in use). It must raise where
it cannot tell. It may remember what a blob reaches, since blobs do not change."""


class CollectError(StoreError):
    """It is not known what is in use, so that nothing was deleted."""


class Collected(NamedTuple):
    """What a collection did, or in a dry run would do."""

    deleted: int
    """Blobs."""
    freed: int
    """Bytes."""
    used: int
    """Blobs that are reached."""
    young: int
    """Blobs that are not reached and younger than the grace."""
    left: int = 0
    """Blobs that are garbage and still there."""
    reason: str = ""
    """Why some are left."""


def collect(
    store: Store,
    names: Names,
    reaches: Sequence[Reach],
    *,
    grace: float = GRACE_SECONDS,
    limit: float = SWEEP_LIMIT_SECONDS,
    dry_run: bool = False,
    clock: Callable[[], float] = time.time,
) -> Collected:
    """Delete blobs that none of `reaches` finds. Everything that keeps blobs in `store` must be in there.

    `grace` and `limit` in seconds. Raises `CollectError` where a reach fails, and what the store raises while
    it lists and deletes; what is deleted by then was garbage.
    """
    used = _reached(reaches, live_leases(names, clock(), remove=not dry_run), None)
    old = clock() - grace
    unreached = [found for found in stored_blobs(store) if found.blob not in used]
    garbage = [found for found in unreached if found.written < old]
    counts = (len(used), len(unreached) - len(garbage))
    if dry_run or not garbage:
        return Collected(len(garbage), sum(found.size for found in garbage), *counts)
    sweep = announce_sweep(names, clock)
    if sweep is None:
        return Collected(0, 0, *counts, len(garbage), "another collector is at work")
    try:
        leases = live_leases(names, clock())
        if writing := [lease.what for lease in leases if lease.writing]:
            return Collected(0, 0, *counts, len(garbage), f"it waits for the {', '.join(writing)}")
        used = _reached(reaches, leases, sweep)
        garbage = [found for found in garbage if found.blob not in used]
        done = list(_delete(store, garbage, sweep, clock, limit))
    finally:
        sweep.end()
    left = len(garbage) - len(done)
    return Collected(
        len(done),
        sum(found.size for found in done),
        *counts,
        left,
        "the time for one sweep was over" if left else "",
    )


def reach_by_name(names: Names, prefix: str, trace: Callable[[str, bytes], Iterable[str]]) -> Reach:
    """For roots that are records under ``prefix/``: what `trace` finds for each name and value."""

    def reach(leases: Sequence[LeaseRecord]) -> Iterator[str]:
        for name in names.under(prefix):
            value = names.get(name)
            if value is not None:
                yield from trace(name, value)

    return reach


def _reached(reaches: Sequence[Reach], leases: Sequence[LeaseRecord], sweep: Sweep | None) -> set[str]:
    found: set[str] = set()
    try:
        for reach in reaches:
            for blob in reach(leases):
                found.add(blob)
                if sweep is not None:
                    sweep.renew_when_due()
    except (StoreError, VolumeError, OSError) as error:
        raise CollectError(
            f"No garbage was collected, since it is not known what is in use: {str(error).rstrip('.')}. "
            "Repair or delete what that belongs to."
        ) from error
    return found


def _delete(
    store: Store, garbage: list[StoredBlob], sweep: Sweep, clock: Callable[[], float], limit: float
) -> Iterator[StoredBlob]:
    until = clock() + limit
    for found in garbage:
        sweep.renew_when_due()
        if not sweep.may_delete or clock() >= until:
            return
        if not put_again(store, found):
            store.delete(found.blob)
            yield found
