"""What happens by the clock: charging for containers that are up, and forgetting old calls."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from skylift.backend.call_log import SPEND_SECONDS
from skylift.backend.database import DatabaseError

if TYPE_CHECKING:
    from skylift.backend.call_log import CallLog
    from skylift.backend.log_reader import LogReader
    from skylift.backend.registry import Registry

FORGET_SECONDS = 3600.0
"""How often calls older than the retention are looked for."""

log = logging.getLogger(__name__)


class Keeper:
    """Runs beside the calls."""

    def __init__(self, registry: Registry, call_log: CallLog, reader: LogReader) -> None:
        self.registry = registry
        self.log = call_log
        self.reader = reader
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; called on the event loop."""
        loop = self.registry.loop
        self._tasks = [loop.create_task(self._charge_often()), loop.create_task(self._forget_often())]

    def stop(self) -> None:
        """Charge for the last time, and end."""
        for task in self._tasks:
            task.cancel()
        self.charge()

    def charge(self) -> None:
        """Bring what running containers have cost up to now to the table of spend."""
        for container in self.registry.containers.values():
            self.log.spend(container)

    async def _charge_often(self) -> None:
        while True:
            await asyncio.sleep(SPEND_SECONDS)
            self.charge()

    async def _forget_often(self) -> None:
        days = self.registry.settings.gateway.retention_days
        while True:
            try:
                await self.reader.forget(time.time() - days * 86400)
            except DatabaseError as error:
                log.warning("Old calls stay for now: %s", error)
            await asyncio.sleep(FORGET_SECONDS)
