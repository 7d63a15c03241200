"""What containers use, once a second while something runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from skylift.runtime.containers import Container
from skylift.runtime.gpus import GpuInventory
from skylift.wire import Usage, UsageReport

_PERIOD = 1.0


class UsageSampler:
    """Takes samples of all containers of a host."""

    def __init__(
        self,
        containers: Callable[[], Iterable[Container]],
        gpus: GpuInventory,
        send: Callable[[UsageReport], None],
    ) -> None:
        self._containers = containers
        self._gpus = gpus
        self._send = send
        self._last: dict[str, tuple[float, float]] = {}

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            await asyncio.sleep(_PERIOD)
            containers = [each for each in self._containers() if each.state == "ready"]
            if any(each.work.busy for each in containers):
                self._send(UsageReport(samples=tuple(self._sample(each) for each in containers)))
            self._last = {
                each.container_id: self._last[each.container_id]
                for each in containers
                if each.container_id in self._last
            }

    def _sample(self, container: Container) -> Usage:
        use = container.use()
        now = time.monotonic()
        before, cpu_before = self._last.get(container.container_id, (now, use.cpu_seconds))
        self._last[container.container_id] = (now, use.cpu_seconds)
        cores = (use.cpu_seconds - cpu_before) / (now - before) if now > before else 0.0
        gpu = self._gpus.sample(container.gpus)
        return Usage(
            container_id=container.container_id,
            time=time.time(),
            cpu=max(cores, 0.0),
            memory=use.memory,
            gpu=gpu.utilisation,
            gpu_memory=gpu.memory,
            gpu_memory_total=gpu.memory_total,
        )
