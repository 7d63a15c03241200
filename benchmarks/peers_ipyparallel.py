"""ipyparallel on this machine, doing what the benchmarks ask."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.processes import ended_with_us


class IpyparallelPeer:
    """A controller and two engines."""

    def __init__(self, client: Any) -> None:
        self._engine = client[0]
        self._balanced = client.load_balanced_view()
        self._direct = client[:]

        def increment(number: int) -> int:
            return number + 1

        self._increment = increment

    def call(self, number: int) -> int:
        """`apply_sync` on one engine."""
        answer: int = self._engine.apply_sync(self._increment, number)
        return answer

    def map(self, numbers: Iterable[int]) -> list[int]:
        """Load-balanced: a task for each number."""
        return list(self._balanced.map_sync(self._increment, numbers))

    def map_in_chunks(self, numbers: Iterable[int]) -> list[int]:
        """Direct: the numbers cut in two beforehand, one message to each engine."""
        return list(self._direct.map_sync(self._increment, list(numbers)))


@contextlib.contextmanager
def ipyparallel_peer() -> Iterator[IpyparallelPeer]:
    """Starts a cluster on the loopback, with its files in a temporary folder; ends every process of it."""
    with tempfile.TemporaryDirectory(prefix="ipyparallel-") as folder, ended_with_us():
        os.environ["IPYTHONDIR"] = folder
        import ipyparallel

        cluster = ipyparallel.Cluster(n=2, controller_ip="127.0.0.1", log_level=logging.ERROR)
        cluster.start_cluster_sync()
        try:
            client = cluster.connect_client_sync()
            client.wait_for_engines(2, timeout=60, interactive=False)
            yield IpyparallelPeer(client)
            client.close()
        finally:
            cluster.stop_cluster_sync()
