"""A model's first result from a container that was not there before: ``python -m benchmarks.cold_start``."""

from __future__ import annotations

import inspect
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import model
from benchmarks.floor import copy_once
from benchmarks.harness import print_result, print_table, take_turns
from benchmarks.homes import Home, skylift_home
from benchmarks.peers_ray import ray_peer
from benchmarks.peers_runc import RuncPeer, runc_peer

ROUNDS = 7
SETTLED = 2.0
"""Seconds between the unpacking of a snapshot and its restore, which takes 100 ms longer right behind it."""
MIB = 1024 * 1024

PROGRAM = f"""{inspect.getsource(model)}
import sys
model = model_class()()
model.build()
print("ready", flush=True)
for line in sys.stdin:
    print(model.forward(int(line)), flush=True)
"""
"""The same as a program: makes the model, and answers each number that it reads."""

WARM, FORK, COLD = "Skylift: a running container", "Skylift: fork", "Skylift: cold"
FORK_ON_DEMAND = "Skylift: fork, with none made ahead"
RESTORE, STORE = "Skylift: restore", "Skylift: restore, straight from the store"
RUNC_RESTORE, RUNC_RUN, RAY = "runc restore", "runc run", "Ray: a new actor"


class SkyliftHosts:
    """The ways in which Skylift starts the model's container."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._folder = folder
        self._count = itertools.count()
        self._shared = f'[host]\nsnapshots = "{folder / "shared"}"\n'
        self._warm = stack.enter_context(skylift_home(folder / "warm", self._shared))
        no_spare = self._shared + "spare_forks = false\n"
        self._cold = stack.enter_context(skylift_home(folder / "cold", "[host]\ntemplates = false\n"))
        _, _, self.value = self._warm.first_result("first", "cold")
        self.unpacked = int(self._warm.template()["unpacked"])
        self._no_spare = stack.enter_context(skylift_home(folder / "no-spare", no_spare))
        self._first_result(self._no_spare, "restore")

    def warm(self) -> float:
        """In a container that is up and has answered before: what no start can be faster than."""
        return self._warm.next_result("first")

    def fork(self) -> float:
        """On a host that has the template, and has had time to fork it once ahead."""
        self._warm.wait_for("/v1/templates", lambda listed: all(each["spare"] for each in listed))
        return self._first_result(self._warm, "fork")

    def fork_on_demand(self) -> float:
        """On a host that has the template, when many come at once: nothing has been made ahead."""
        return self._first_result(self._no_spare, "fork")

    def cold(self) -> float:
        """On a host that has neither template nor snapshot, but has started such containers before."""
        return self._first_result(self._cold, "cold")

    def restore(self) -> float:
        """On a new host that finds the snapshot in the store, and has had time to unpack it."""
        with self._new_home("") as home:
            home.wait_until_unpacked()
            time.sleep(SETTLED)
            return self._first_result(home, "restore")

    def restore_from_store(self) -> float:
        """On a new host that unpacks nothing beforehand: its cache has no room for two snapshots, and a host
        fills but half of it when it has nothing else to do."""
        cache = f"snapshot_cache = {self.unpacked * 3 // 2 // MIB}\n"
        with self._new_home(cache) as home:
            return self._first_result(home, "restore")

    @contextmanager
    def _new_home(self, config: str) -> Iterator[Home]:
        folder = self._folder / f"host{next(self._count)}"
        try:
            with skylift_home(folder, self._shared + config) as home:
                yield home
        finally:
            # Else what it has unpacked is written to the disk while others have their turn.
            shutil.rmtree(folder, ignore_errors=True)

    def _first_result(self, home: Home, path: str) -> float:
        milliseconds, container, _ = home.first_result(f"app{next(self._count)}", path, self.value)
        home.end(container)
        return milliseconds


class RuncSide:
    """The same as a program in a container of plain runc."""

    def __init__(self, peer: RuncPeer, value: float) -> None:
        self._value = value
        self._fresh = peer.bundle(PROGRAM)
        self._written = peer.bundle(PROGRAM)
        with self._written.run() as process:
            assert process.answer() == "ready"
            self.written = self._written.write(process)

    def run(self) -> float:
        """``runc run``: Python, its imports, the model."""
        return self._first_result(self._fresh.run, "ready")

    def restore(self) -> float:
        """``runc restore`` of a process that has its model and waits for a number."""
        return self._first_result(self._written.restored)

    def _first_result(self, start: Callable[[], Any], *before: str) -> float:
        begin = time.perf_counter()
        with start() as process:
            process.ask("1")
            for expected in before:
                assert process.answer() == expected
            value = float(process.answer())
            milliseconds = (time.perf_counter() - begin) * 1e3
            process.started()
        check(value, self._value)
        return milliseconds


def ray_actor(ray: Any, value: float) -> float:
    """A new actor of the same class."""
    actor_class: Any = model.model_class()
    actor_class.__init__ = actor_class.build
    start = time.perf_counter()
    actor = ray.remote(num_cpus=0)(actor_class).remote()
    answer = ray.get(actor.forward.remote(1), timeout=60)
    milliseconds = (time.perf_counter() - start) * 1e3
    ray.kill(actor)
    check(answer, value)
    return milliseconds


def check(answer: float, value: float) -> None:
    """Raises RuntimeError where they are not the same."""
    if abs(answer - value) > 1e-3 * abs(value):
        raise RuntimeError(f"the model answered {answer} and not {value}")


def main(rounds: int = ROUNDS) -> None:
    model.require_torch()
    with ExitStack() as stack:
        runc = stack.enter_context(runc_peer())
        peer = stack.enter_context(ray_peer())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skylift-benchmark-")))
        skylift = SkyliftHosts(stack, folder)
        plain = RuncSide(runc, skylift.value)
        sides: dict[str, Callable[[], float]] = {
            WARM: skylift.warm,
            FORK: skylift.fork,
            FORK_ON_DEMAND: skylift.fork_on_demand,
            RESTORE: skylift.restore,
            STORE: skylift.restore_from_store,
            COLD: skylift.cold,
            RUNC_RESTORE: plain.restore,
            RUNC_RUN: plain.run,
            RAY: partial(ray_actor, peer.ray, skylift.value),
        }
        for side in sides.values():
            side()
        times = take_turns(rounds, sides)
        floor = copy_once(plain.written)
    report(times, floor, plain.written)


def report(times: dict[str, list[float]], floor: float, written: int) -> None:
    """The table and the last line."""
    median = {name: statistics.median(values) for name, values in times.items()}
    print_table(
        "A model's first result, in milliseconds",
        ("", "median", "lowest", "highest"),
        [(name, median[name], min(values), max(values)) for name, values in times.items()],
    )
    print(f"{written / 1e6:.0f} MB of memory were written; copying them once takes {floor:.0f} ms.\n")
    print_result(
        {
            "fork_p50_ms": median[FORK],
            "fork_on_demand_p50_ms": median[FORK_ON_DEMAND],
            "restore_p50_ms": median[RESTORE],
            "restore_from_store_p50_ms": median[STORE],
            "cold_p50_ms": median[COLD],
            "runc_restore_p50_ms": median[RUNC_RESTORE],
            "runc_run_p50_ms": median[RUNC_RUN],
            "ray_actor_p50_ms": median[RAY],
            "warm_p50_ms": median[WARM],
            "fork_vs_cold": median[FORK] / median[COLD],
            "restore_vs_cold": median[RESTORE] / median[COLD],
            "restore_vs_runc": median[RESTORE] / median[RUNC_RESTORE],
            "copy_once_ms": floor,
        }
    )


if __name__ == "__main__":
    main()
