"""What containers used over time: the last minutes of each that is up, and the whole course of each call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from skylift.backend.database import DatabaseError
from skylift.backend.views import CallUsage, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from skylift.backend.call_log import CallLog
    from skylift.backend.calls import Call
    from skylift.backend.log_reader import LogReader
    from skylift.backend.pools import Container
    from skylift.backend.registry import Registry
    from skylift.wire import Usage

RECENT_SAMPLES = 300
"""That are kept of a container that is up; there is one a second while something runs."""

CALL_SAMPLES = 300
"""That are kept of a call. One that lasts for longer has fewer of them a second."""

SAVE_SECONDS = 60.0
"""How often the samples of a call that is not over go to the log."""

log = logging.getLogger(__name__)


class CallSamples:
    """A call's samples: at most `CALL_SAMPLES`, each of them the mean (of memory: the most) of as many as it
    takes."""

    __slots__ = ("_every", "_gathered", "_points", "saved")

    def __init__(self, now: float = 0.0) -> None:
        self._points: list[Sample] = []
        self._gathered: list[Sample] = []
        self._every = 1
        self.saved = now
        """When it was last brought to the log."""

    def add(self, sample: Sample) -> None:
        """The next sample."""
        self._gathered.append(sample)
        if len(self._gathered) >= self._every:
            self._points.append(merged(self._gathered))
            self._gathered = []
            self._thin_out()

    def precede(self, earlier: Iterable[Sample]) -> None:
        """Samples from before the first one."""
        self._points[:0] = earlier
        self._thin_out()

    def _thin_out(self) -> None:
        while len(self._points) > CALL_SAMPLES:
            points = self._points
            self._points = [merged(points[at : at + 2]) for at in range(0, len(points), 2)]
            self._every *= 2

    def points(self) -> list[Sample]:
        """All of them, oldest first."""
        rest = [merged(self._gathered)] if self._gathered and len(self._points) < CALL_SAMPLES else []
        return [*self._points, *rest]


def merged(samples: list[Sample]) -> Sample:
    """One for several that follow each other."""
    return _combined(samples, _mean, max)


def summed(samples: list[Sample]) -> Sample:
    """One for those that containers have at the same time."""
    return _combined(samples, sum, sum)


def _combined(
    samples: list[Sample], cores: Callable[[list[float]], float], memory: Callable[[list[int]], int]
) -> Sample:
    """With the mean of what the GPUs do."""
    if len(samples) == 1:
        return samples[0]
    gpus = [gpu for _, _, _, gpu, _ in samples if gpu is not None]
    gpu_memories = [taken for *_, taken in samples if taken is not None]
    return (
        samples[0][0],
        round(cores([sample[1] for sample in samples]), 3),
        memory([sample[2] for sample in samples]),
        round(_mean(gpus), 3) if gpus else None,
        memory(gpu_memories) if gpu_memories else None,
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


class UsageHistory:
    """Takes in the samples of hosts."""

    def __init__(self, registry: Registry, call_log: CallLog, reader: LogReader) -> None:
        self.registry = registry
        self.log = call_log
        self.reader = reader
        self.on_sampled: Callable[[list[tuple[Container, Sample]]], None] | None = None
        """Told of samples that came, while somebody watches."""
        self._began = time.time()
        self._tasks: set[asyncio.Task[None]] = set()

    def sampled(self, usages: Iterable[Usage]) -> None:
        """A host has samples of its containers."""
        taken: list[tuple[Container, Sample]] = []
        of_calls: dict[str, tuple[Call, list[Sample]]] = {}
        for usage in usages:
            container = self.registry.containers.get(usage.container_id)
            if container is None:
                continue
            sample = _sample(usage, bool(container.gpu))
            if container.samples is None:
                container.samples = deque(maxlen=RECENT_SAMPLES)
            container.samples.append(sample)
            taken.append((container, sample))
            if container.call is not None and not container.call.over:
                of_calls.setdefault(container.call.call_id, (container.call, []))[1].append(sample)
        for call, samples in of_calls.values():
            self._add(call, summed(samples))
        if self.on_sampled is not None:
            self.on_sampled(taken)

    def _add(self, call: Call, sample: Sample) -> None:
        now = time.time()
        if call.usage is None:
            call.usage = CallSamples(now)
            if call.queued < self._began:
                # An earlier gateway may have had some of it.
                task = self.registry.loop.create_task(self._take_up(call, call.usage))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        call.usage.add(sample)
        if now - call.usage.saved > SAVE_SECONDS:
            call.usage.saved = now
            self.log.usage(call)

    async def _take_up(self, call: Call, samples: CallSamples) -> None:
        try:
            samples.precede(decode_samples(await self.reader.usage(call.call_id)))
        except DatabaseError as error:
            log.warning("What %s used before this gateway was started is not known: %s", call.call_id, error)

    async def of_call(self, user: str, call_id: str) -> CallUsage | None:
        """What a call has used, or None where the user has no such call."""
        call = self.registry.find(call_id)
        if call is not None and call.user == user and call.usage is not None:
            return CallUsage(samples=tuple(call.usage.points()))
        await self.reader.database.flush()
        row = await self.reader.call(call_id)
        if row is None or row["user"] != user:
            return None
        return CallUsage(samples=tuple(decode_samples(await self.reader.usage(call_id))))

    def stop(self) -> None:
        """Keep what is known of the calls that are not over."""
        for task in self._tasks:
            task.cancel()
        for call in self.registry.calls.values():
            if call.usage is not None:
                self.log.usage(call)


def _sample(usage: Usage, has_gpu: bool) -> Sample:
    return (
        round(usage.time, 2),
        round(usage.cpu, 3),
        usage.memory,
        round(usage.gpu, 3) if has_gpu else None,
        usage.gpu_memory if has_gpu else None,
    )


def encode_samples(samples: list[Sample]) -> bytes:
    """As the log has them."""
    return msgspec.msgpack.encode(samples)


def decode_samples(data: bytes) -> list[Sample]:
    """Undoes `encode_samples`; empty for nothing."""
    return msgspec.msgpack.decode(data, type=list[Sample]) if data else []
