"""Maps: each input has one answer, in whatever frame; inputs can be given back and cancelled one by one."""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle
from fake_host import FakeHost

RETRY = {"max_retries": 3, "initial_delay": 0.001, "backoff_coefficient": 1.0, "max_delay": 0.001}


def test_results_carry_their_index(host: FakeHost) -> None:
    call = host.map(lambda x: x * x, range(100)).wait_done(range(100))

    outcomes = call.outcomes()
    assert [pickle.loads(outcomes[i].data) for i in range(100)] == [i * i for i in range(100)]
    assert sorted(call.done) == list(range(100))
    assert call.end is None


def test_quick_inputs_come_back_together(own_host: FakeHost) -> None:
    function = own_host.define(lambda x: x)
    own_host.map(function, range(10)).wait_done(range(10))
    call = own_host.map(function, range(1000)).wait_done(range(1000))
    assert len(call.frames) < 500


def test_done_comes_with_the_answer(host: FakeHost) -> None:
    call = host.map(lambda x: x, range(50)).wait_done(range(50))
    for frame in call.frames:
        indexes = [meta["index"] for kind, meta, _ in frame["events"] if kind == "result"]
        assert frame.get("done", []) == indexes


def test_more_frames_of_the_same_map(host: FakeHost) -> None:
    function = host.define(lambda x: x)
    call = host.map(function, range(10))
    host.map(function, range(10, 20), first=10, call=call)
    call.wait_done(range(20))
    assert sorted(call.outcomes()) == list(range(20))


def test_a_failing_input_fails_alone(host: FakeHost) -> None:
    def invert(x: int) -> float:
        return 1 / x

    call = host.map(invert, [2, 0, 4]).wait_done(range(3))
    outcomes = call.outcomes()
    assert [outcomes[i].kind for i in range(3)] == ["result", "error", "result"]
    assert outcomes[1].meta["type"] == "ZeroDivisionError"
    assert outcomes[1].meta["index"] == 1
    assert isinstance(pickle.loads(outcomes[1].data), ZeroDivisionError)


def test_an_input_that_does_not_unpickle_fails_alone(host: FakeHost) -> None:
    good = cloudpickle.dumps(((1,), {}))
    call = host.map(lambda x: x, [good, b"cnot_installed_here\nThing\n.", good], raw=True).wait_done(range(3))
    outcomes = call.outcomes()
    assert [outcomes[i].kind for i in range(3)] == ["result", "error", "result"]
    assert outcomes[1].meta["skylift"] == "DeserializationError"


def test_output_carries_the_index(host: FakeHost) -> None:
    def talk(x: int) -> None:
        print("input", x)

    call = host.map(talk, range(3)).wait_done(range(3))
    assert [(event.meta["index"], event.data) for event in call.of("output")] == [
        (0, b"input 0\n"),
        (1, b"input 1\n"),
        (2, b"input 2\n"),
    ]


def test_each_input_has_its_retries(own_host: FakeHost) -> None:
    def fail_once(x: int) -> int:
        import sys

        seen: set[int] = sys.__dict__.setdefault("test_seen", set())
        if x not in seen:
            seen.add(x)
            raise OSError(f"first attempt at {x}")
        return x

    call = own_host.map(fail_once, range(3), retries=RETRY).wait_done(range(3))
    assert [event.kind for event in call.of("result", "error")] == ["result"] * 3
    assert [(frame["index"], frame["attempt"]) for frame in call.attempts] == [(0, 2), (1, 2), (2, 2)]


def test_inputs_that_have_not_begun_are_given_back(host: FakeHost) -> None:
    def wait(x: int) -> int:
        import threading

        print("begun", x)
        threading.Event().wait()
        return x

    call = host.map(wait, range(5))
    call.wait_output("begun 0")
    host.control({"t": "recall", "call": call.id})
    host.wait_for(lambda: call.recalled is not None)
    assert call.recalled == [1, 2, 3, 4]

    call.cancel(index=0)
    call.wait_done([0])
    assert list(call.outcomes()) == [0]
    assert host.call(lambda: "next").result == "next"


def test_a_recall_of_another_call_gives_nothing_back(host: FakeHost) -> None:
    call = host.map(lambda x: x, range(3)).wait_done(range(3))
    host.control({"t": "recall", "call": call.id})
    host.wait_for(lambda: call.recalled is not None)
    assert call.recalled == []


def test_one_cancelled_input_leaves_the_others_alone(host: FakeHost) -> None:
    def wait(x: int) -> int:
        import threading

        print("begun", x)
        if x == 1:
            threading.Event().wait()
        return x

    call = host.map(wait, range(5))
    call.wait_output("begun 1")
    call.cancel("timeout", "1 s is over", index=1)
    call.cancel(reason="not this one", index=3)
    call.wait_done(range(5))
    outcomes = call.outcomes()
    assert [outcomes[i].kind for i in range(5)][:2] == ["result", "error"]
    assert (outcomes[1].meta["skylift"], outcomes[1].meta["message"]) == (
        "FunctionTimeoutError",
        "1 s is over",
    )
    assert outcomes[2].kind == outcomes[4].kind == "result"


def test_an_input_is_cancelled_before_its_turn(host: FakeHost) -> None:
    def wait(x: int) -> int:
        import threading

        print("begun", x)
        if x == 0:
            threading.Event().wait()
        return x

    call = host.map(wait, range(3))
    call.wait_output("begun 0")
    call.cancel(index=1)
    call.cancel(index=0)
    call.wait_done(range(3))
    assert "begun 1" not in call.text()
    assert [call.outcomes()[i].kind for i in range(3)] == ["error", "error", "result"]


def test_a_cancelled_map_ends_all_its_inputs(host: FakeHost) -> None:
    def wait(x: int) -> int:
        import threading

        print("begun", x)
        threading.Event().wait()
        return x

    function = host.define(wait)
    call = host.map(function, range(4))
    call.wait_output("begun 0")
    call.cancel(reason="enough")
    call.wait_done(range(4))
    host.map(function, range(4, 6), first=4, call=call)
    call.wait_done(range(6))
    assert {event.meta["skylift"] for event in call.outcomes().values()} == {"InputCancellation"}
    assert call.text() == "begun 0\n"


def test_results_wait_for_the_window(own_host: FakeHost) -> None:
    own_host.consume = False
    call = own_host.map(lambda x: x, range(100), window=1000)
    own_host.wait_for(lambda: call.cost >= 1000)
    assert own_host.call_is_quiet(call, 0.1)
    assert len(call.done) < 30
    call.consume(call.cost)
    own_host.wait_for(lambda: call.cost >= 2000)
    own_host.consume = True
    call.consume(call.cost)
    call.wait_done(range(100))


def test_a_map_that_waits_for_its_window_can_be_cancelled(own_host: FakeHost) -> None:
    own_host.consume = False
    call = own_host.map(lambda x: x, range(100), window=1000)
    own_host.wait_for(lambda: call.cost >= 1000)
    call.cancel()
    call.wait_done(range(100))
    assert {event.kind for event in call.of("result", "error")} == {"result", "error"}


def test_the_window_of_a_map_runs_on_over_its_frames(own_host: FakeHost) -> None:
    own_host.consume = False
    function = own_host.define(lambda x: x)
    call = own_host.map(function, range(10), window=1500).wait_done(range(10))
    own_host.map(function, range(10, 40), first=10, window=1500, call=call)
    own_host.wait_for(lambda: call.cost >= 1500)
    assert own_host.call_is_quiet(call, 0.1)
    call.consume(1 << 20)
    call.wait_done(range(40))


def test_started_names_the_input(host: FakeHost) -> None:
    def wait(x: int) -> Any:
        import time

        time.sleep(0.2 if x == 1 else 0)

    call = host.map(wait, range(3)).wait_done(range(3))
    assert 1 in [frame["index"] for frame in call.started]
