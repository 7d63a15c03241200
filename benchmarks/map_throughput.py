"""10,000 trivial inputs on two containers or workers: ``python -m benchmarks.map_throughput``."""

from __future__ import annotations

import statistics
from functools import partial

from benchmarks.harness import print_result, print_table, take_turns, time_rate
from benchmarks.peers_ipyparallel import ipyparallel_peer
from benchmarks.peers_ray import ray_peer
from benchmarks.skylift_side import skylift_side

INPUTS = range(10_000)
ANSWERS = range(1, 10_001)
ROUNDS = 3
CHUNKED = "ipyparallel, cut in two beforehand"


def main() -> None:
    with ray_peer() as ray, ipyparallel_peer() as ipyparallel, skylift_side() as skylift:
        sides = {
            "Skylift": skylift.map,
            "Ray": ray.map,
            "ipyparallel": ipyparallel.map,
            CHUNKED: ipyparallel.map_in_chunks,
        }
        for run in sides.values():
            time_rate(run, INPUTS[:1000], ANSWERS[:1000])
        rates = take_turns(
            ROUNDS, {name: partial(time_rate, run, INPUTS, ANSWERS) for name, run in sides.items()}
        )
    median = {name: statistics.median(values) for name, values in rates.items()}
    print_table(
        "10,000 trivial inputs, a second",
        ("", "median", "lowest", "highest"),
        [(name, median[name], min(values), max(values)) for name, values in rates.items()],
    )
    print_result(
        {
            "skylift_per_s": median["Skylift"],
            "ray_per_s": median["Ray"],
            "ipyparallel_per_s": median["ipyparallel"],
            "ratio_ray": median["Skylift"] / median["Ray"],
        }
    )


if __name__ == "__main__":
    main()
