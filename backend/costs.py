"""What containers cost, and who is charged for it in the table of spend."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

HOUR = 3600.0


def hourly_price(
    prices: Mapping[str, float], gpu_model: str, gpu_count: int, cpu: float, memory: int
) -> float:
    """US dollars an hour of a container with these reservations (`memory` in MiB); what has no price is
    free."""
    price = cpu * prices.get("cpu", 0.0) + memory / 1024 * prices.get("memory", 0.0)
    if gpu_count:
        price += gpu_count * prices.get(gpu_model, 0.0)
    return price


def day_of(moment: float) -> str:
    """The day (UTC) of a Unix time: ``"2026-02-03"``."""
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


class SpendKey(NamedTuple):
    """What an amount is charged to."""

    day: str
    user: str
    notebook: str
    function: str
    gpu: str


class Meter:
    """Runs with a container: how long it was up and busy since it was last read."""

    __slots__ = ("accrued", "busy", "calls", "price")

    def __init__(self, price: float, started: float) -> None:
        self.price = price
        self.accrued = started
        """Unix time up to which it has been read."""
        self.busy = 0.0
        """Seconds since then in which a call ran."""
        self.calls = 0
        """That ended since then."""

    def read(self, now: float) -> tuple[float, float, float, float, int]:
        """Seconds, cost, idle seconds, idle cost and calls since the last reading."""
        seconds = max(0.0, now - self.accrued)
        idle = max(0.0, seconds - self.busy)
        reading = (seconds, seconds * self.price / HOUR, idle, idle * self.price / HOUR, self.calls)
        self.accrued = now
        self.busy = 0.0
        self.calls = 0
        return reading
