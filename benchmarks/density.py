"""What ten containers of a model take, beside one: ``python -m benchmarks.density``."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import model
from benchmarks.harness import print_result, print_table
from benchmarks.homes import Home, skylift_home
from benchmarks.memory import MB, cgroup_memory, pss

CONTAINERS = 10


def first_container(home: Home) -> tuple[float, float]:
    """MB that a container takes that was started cold and is alone: by its cgroup, by its processes."""
    _, container, _ = home.first_result("cold", "cold")
    taken = cgroup_memory(container) / MB, pss([container]) / MB
    home.end(container)
    return taken


def forked_containers(home: Home, count: int) -> list[tuple[float, float]]:
    """MB that a template and the containers that were forked from it take together, after each of these has
    answered: by their cgroups, by their processes."""
    _, container, value = home.first_result("first", "cold")
    there = [home.template()["template_id"]]
    home.end(container)
    taken = []
    for number in range(count):
        _, container, _ = home.first_result(f"app{number}", "fork", value)
        there.append(container)
        taken.append((sum(map(cgroup_memory, there)) / MB, pss(there) / MB))
    return taken


def main(containers: int = CONTAINERS) -> None:
    model.require_torch()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skylift-benchmark-")))
        with skylift_home(folder / "cold", "[host]\ntemplates = false\n") as home:
            cold = first_container(home)
        # One that was made ahead has another container's name on its cgroup; it would be one more, too.
        with skylift_home(folder / "warm", "[host]\nspare_forks = false\n") as home:
            taken = forked_containers(home, containers)
    rows = []
    shares = []
    for number, name in enumerate(("cgroups", "processes (PSS)")):
        one, all_of_them = taken[0][number], taken[-1][number]
        extra = (all_of_them - one) / (containers - 1)
        shares.append((extra / cold[number], extra, cold[number]))
        rows.append((name, cold[number], one, all_of_them, extra, extra / cold[number]))
    print_table(
        f"{containers} containers of a model, each after its first result, in MB",
        (
            "counted by",
            "one, cold",
            "template and 1",
            f"and {containers}",
            "each beyond the first",
            "of a cold one",
        ),
        rows,
    )
    fraction, extra, one_cold = max(shares)
    print_result({"cold_mb": one_cold, "extra_mb": extra, "extra_fraction": fraction})


if __name__ == "__main__":
    main()
