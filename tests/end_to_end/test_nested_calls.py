"""Functions that call functions, from inside their containers."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from running_gateway import RunningGateway
from sqlalchemy import create_engine, text

import skylift
from skylift import App, FunctionCall, exceptions
from skylift.call_graph import InputStatus

TWO_CORES = pytest.mark.parametrize("gateway", ["cpus = 2"], indirect=True)


@pytest.mark.parametrize("gateway", ['isolation = "runc"', 'isolation = "process"'], indirect=True)
def test_a_function_calls_another(gateway: RunningGateway) -> None:
    app = App("nested")

    @app.function()
    def inner(number: int) -> tuple[int, bool, str | None]:
        return number * number, skylift.is_local(), skylift.current_function_call_id()

    @app.function()
    def outer(number: int) -> tuple[Any, bool, str | None]:
        return inner.remote(number), skylift.is_local(), skylift.current_function_call_id()

    with app.run():
        (square, inner_local, inner_id), outer_local, outer_id = outer.remote(3)
    assert (9, False, False) == (square, inner_local, outer_local)
    calls = gateway.get("/v1/calls")["calls"]
    assert [inner_id, outer_id] == [call["call_id"] for call in calls]
    assert calls[1]["notebook"] == calls[0]["notebook"]
    (graph,) = FunctionCall.from_id(outer_id or "").get_call_graph()
    assert ("outer", InputStatus.SUCCESS) == (graph.function_name, graph.status)
    assert [("inner", inner_id, [])] == [
        (child.function_name, child.function_call_id, child.children) for child in graph.children
    ]


def test_every_way_of_calling(gateway: RunningGateway) -> None:
    app = App("ways")

    @app.function()
    def double(number: int) -> int:
        return 2 * number

    @app.function()
    def count(number: int) -> Iterator[int]:
        yield from range(number)

    @app.function()
    def outer() -> dict[str, Any]:
        call = double.spawn(5)
        double.for_each([1, 2])
        return {
            "map": list(double.map(range(3))),
            "starmap": list(double.starmap([(1,), (2,)])),
            "generator": list(count.remote_gen(1000)),
            "spawn": call.get(),
            "found again": FunctionCall.from_id(call.object_id).get(),
            "gather": FunctionCall.gather(double.spawn(1), double.spawn(2)),
        }

    @app.function()
    async def outer_async() -> list[int]:
        import asyncio

        return list(await asyncio.gather(*(double.remote.aio(number) for number in range(20))))

    with app.run():
        assert {
            "map": [0, 2, 4],
            "starmap": [2, 4],
            "generator": list(range(1000)),
            "spawn": 10,
            "found again": 10,
            "gather": [2, 4],
        } == outer.remote()
        assert [2 * number for number in range(20)] == outer_async.remote()


def test_handles_travel(gateway: RunningGateway) -> None:
    app = App("handles")

    @app.function()
    def double(number: int) -> int:
        return 2 * number

    @app.function()
    def apply(function: skylift.Function[Any, Any], numbers: list[int]) -> list[int]:
        return list(function.map(numbers))

    @app.function()
    def give() -> tuple[skylift.Function[Any, Any], FunctionCall[int]]:
        return double, double.spawn(21)

    with app.run():
        assert [2, 4] == apply.remote(double, [1, 2])
        function, call = give.remote()
        assert (14, 42) == (function.remote(7), call.get())


def test_functions_of_a_module_find_each_other(
    gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "nested_helpers.py").write_text(
        "import skylift\n"
        "app = skylift.App()\n"
        "@app.function()\n"
        "def twice(number):\n"
        "    return 2 * number\n"
        "@app.function()\n"
        "def four_times(number):\n"
        "    return twice.remote(twice.remote(number))\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    import nested_helpers  # type: ignore[import-not-found]

    with nested_helpers.app.run():
        assert 6 == nested_helpers.twice.remote(3)
        assert 12 == nested_helpers.four_times.remote(3)
    containers = gateway.get("/v1/containers")
    assert {"four_times", "twice"} == {each["function"] for each in containers}
    assert 1 == len({each["app"] for each in containers})


def test_an_exception_comes_through_with_both_functions_frames_and_none_of_ours(
    gateway: RunningGateway,
) -> None:
    app = App("errors")

    @app.function()
    def inner(number: int) -> int:
        return 1 // number

    @app.function()
    def outer(number: int) -> int:
        return inner.remote(number)

    with app.run(), pytest.raises(ZeroDivisionError) as caught:
        outer.remote(0)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert ["outer", "inner"] == [frame.name for frame in frames[-2:]]
    assert ["return inner.remote(number)", "return 1 // number"] == [frame.line for frame in frames[-2:]]
    ours = os.path.dirname(skylift.__file__)
    assert [] == [frame.filename for frame in frames if frame.filename.startswith(ours)]


def test_what_is_printed_comes_through(gateway: RunningGateway, capfd: pytest.CaptureFixture[str]) -> None:
    app = App("prints")

    @app.function()
    def inner() -> None:
        print("said inside")

    @app.function()
    def outer() -> None:
        inner.remote()

    with app.run(), skylift.enable_output():
        outer.remote()
    assert "said inside\n" == capfd.readouterr().out


def test_child_processes_call_too(gateway: RunningGateway) -> None:
    app = App("children")

    @app.function()
    def double(number: int) -> int:
        return 2 * number

    @app.function()
    def outer() -> list[str]:
        import subprocess

        call = double.spawn(4)
        code = f"import skylift; print(skylift.FunctionCall.from_id({call.object_id!r}).get())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        return [done.stdout, done.stderr]

    with app.run():
        assert ["8\n", ""] == outer.remote()


def test_without_a_network(gateway: RunningGateway) -> None:
    app = App("blocked")

    @app.function(block_network=True)
    def blocked(number: int) -> int:
        return 2 * number

    @app.function()
    def open_to_all(number: int) -> int:
        return 2 * number

    @app.function(block_network=True)
    def outer(function: skylift.Function[Any, Any]) -> int:
        return function.remote(4)

    with app.run():
        assert 8 == outer.remote(blocked)
        with pytest.raises(exceptions.PermissionDeniedError) as caught:
            outer.remote(open_to_all)
    assert (
        "Code in a container cannot call blocked.open_to_all, which has a network, from blocked.outer, which "
        "has none (block_network=True). Define open_to_all with block_network=True too."
    ) == str(caught.value)


# --- waiting for each other --------------------------------------------------------------------------------


@TWO_CORES
@pytest.mark.parametrize("cpu", [0.125, 1.0, 2.0])
def test_maps_in_a_map(gateway: RunningGateway, cpu: float) -> None:
    app = App("maps")

    @app.function(cpu=cpu)
    def inner(number: int) -> int:
        return number * number

    @app.function(cpu=cpu)
    def outer(number: int) -> int:
        return sum(inner.map(range(number, number + 4)))

    expected = [sum(each * each for each in range(number, number + 4)) for number in range(8)]
    with app.run():
        assert expected == list(outer.map(range(8)))


@TWO_CORES
@pytest.mark.parametrize("parallel", [False, True])
def test_recursion(gateway: RunningGateway, parallel: bool) -> None:
    app = App("recursion")

    @app.function(cpu=1.0)
    def fibonacci(number: int) -> int:
        if number < 2:
            return number
        if parallel:
            return sum(fibonacci.map([number - 1, number - 2]))
        return fibonacci.remote(number - 1) + fibonacci.remote(number - 2)

    with app.run():
        assert 8 == fibonacci.remote(6)


def test_calls_that_can_never_begin_fail_and_the_next_ones_run(gateway: RunningGateway) -> None:
    app = App("deadlock")

    @app.function(gpu="H100")
    def inner(number: int) -> int:
        return 2 * number

    @app.function(gpu="H100")
    def outer(number: int) -> int:
        return inner.remote(number)

    with app.run():
        with pytest.raises(exceptions.ResourceExhaustedError) as caught:
            outer.remote(1)
        assert 4 == inner.remote(2)
    assert (
        "deadlock.inner would never begin: it is waiting for an H100: 1 of 1 in use by deadlock.outer "
        "(waiting for calls of its own). What it needs is held by calls that wait for it. Ask for less "
        "(cpu=, memory=, gpu=) for the functions that call each other, or make fewer of these calls at once."
    ) == str(caught.value)


def test_a_call_that_waits_for_itself_is_told(gateway: RunningGateway) -> None:
    app = App("itself")

    @app.function()
    def outer() -> object:
        return FunctionCall.from_id(skylift.current_function_call_id() or "").get()

    with app.run(), pytest.raises(exceptions.InvalidError, match=r"^itself\.outer would never end: it waits"):
        outer.remote()


def test_one_that_stops_waiting_is_no_deadlock(gateway: RunningGateway) -> None:
    app = App("patient")

    @app.function(max_containers=1)
    def count_down(number: int) -> int | FunctionCall[int]:
        if not number:
            return 0
        call = count_down.spawn(number - 1)
        try:
            return call.get(timeout=1)
        except TimeoutError:
            return call

    with app.run():
        call = count_down.remote(1)
        assert isinstance(call, FunctionCall)
        assert 0 == call.get(timeout=60)


# --- when something ends -----------------------------------------------------------------------------------


def test_the_gateway_is_killed_meanwhile(gateway: RunningGateway) -> None:
    app = App("killed")

    @app.function()
    def inner(number: int) -> int:
        time.sleep(0.02)
        return number * number

    @app.function()
    def outer() -> list[int]:
        return list(inner.map(range(150)))

    with app.run():
        call = outer.spawn()
        for restart in (gateway.restart, gateway.restart_politely):
            done = count(gateway, "inner", "inputs_done")
            gateway.wait_for("/v1/calls", lambda page, done=done: of(page, "inner", "inputs_done") > done)
            restart()
        assert [number * number for number in range(150)] == call.get(timeout=60)


def count(gateway: RunningGateway, function: str, field: str) -> int:
    return of(gateway.get("/v1/calls"), function, field)


def of(page: Any, function: str, field: str) -> int:
    return sum(call[field] for call in page["calls"] if call["function"] == function)


def test_a_container_that_dies_takes_what_it_waited_for_along(gateway: RunningGateway) -> None:
    app = App("dying")

    @app.function()
    def inner() -> None:
        time.sleep(300)

    @app.function()
    def outer() -> None:
        threading.Timer(1.5, os._exit, (7,)).start()
        inner.remote()

    with app.run(), pytest.raises(exceptions.ExecutionError, match="exit status 7"):
        outer.remote()
    page = gateway.wait_for("/v1/calls?function=inner", lambda page: page["calls"][0]["state"] != "running")
    assert "InputCancellation: the container that waited for it has ended" == page["calls"][0]["error"]


def test_a_call_that_is_cancelled_cancels_what_it_waits_for(gateway: RunningGateway) -> None:
    app = App("cancelled")

    @app.function()
    def inner() -> None:
        time.sleep(300)

    @app.function()
    def outer() -> None:
        inner.remote()

    with app.run():
        call = outer.spawn()
        gateway.wait_for(
            "/v1/calls?function=inner", lambda page: [each["state"] for each in page["calls"]] == ["running"]
        )
        call.cancel()
        with pytest.raises(exceptions.RemoteError):
            call.get(timeout=60)
    gateway.wait_for("/v1/calls?function=inner", lambda page: page["calls"][0]["state"] == "cancelled")


# --- the token ---------------------------------------------------------------------------------------------


def test_a_token_is_its_containers_alone(gateway: RunningGateway) -> None:
    app = App("token")

    @app.function()
    def token() -> tuple[str, str]:
        token = os.environ["SKYLIFT_TOKEN"]
        return hashlib.sha256(token.encode()).hexdigest(), token[:8]

    @app.function()
    def ask(method: str, path: str) -> str:
        from skylift.client import Client

        try:
            client = Client.current()
            client.http.get(path) if method == "GET" else client.http.delete(path)
        except exceptions.PermissionDeniedError as error:
            return str(error)
        return "allowed"

    with app.run():
        digest, beginning = token.remote()
        (container,) = gateway.get("/v1/containers")
        container_id = container["container_id"]
        assert "allowed" == ask.remote("GET", "/v1/calls")
        for method, path in [("GET", "/v1/spend"), ("DELETE", f"/v1/containers/{container_id}")]:
            assert (
                f"Code in a container cannot use {method} {path}. "
                "It may call functions, read and cancel calls, and use the volumes of its user."
            ) == ask.remote(method, path)

    # Its beginning is in the log, as what the function returned; the rest is with the container only.
    def tokens() -> list[str]:
        with create_engine(f"sqlite:///{gateway.home / 'skylift.db'}").connect() as connection:
            return [row.hash for row in connection.execute(text("select hash, label from tokens"))]

    assert digest in tokens()
    holders = [
        path.relative_to(gateway.home)
        for path in gateway.home.rglob("*")
        if path.is_file() and has_token(path, beginning, digest)
    ]
    # It goes over the runner's socket, and into no file.
    assert [] == [str(path) for path in holders]
    answer = urllib3.request(
        "DELETE",
        f"{gateway.url}/v1/containers/{container_id}",
        headers={"Authorization": f"Bearer {gateway.token}"},
    )
    assert 202 == answer.status
    gateway.wait_for(
        "/v1/containers", lambda found: container_id not in [each["container_id"] for each in found]
    )
    deadline = time.monotonic() + 10
    while digest in tokens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def has_token(path: Path, beginning: str, digest: str) -> bool:
    """Whether the file has the whole token, of which the first characters and the hash are known."""
    content = path.read_bytes()
    start = content.find(beginning.encode())
    while start >= 0:
        if hashlib.sha256(content[start : start + 43]).hexdigest() == digest:
            return True
        start = content.find(beginning.encode(), start + 1)
    return False
