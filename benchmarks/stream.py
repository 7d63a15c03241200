"""100,000 small yields, and how soon the first one comes: ``python -m benchmarks.stream``."""

from __future__ import annotations

import statistics
from functools import partial

from benchmarks.harness import print_result, print_table, take_turns, time_first, time_rate
from benchmarks.peers_ray import ray_peer
from benchmarks.skylift_side import skylift_side

ITEMS = 100_000
ROUNDS = 3
SHORT_STREAMS = 30
"""Streams of ten items, for the time to the first."""


def main() -> None:
    with ray_peer() as ray, skylift_side() as skylift:
        sides = {"Skylift": skylift.stream, "Ray": ray.stream}
        for stream in sides.values():
            time_rate(stream, 1000, range(1000))
        firsts = take_turns(
            SHORT_STREAMS, {name: partial(time_first, stream, 10) for name, stream in sides.items()}
        )
        rates = take_turns(
            ROUNDS, {name: partial(time_rate, stream, ITEMS, range(ITEMS)) for name, stream in sides.items()}
        )
    rate = {name: statistics.median(values) for name, values in rates.items()}
    first = {name: statistics.median(values) for name, values in firsts.items()}
    print_table(
        "100,000 yielded integers",
        ("", "items a second", "first item, ms"),
        [(name, rate[name], first[name]) for name in sides],
    )
    print_result(
        {
            "skylift_items_per_s": rate["Skylift"],
            "ray_items_per_s": rate["Ray"],
            "ratio_ray": rate["Skylift"] / rate["Ray"],
            "first_item_ms": first["Skylift"],
            "ray_first_item_ms": first["Ray"],
        }
    )


if __name__ == "__main__":
    main()
