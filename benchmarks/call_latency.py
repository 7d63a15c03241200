"""A warm call, one integer in and out: ``python -m benchmarks.call_latency``."""

from __future__ import annotations

from functools import partial

from benchmarks.harness import p50, print_result, print_table, quantile, take_turns, time_calls
from benchmarks.peers_ipyparallel import ipyparallel_peer
from benchmarks.peers_ray import ray_peer
from benchmarks.skylift_side import skylift_side

ROUNDS = 10
CALLS = {"Skylift": 300, "Ray": 300, "ipyparallel": 60}
"""A round's calls; all three take about the same time."""


def main() -> None:
    with ray_peer() as ray, ipyparallel_peer() as ipyparallel, skylift_side() as skylift:
        sides = {"Skylift": skylift.call, "Ray": ray.call, "ipyparallel": ipyparallel.call}
        for call in sides.values():
            time_calls(call, 30)
        times = take_turns(
            ROUNDS, {name: partial(time_calls, call, CALLS[name]) for name, call in sides.items()}
        )
    rows = []
    for name, rounds in times.items():
        together = [value for values in rounds for value in values]
        rows.append((name, p50(rounds), quantile(together, 0.95), quantile(together, 0.99), len(together)))
    print_table("A warm call, in milliseconds", ("", "p50", "p95", "p99", "calls"), rows)
    print_result(
        {
            "skylift_p50_ms": p50(times["Skylift"]),
            "ray_p50_ms": p50(times["Ray"]),
            "ipyparallel_p50_ms": p50(times["ipyparallel"]),
            "ratio_ray": p50(times["Skylift"]) / p50(times["Ray"]),
        }
    )


if __name__ == "__main__":
    main()
