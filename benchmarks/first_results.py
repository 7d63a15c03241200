"""Run as a program: for each app named on stdin, a line with how long a result of its model took.

A program of its own, because a process has one connection to one gateway, and the benchmarks have several.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import skylift
from benchmarks.model import model_class

KEPT = 1200.0
"""Seconds that an idle container is kept."""


def main() -> None:
    model = model_class()
    model.build = skylift.enter(snap=True)(model.build)
    model.forward = skylift.method()(model.forward)

    def nothing() -> None: ...

    # The environment is looked at, gateway and host have had work, and no model was there yet.
    other = skylift.App("other")
    do_nothing = other.function(scaledown_window=0.1)(nothing)
    with other.run():
        do_nothing.remote()
        _say({"ready": True})
        apps: dict[str, tuple[skylift.App, Any]] = {}
        for line in sys.stdin:
            name = line.strip()
            if name not in apps:
                app = skylift.App(name)
                apps[name] = app, app.cls(scaledown_window=KEPT)(model)
            app, remote = apps[name]
            with app.run():
                start = time.perf_counter()
                value = remote().forward.remote(1)
                _say({"ms": (time.perf_counter() - start) * 1e3, "value": value})


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
