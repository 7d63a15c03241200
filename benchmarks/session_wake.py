"""A session goes to sleep and wakes, with 200 MB and more in it: ``python -m benchmarks.session_wake``."""

from __future__ import annotations

import inspect
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import model
from benchmarks.floor import copy_once
from benchmarks.harness import print_result, print_table, take_turns
from benchmarks.peers_runc import RuncPeer, runc_peer
from scripts.own_gateway import own_gateway

ROUNDS = 7

SETUP = f"""{inspect.getsource(model).replace("from __future__ import annotations", "")}
import numpy

array = numpy.random.default_rng(0).random(25_000_000)  # 200 MB that do not compress
with open("/tmp/lines", "w") as written:
    written.writelines(f"{{number}}\\n" for number in range(20_000))
file = open("/tmp/lines")
for number in range(10_000):
    file.readline()
model = model_class()()
model.build()
"""
"""What a session has when it goes to sleep."""

USE = "answer = float(array[::512].sum()), int(file.readline()), model.forward(1)"
"""Looks at each page of the array."""

PROGRAM = f"""{SETUP}
import json, sys
print("ready", flush=True)
for line in sys.stdin:
    {USE}
    print(json.dumps(answer), flush=True)
"""

Answer = tuple[float, int, float]


class SkyliftSession:
    """A session that goes to sleep and wakes again and again."""

    def __init__(self) -> None:
        import skylift.session

        self._session = skylift.session.Session(name="benchmark", idle_timeout=1200)
        self._run(SETUP)
        self.answer = self._use()
        self._line = self.answer[1]
        self.unpacked = 0

    def sleep_and_wake(self) -> tuple[float, float]:
        """Milliseconds until it sleeps; and from then on until a cell has used all that it has."""
        start = time.perf_counter()
        self.unpacked = self._session.sleep().unpacked
        asleep = time.perf_counter()
        self._session.wake()
        answer = self._use()
        awake = time.perf_counter()
        container = self._session.container
        if container is None or container.path != "restore":
            raise RuntimeError(f"the session was not restored: {container}")
        self._line += 1
        check(answer, (self.answer[0], self._line, self.answer[2]))
        return (asleep - start) * 1e3, (awake - asleep) * 1e3

    def _use(self) -> Answer:
        answer: Answer = self._run(USE, "answer")["answer"]
        return answer

    def _run(self, code: str, *assigned: str) -> dict[str, Any]:
        run = self._session.run_cell(code, filename="<benchmark>", assigned=assigned)
        for _ in run:
            pass
        if run.error is not None:
            raise run.error
        return run.assigned


class RuncSession:
    """The same in a plain Python process in a container of plain runc."""

    def __init__(self, peer: RuncPeer, answer: Answer) -> None:
        self._answer = answer
        self._bundle = peer.bundle(PROGRAM)
        with self._bundle.run() as process:
            assert process.answer() == "ready"
            start = time.perf_counter()
            self.written = self._bundle.write(process)
            self.checkpoint = (time.perf_counter() - start) * 1e3

    def restore(self) -> tuple[float, float]:
        """Milliseconds of ``runc checkpoint``, which was done once; and of ``runc restore``, until all was
        used."""
        start = time.perf_counter()
        with self._bundle.restored() as process:
            process.ask("")
            line = process.answer()
            milliseconds = (time.perf_counter() - start) * 1e3
            process.started()
        numbers = line.strip("[]").split(",")
        check((float(numbers[0]), int(numbers[1]), float(numbers[2])), self._answer)
        return self.checkpoint, milliseconds


def check(answer: Answer, expected: Answer) -> None:
    """Raises RuntimeError where they are not the same."""
    floats = zip(answer[::2], expected[::2], strict=True)
    if answer[1] != expected[1] or any(abs(got - wanted) > 1e-3 * abs(wanted) for got, wanted in floats):
        raise RuntimeError(f"array, file and model gave {answer} and not {expected}")


@contextmanager
def skylift_session() -> Iterator[SkyliftSession]:
    """Starts a gateway and a host with a home of their own; ends them and what they started."""
    with (
        tempfile.TemporaryDirectory(prefix="skylift-benchmark-") as folder,
        own_gateway(Path(folder) / "home") as environment,
    ):
        os.environ.update(environment)
        yield SkyliftSession()


def main(rounds: int = ROUNDS) -> None:
    model.require_torch()
    with runc_peer() as runc, skylift_session() as skylift:
        plain = RuncSession(runc, skylift.answer)
        sides = {"Skylift": skylift.sleep_and_wake, "runc": plain.restore}
        for side in sides.values():
            side()
        times = take_turns(rounds, sides)
        floor = copy_once(plain.written)
    report(times, floor, plain.written)


def report(times: dict[str, list[tuple[float, float]]], floor: float, written: int) -> None:
    """The table and the last line."""
    sleeps, wakes = ([pair[number] for pair in times["Skylift"]] for number in (0, 1))
    checkpoint, restores = times["runc"][0][0], [pair[1] for pair in times["runc"]]
    print_table(
        "A session with 200 MB of numbers, a half-read file and a model, in milliseconds",
        ("", "median", "lowest", "highest"),
        [
            (name, statistics.median(values), min(values), max(values))
            for name, values in (
                ("Skylift: sleep", sleeps),
                ("runc checkpoint (once, not into a store)", [checkpoint]),
                ("Skylift: wake, and a cell", wakes),
                ("runc restore, and a line of code", restores),
            )
        ],
    )
    print(f"{written / 1e6:.0f} MB of memory were written; copying them once takes {floor:.0f} ms.\n")
    wake, restore = statistics.median(wakes), statistics.median(restores)
    print_result(
        {
            "sleep_p50_ms": statistics.median(sleeps),
            "wake_p50_ms": wake,
            "runc_restore_p50_ms": restore,
            "wake_vs_runc": wake / restore,
            "copy_once_ms": floor,
        }
    )


if __name__ == "__main__":
    main()
