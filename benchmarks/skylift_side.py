"""Skylift on this machine, doing what the benchmarks ask: through gateway, host and containers."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from scripts.own_gateway import own_gateway


class SkyliftSide:
    """One container for calls and streams, two for maps."""

    def __init__(self) -> None:
        import skylift

        self.app = skylift.App("benchmarks")

        def increment(number: int) -> int:
            return number + 1

        def generate(count: int) -> Iterator[int]:
            yield from range(count)

        # Kept while the other sides have their turns, as Ray keeps its workers.
        self._call = self.app.function(name="call", max_containers=1, scaledown_window=1200)(increment)
        self._map = self.app.function(name="map", max_containers=2, scaledown_window=1200)(increment)
        self._generate = self.app.function(name="generate", max_containers=1, scaledown_window=1200)(generate)

    def call(self, number: int) -> int:
        """A synchronous call of a function whose container is warm."""
        answer: int = self._call.remote(number)
        return answer

    def map(self, numbers: Iterable[int]) -> list[int]:
        """An input for each number, results in their order."""
        return list(self._map.map(numbers))

    def stream(self, count: int) -> Iterator[int]:
        """The items of a generator function."""
        yield from self._generate.remote_gen(count)


@contextlib.contextmanager
def skylift_side() -> Iterator[SkyliftSide]:
    """Starts a gateway and a host with a home of their own; ends them and what they started."""
    with (
        tempfile.TemporaryDirectory(prefix="skylift-benchmark-") as folder,
        own_gateway(Path(folder) / "home") as environment,
    ):
        os.environ.update(environment)
        side = SkyliftSide()
        with side.app.run():
            yield side
