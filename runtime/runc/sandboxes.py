"""Network namespaces that are ready before a container asks: making one takes as long as half a container."""

from __future__ import annotations

import asyncio
import contextlib

from skylift.runtime.runc.commands import CommandError, within
from skylift.runtime.runc.id_map import IdMaps
from skylift.runtime.runc.namespaces import HeldNamespaces, hold_container_namespaces
from skylift.runtime.runc.networks import Attachment, Network

READY = 2
"""How many are kept."""


class Sandbox:
    """A user and a network namespace, connected."""

    def __init__(self, namespaces: HeldNamespaces, attachment: Attachment) -> None:
        self.namespaces = namespaces
        self.attachment = attachment

    async def close(self) -> None:
        """Take both down. Idempotent."""
        await self.attachment.close()
        await self.namespaces.close()


class Sandboxes:
    """Makes sandboxes, a few ahead."""

    def __init__(self, network: Network, maps: IdMaps, prefix: list[str]) -> None:
        self._network = network
        self._maps = maps
        self._prefix = prefix
        self._ready: list[Sandbox] = []
        self._refilling: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    async def take(self) -> Sandbox:
        """One that is ready, or a new one. Raises `CommandError`."""
        return self._ready.pop() if self._ready else await self._make()

    def refill(self, pause: float = 0.0) -> None:
        """Make what is lacking, in the background, after so many seconds."""
        if not self._closed.is_set() and (self._refilling is None or self._refilling.done()):
            self._refilling = asyncio.ensure_future(self._refill(pause))

    async def close(self) -> None:
        """Take down those that nobody took. Idempotent."""
        self._closed.set()
        if self._refilling is not None:
            await self._refilling
        while self._ready:
            await self._ready.pop().close()

    async def _refill(self, pause: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await within(self._closed.wait(), pause)
        # What is wrong is said to who takes one next: then it is made at once, and fails there.
        with contextlib.suppress(CommandError):
            while len(self._ready) < READY and not self._closed.is_set():
                self._ready.append(await self._make())

    async def _make(self) -> Sandbox:
        namespaces = await hold_container_namespaces(self._maps, self._prefix)
        try:
            return Sandbox(namespaces, await self._network.attach(namespaces))
        except BaseException:
            await namespaces.close()
            raise
