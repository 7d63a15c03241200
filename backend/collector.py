"""Frees what nothing in the store needs any more: once a day, and when somebody asks for it.

What is needed is what images, volumes and their leases reach, and calls: their arguments and their code, and
what of their output is in the store, for as long as they are kept (``retention_days``). A blob that somebody
has asked for or sent within a day is kept too, since a call that names it may be on its way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from skylift.backend.database import Database, DatabaseError
from skylift.backend.schema import calls, functions, output
from skylift.backend.sharers import check_alone, note_gateway
from skylift.lazyfs.garbage import GRACE_SECONDS, Collected, collect
from skylift.lazyfs.image_records import images_reach
from skylift.lazyfs.leases import LeaseRecord
from skylift.lazyfs.names import Names
from skylift.lazyfs.store import StoreError
from skylift.lazyfs.volume_commits import volumes_reach
from skylift.lazyfs.volumes import Volumes
from skylift.wire import decode_events

if TYPE_CHECKING:
    from skylift.backend.registry import Registry

EVERY = 24 * 3600.0
FIRST = 3600.0
"""Seconds after the gateway's start."""
_NOTE_AGAIN = 60.0

log = logging.getLogger(__name__)


class Collector:
    """Runs beside the calls. Methods are called on the event loop."""

    def __init__(self, registry: Registry, database: Database, names: Names) -> None:
        self.registry = registry
        self.database = database
        self.names = names
        self._mentioned: dict[str, float] = {}
        """When blobs that were there already were asked for."""
        self._collecting = asyncio.Lock()
        self._sweeping = asyncio.Lock()
        """Held while blobs are being deleted, and it was found out just before which are needed."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Collect from time to time."""
        self._task = asyncio.get_running_loop().create_task(self._often())

    def stop(self) -> None:
        """Do not begin another time."""
        if self._task is not None:
            self._task.cancel()

    async def mention(self, blob: str) -> None:
        """Somebody is about to ask for a blob, and to count on it. Waits while blobs are being deleted."""
        self._mentioned[blob] = time.time()
        if self._sweeping.locked():
            async with self._sweeping:
                self._mentioned[blob] = time.time()

    async def collect(self, *, dry_run: bool = False) -> Collected:
        """Free what nothing needs; with `dry_run` only say how much that is.

        Raises `StoreError`, and `DatabaseError` where it cannot be read which calls there are.
        """
        store, loop = self.registry.store, asyncio.get_running_loop()
        asked = 0
        await asyncio.to_thread(self._check_alone)
        old = time.time() - GRACE_SECONDS
        self._mentioned = {blob: when for blob, when in self._mentioned.items() if when > old}

        async def of_calls() -> set[str]:
            nonlocal asked
            asked += 1
            if asked == 2:  # what is found now is what counts
                await self._sweeping.acquire()
            return await self._of_calls()

        def calls_reach(_leases: Sequence[LeaseRecord]) -> Iterable[str]:
            return asyncio.run_coroutine_threadsafe(of_calls(), loop).result()

        reaches = [calls_reach, images_reach(self.names, store), volumes_reach(store, self.names)]
        async with self._collecting:
            try:
                if not dry_run:
                    await asyncio.to_thread(Volumes(store, self.names, space="local").tidy)
                return await asyncio.to_thread(collect, store, self.names, reaches, dry_run=dry_run)
            finally:
                if asked >= 2:
                    self._sweeping.release()

    async def _of_calls(self) -> set[str]:
        await self.database.flush()  # what was accepted a moment ago
        found = await self.database.read(_blobs_of_calls)
        found.update(self._mentioned)
        for call in self.registry.calls.values():
            found.add(call.args.blob)
            if call.inputs is not None:
                found.update(payload.blob for payload in call.inputs.payloads())
        found.discard("")
        return found

    def _note(self) -> bool:
        """Tell other gateways that this one keeps blobs here; False where that did not work."""
        settings = self.registry.settings
        if not settings.host.store:
            return True  # the store of this gateway's own folder
        try:
            note_gateway(self.names, settings.home, settings.gateway.retention_days)
        except (StoreError, OSError) as error:
            log.warning("The store does not answer: %s", error)
            return False
        return True

    def _check_alone(self) -> None:
        if self.registry.settings.host.store:
            check_alone(self.names, self.registry.settings.home)

    async def _often(self) -> None:
        while not await asyncio.to_thread(self._note):  # noqa: ASYNC110
            await asyncio.sleep(_NOTE_AGAIN)
        await asyncio.sleep(FIRST)
        while True:
            try:
                done = await self.collect()
            except (StoreError, DatabaseError, OSError, TypeError) as error:
                log.warning("No garbage was collected: %s", error)
            else:
                if done.deleted:
                    log.info("%d blobs (%d bytes) that nothing needs were deleted.", done.deleted, done.freed)
            await asyncio.sleep(EVERY)
            await asyncio.to_thread(self._note)


def _blobs_of_calls(connection: Connection) -> set[str]:
    found: set[str] = set()
    for column in (functions.c.code_blob, calls.c.args_blob):
        found.update(connection.execute(select(column).where(column != "").distinct()).scalars())
    for body in connection.execute(select(output.c.body)).yield_per(256).scalars():
        found.update(event.blob for event in decode_events(body) if event.blob)
    return found
