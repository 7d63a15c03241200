"""The inputs of a map: which wait, which are out, which have their result, and how many go out at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from skylift.wire import Payload

BATCH_SECONDS = 0.010
"""How much work a batch should be. Inputs that take longer go out one by one."""

UNKNOWN = Payload()
"""Stands for the arguments of an input that a host has and this gateway never had."""

MAX_BATCH = 512
MAX_BATCH_BYTES = 1024 * 1024


class IndexSet:
    """A set of numbers that are mostly neighbours: a few ranges, however many numbers."""

    __slots__ = ("_ends", "_starts", "count")

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        """Each the number after a range's last."""
        self.count = 0
        for number in numbers:
            self.add(number)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._starts, number) - 1
        return place >= 0 and number < self._ends[place]

    def __len__(self) -> int:
        return self.count

    def add(self, number: int) -> bool:
        """Add a number. False where it is there already."""
        starts, ends = self._starts, self._ends
        place = bisect_right(starts, number)
        before = place - 1
        if before >= 0 and number < ends[before]:
            return False
        self.count += 1
        joins_after = place < len(starts) and starts[place] == number + 1
        if before >= 0 and ends[before] == number:
            if joins_after:
                ends[before] = ends[place]
                del starts[place], ends[place]
            else:
                ends[before] = number + 1
        elif joins_after:
            starts[place] = number
        else:
            starts.insert(place, number)
            ends.insert(place, number + 1)
        return True


class Share:
    """The inputs of a map that one container has."""

    __slots__ = ("indexes", "since")

    def __init__(self, since: float) -> None:
        self.indexes: set[int] = set()
        self.since = since
        """When it was last given inputs while it had none, or gave a result."""


class MapInputs:
    """What a map knows of its inputs. None is in memory longer than it takes to get its result."""

    __slots__ = ("_returned", "_waiting", "batch", "done", "out", "received", "seconds", "shares", "total")

    def __init__(self) -> None:
        self.total = -1
        """How many there are in all; -1 until the client knows."""
        self.received = 0
        """The number after the highest one that has come."""
        self.done = IndexSet()
        self.out: dict[int, Payload] = {}
        """Those that containers have."""
        self.shares: dict[str, Share] = {}
        """By container."""
        self.seconds = 0.0
        """That an input took of late; 0 before one is done."""
        self.batch = 1
        self._waiting: dict[int, Payload] = {}
        self._returned: dict[int, Payload] = {}
        """Those that come before the waiting ones, because they were out before."""

    @property
    def waiting(self) -> int:
        """How many wait for a container."""
        return len(self._waiting) + len(self._returned)

    @property
    def finished(self) -> bool:
        """Every input has its result."""
        return self.total >= 0 and self.done.count >= self.total

    def receive(self, start: int, items: tuple[Payload, ...], total: int) -> int:
        """Take in inputs from the client; those that are known already are left out. Returns how many are
        new."""
        if total >= 0:
            self.total = total
        before = len(self._waiting)
        if start >= self.received:
            self._waiting.update(zip(range(start, start + len(items)), items, strict=True))
        else:
            for index, item in enumerate(items, start):
                if index in self.out:
                    if self.out[index] is UNKNOWN:
                        self.out[index] = item
                elif index not in self.done and index not in self._returned:
                    self._waiting[index] = item
        self.received = max(self.received, start + len(items))
        return len(self._waiting) - before

    def take(self, container_id: str, count: int, now: float) -> tuple[tuple[int, ...], tuple[Payload, ...]]:
        """Hand up to `count` waiting inputs to a container; fewer where they are large, but at least one."""
        indexes: list[int] = []
        items: list[Payload] = []
        size = 0
        for source in (self._returned, self._waiting):
            for index, item in islice(source.items(), count - len(indexes)):
                size += len(item.data)
                if indexes and size > MAX_BATCH_BYTES:
                    break
                indexes.append(index)
                items.append(item)
        for index, item in zip(indexes, items, strict=True):
            if self._returned.pop(index, None) is None:
                del self._waiting[index]
            self.out[index] = item
        share = self.shares.get(container_id)
        if share is None:
            share = self.shares[container_id] = Share(now)
        elif not share.indexes:
            share.since = now
        share.indexes.update(indexes)
        return tuple(indexes), tuple(items)

    def finish(self, indexes: tuple[int, ...], now: float) -> dict[str, int]:
        """Note results, and how long they took. Returns the containers that had those inputs, and how many
        each still has."""
        fresh = [index for index in indexes if self.done.add(index)]
        affected: dict[str, int] = {}
        for container_id, share in self.shares.items():
            before = len(share.indexes)
            share.indexes.difference_update(fresh)
            taken = before - len(share.indexes)
            if taken:
                affected[container_id] = len(share.indexes)
                self._learn((now - share.since) / taken)
                share.since = now
        for index in fresh:
            if self.out.pop(index, None) is None:
                # It came back or came again while its result was on the way, or it was never here.
                self._returned.pop(index, None)
                self._waiting.pop(index, None)
                self.received = max(self.received, index + 1)
        return affected

    def adopt(self, container_id: str, index: int, now: float) -> None:
        """Note an input that a container has and this gateway has not given to it."""
        item = self._waiting.pop(index, None) or self._returned.pop(index, None)
        self.out[index] = item if item is not None else UNKNOWN
        self.shares.setdefault(container_id, Share(now)).indexes.add(index)
        self.received = max(self.received, index + 1)

    def give_back(self, indexes: Iterable[int]) -> int:
        """Let inputs that are out wait again, before the others. Returns how many."""
        count = 0
        for index in indexes:
            item = self.out.pop(index, None)
            if item is None:
                continue
            for share in self.shares.values():
                share.indexes.discard(index)
            # What was never here comes again from the client.
            if item is not UNKNOWN:
                self._returned[index] = item
                count += 1
        return count

    def leave(self, container_id: str) -> set[int]:
        """Forget a container. Returns the inputs that it still had, which stay out."""
        share = self.shares.pop(container_id, None)
        return share.indexes if share is not None else set()

    def hand_on(self, indexes: set[int], container_id: str) -> None:
        """Note that a container has inputs which were thought to be with another."""
        self.shares[container_id].indexes |= indexes

    def payloads(self) -> Iterator[Payload]:
        """Of all inputs that have no result yet."""
        return chain(self.out.values(), self._waiting.values(), self._returned.values())

    def drop_waiting(self) -> int:
        """Let go of the inputs that wait. Returns how many."""
        count = self.waiting
        self._waiting.clear()
        self._returned.clear()
        return count

    def _learn(self, seconds: float) -> None:
        # Up at once and down slowly: a batch that is too long makes others wait, one that is too short
        # costs little.
        if seconds >= self.seconds:
            self.seconds = seconds if not self.seconds else (self.seconds + seconds) / 2
        else:
            self.seconds += 0.4 * (seconds - self.seconds)
        self.batch = max(1, min(MAX_BATCH, int(BATCH_SECONDS / max(self.seconds, 1e-6))))
