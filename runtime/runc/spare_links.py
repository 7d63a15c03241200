"""Pairs of network interfaces that are ready before a container is forked: making one takes longer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from skylift.runtime.runc.bridge import BridgeNetwork, Pair
from skylift.runtime.runc.commands import CommandError
from skylift.runtime.runc.netlink import move_to_namespace

READY = 4
"""How many are kept."""


class SpareLinks:
    """Makes pairs, a few ahead: the outer ends on the bridge, the inner ends not in a namespace yet."""

    def __init__(self, network: BridgeNetwork) -> None:
        self._network = network
        self._ready: list[Pair] = []
        self._making = asyncio.Lock()
        self._refilling: asyncio.Task[None] | None = None
        self._closed = False

    async def take(self) -> Pair:
        """One that is ready, or a new one. Raises `CommandError`."""
        while not self._ready:
            async with self._making:
                if not self._ready:
                    self._ready += await self._network.make_pairs(READY)
        pair = self._ready.pop()
        self._refill()
        return pair

    def describe(self, pair: Pair) -> Mapping[str, str]:
        """What a newborn container needs to set its end up (see `runner/newborn.py`)."""
        return {
            "device": pair.inner,
            "address": pair.address,
            "mask": self._network.mask,
            "gateway": self._network.gateway,
        }

    async def close(self) -> None:
        """Remove those that nobody took. Idempotent."""
        self._closed = True
        if self._refilling is not None:
            await self._refilling
        while self._ready:
            await self._ready.pop().close()

    def _refill(self) -> None:
        if not self._closed and (self._refilling is None or self._refilling.done()):
            self._refilling = asyncio.ensure_future(self._make())

    async def _make(self) -> None:
        # What is wrong is said to who takes one next.
        with contextlib.suppress(CommandError):
            async with self._making:
                lacking = READY - len(self._ready)
                if lacking > 0 and not self._closed:
                    self._ready += await self._network.make_pairs(lacking)


def give(pair: Pair, pid: int) -> None:
    """Move the inner end to a process's network namespace. Raises OSError."""
    move_to_namespace(pair.inner, pid)
