"""Classes in real containers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_gateway import RunningGateway

import skylift
from skylift import App

BOTH = pytest.mark.parametrize("gateway", ['isolation = "runc"', 'isolation = "process"'], indirect=True)


def make_model(app: App, **options: Any) -> Any:
    @app.cls(**options)
    class Model:
        size: int = skylift.parameter(default=1)

        @skylift.enter(snap=True)
        def load(self) -> None:
            print("loading", self.size)
            self.log = ["load"]

        @skylift.enter()
        async def connect(self) -> None:
            self.log.append("connect")

        @skylift.method()
        def add(self, text: str) -> list[str]:
            self.log.append(text)
            return self.log

        @skylift.method()
        def count(self, number: int) -> Iterator[int]:
            yield from range(number * self.size)

        @skylift.method()
        def times(self, number: int) -> tuple[int, int]:
            return number * self.size, os.getpid()

        @skylift.method()
        def fail(self) -> None:
            raise KeyError(self.size)

        @skylift.exit()
        def close(self) -> None:
            print("closing", self.size, self.log)

    return Model


@BOTH
def test_a_class(gateway: RunningGateway, capfd: pytest.CaptureFixture[str]) -> None:
    app = App("classes")
    Model = make_model(app, max_containers=1)
    with app.run(), skylift.enable_output():
        model = Model(size=2)
        assert ["load", "connect", "one"] == model.add.remote("one")
        assert "loading 2\n" in capfd.readouterr().out
        assert ["load", "connect", "one", "two"] == model.add.remote("two")
        assert [0, 1, 2, 3] == list(model.count.remote_gen(2))
        outputs = list(model.times.map(range(20)))
        assert [2 * number for number in range(20)] == [number for number, _ in outputs]
        assert 1 == len({pid for _, pid in outputs})
        with pytest.raises(KeyError, match="2"):
            model.fail.remote()
        assert ["load", "connect", "one", "two", "three"] == Model(size=2).add.spawn("three").get()
        assert "loading" not in capfd.readouterr().out
        # Other parameters, another container.
        assert ["load", "connect", "other"] == Model().add.remote("other")
    containers = gateway.get("/v1/containers")
    assert ["Model", "Model"] == [each["function"] for each in containers]
    summaries = [call["summary"] for call in gateway.get("/v1/calls")["calls"]]
    assert "Model.add('one')" in summaries


@BOTH
def test_exit_hooks_run_when_a_container_ends(gateway: RunningGateway, tmp_path: Path) -> None:
    app = App("exits")

    @app.cls(scaledown_window=0.2)
    class Model:
        @skylift.method()
        def get(self) -> int:
            return 1

        @skylift.exit()
        def close(self) -> None:
            tell.remote("closed")

    @app.function()
    def tell(text: str) -> None: ...

    with app.run():
        assert 1 == Model().get.remote()
        gateway.wait_for(
            "/v1/calls?function=tell", lambda page: [call["state"] for call in page["calls"]] == ["done"]
        )


def test_instances_and_their_methods_as_arguments(gateway: RunningGateway) -> None:
    app = App("arguments")
    Model = make_model(app)

    @app.function()
    def use(model: Any, method: Any) -> tuple[list[int], int]:
        return [number for number, _ in model.times.map([1, 2])], method.remote(3)[0]

    @app.function()
    def make(size: int) -> int:
        return int(Model(size=size).times.remote(5)[0])

    with app.run():
        assert ([3, 6], 12) == use.remote(Model(size=3), Model(size=4).times)
        assert 10 == make.remote(2)
