"""Ray on this machine, doing what the benchmarks ask."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.processes import ended_with_us

# All read when Ray is imported. The second one keeps a node without a cluster on the loopback.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
os.environ["RAY_raylet_start_wait_time_s"] = "180"  # noqa: SIM112  (so Ray spells it)


class RayPeer:
    """A Ray cluster of one node and two CPUs, with one actor."""

    def __init__(self, ray: Any) -> None:
        self._ray = self.ray = ray
        """Ray itself, for what one benchmark alone asks of it."""

        class Actor:
            def call(self, number: int) -> int:
                return number + 1

        def task(number: int) -> int:
            return number + 1

        def generate(count: int) -> Iterator[int]:
            for number in range(count):  # noqa: UP028  (Ray calls send() on what a generator delegates to)
                yield number

        self._actor = ray.remote(num_cpus=0)(Actor).remote()
        self._task = ray.remote(task)
        self._generate = ray.remote(num_returns="streaming")(generate)

    def call(self, number: int) -> int:
        """A synchronous call of an actor's method."""
        answer: int = self._ray.get(self._actor.call.remote(number))
        return answer

    def map(self, numbers: Iterable[int]) -> list[int]:
        """A task for each number, all of them submitted at once."""
        answers: list[int] = self._ray.get([self._task.remote(number) for number in numbers])
        return answers

    def stream(self, count: int) -> Iterator[int]:
        """The items of a streaming generator, each fetched as it comes."""
        for reference in self._generate.remote(count):
            yield self._ray.get(reference)


@contextlib.contextmanager
def ray_peer() -> Iterator[RayPeer]:
    """Starts Ray on the loopback, without dashboard and telemetry; ends every process of it."""
    import ray

    # Under /tmp, because the paths of Ray's sockets are long already.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder, ended_with_us():
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=256 * 1024**2,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        try:
            yield RayPeer(ray)
        finally:
            ray.shutdown()
