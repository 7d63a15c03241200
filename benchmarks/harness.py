"""Taking turns, and telling what came of it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


def take_turns(rounds: int, sides: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """What each side returned in each round.

    Every side runs once a round, one after another, and another one begins in each round: so what the
    machine does meanwhile meets all of them alike.
    """
    names = list(sides)
    results: dict[str, list[T]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(sides[name]())
    return results


def time_calls(call: Callable[[int], int], count: int) -> list[float]:
    """Milliseconds that each of `count` calls took. Raises RuntimeError where one answers wrongly."""
    times = []
    for number in range(count):
        start = time.perf_counter()
        answer = call(number)
        times.append((time.perf_counter() - start) * 1e3)
        if answer != number + 1:
            raise RuntimeError(f"call({number}) returned {answer!r} and not {number + 1}")
    return times


def time_rate(run: Callable[[A], Iterable[int]], argument: A, expected: Sequence[int]) -> float:
    """Items a second of one run. Raises RuntimeError where it does not bring what was `expected`."""
    start = time.perf_counter()
    got = list(run(argument))
    seconds = time.perf_counter() - start
    if got != list(expected):
        raise RuntimeError(f"{len(got)} items came, of {len(expected)}, or in another order")
    return len(got) / seconds


def time_first(run: Callable[[A], Iterable[int]], argument: A) -> float:
    """Milliseconds from the start of a run to its first item; what follows is drawn, not counted."""
    start = time.perf_counter()
    items = iter(run(argument))
    next(items)
    seconds = time.perf_counter() - start
    for _ in items:
        pass
    return seconds * 1e3


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0…1) of all `values` lie."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def p50(rounds: Sequence[Sequence[float]]) -> float:
    """The median over all rounds together."""
    return statistics.median([value for values in rounds for value in values])


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | float]]) -> None:
    """A table for people: text flush left, numbers flush right."""
    lines = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(title)
    for first, *others in lines:
        numbers = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        print("  " + "   ".join([first.ljust(widths[0]), *numbers]))
    print()


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def print_result(result: Mapping[str, float]) -> None:
    """The last line, for programs."""
    print(json.dumps({name: float(f"{value:.4g}") for name, value in result.items()}), flush=True)
