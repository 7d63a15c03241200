"""Calls, generators, maps and cells through a real host and a real runner."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from fake_gateway import FakeGateway
from host_process import session_spec, spec

from skylift.wire import EVENT_OVERHEAD, CallLost, RetryPolicy, Window


def add_one(number: int) -> int:
    return number + 1


def count(n: int) -> Iterator[int]:
    yield from range(n)


def never_returns() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(60)


def holds_the_interpreter() -> None:
    # Exponential, in C: no other thread and no signal handler of Python's runs meanwhile.
    re.match("(a+)+b", "a" * 60)


class TestCalls:
    def test_a_value_in_and_out(self, gateway: FakeGateway) -> None:
        call = gateway.finish(gateway.call(gateway.start(spec()), add_one, 41))

        assert 42 == call.result
        assert "done" == call.state
        assert call.end is not None
        assert 0 < call.end.times.started <= call.end.times.ended <= time.time()

    def test_calls_run_in_their_order(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec())

        def number(n: int) -> tuple[int, float]:
            return n, time.monotonic()

        function = gateway.define(number)
        calls = [gateway.finish(call) for call in [gateway.call(container, function, n) for n in range(50)]]

        results = [call.result for call in calls]
        assert list(range(50)) == [n for n, _ in results]
        assert sorted(results) == sorted(results, key=lambda result: result[1])

    def test_an_exception(self, gateway: FakeGateway) -> None:
        call = gateway.finish(gateway.call(gateway.start(spec()), lambda: 1 / 0))

        assert "failed" == call.state
        assert "ZeroDivisionError" == call.error["type"]
        assert call.end is not None
        assert "ZeroDivisionError: division by zero" == call.end.summary

    def test_a_long_call_says_that_it_has_started(self, gateway: FakeGateway) -> None:
        call = gateway.call(gateway.start(spec()), lambda: input_from_pipe())
        gateway.wait_for(lambda: call.started, "CallStarted")
        gateway.cancel(call)
        gateway.finish(call)

    def test_a_generator_streams_every_item_once(self, gateway: FakeGateway) -> None:
        call = gateway.finish(gateway.call(gateway.start(spec()), count, 5000, kind="generator"))
        assert list(range(5000)) == call.items

    def test_a_function_that_the_runner_has_let_go_of_is_sent_again(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec())
        functions = [gateway.define(lambda n=n: n) for n in range(70)]
        for number, function in enumerate(functions):
            assert number == gateway.finish(gateway.call(container, function)).result
        assert 0 == gateway.finish(gateway.call(container, functions[0])).result

    def test_code_that_never_came(self, gateway: FakeGateway) -> None:
        call = gateway.finish(gateway.call(gateway.start(spec()), "fu-00000000"))

        assert "InternalFailure" == call.error["skylift"]
        message = "The code of work never came. The call cannot run; call it again to send everything anew."
        assert message == call.error["message"]

    def test_retries_are_the_runners(self, gateway: FakeGateway) -> None:
        retries = RetryPolicy(max_retries=3, initial_delay=0.0)
        container = gateway.start(spec(retries=retries))
        attempts: list[int] = []

        def third_time_lucky() -> int:
            attempts.append(1)
            if len(attempts) < 3:
                raise OSError("not yet")
            return len(attempts)

        assert 3 == gateway.finish(gateway.call(container, third_time_lucky)).result


class TestMaps:
    def test_two_containers_share_the_inputs_of_a_map(self, gateway: FakeGateway) -> None:
        one, two = gateway.start(spec()), gateway.start(spec())
        function = gateway.define(lambda n: (n * n, os.getpid()))
        call = gateway.expect("fc-map0000001")
        for start in range(0, 100, 10):
            target = one if start % 20 else two
            gateway.inputs(target, function, call, {index: index for index in range(start, start + 10)})
        gateway.finish_inputs(call, range(100))

        results = {index: pickle.loads(event.data) for index, event in call.outcomes().items()}
        assert {index: index * index for index in range(100)} == {
            i: value for i, (value, _) in results.items()
        }
        assert [] == list(gateway.returned(call))
        gateway.end_map(call)

    def test_one_failing_input_fails_alone(self, gateway: FakeGateway) -> None:
        container, call = gateway.start(spec()), gateway.expect("fc-map0000002")
        gateway.inputs(container, gateway.define(lambda n: 10 // n), call, {0: 0, 1: 5})
        gateway.finish_inputs(call, [0, 1])

        outcomes = call.outcomes()
        assert ("error", "result") == (outcomes[0].kind, outcomes[1].kind)

    def test_the_time_limit_is_for_each_input(self, gateway: FakeGateway) -> None:
        container, call = gateway.start(spec()), gateway.expect("fc-map0000003")

        def sleep(seconds: float) -> float:
            time.sleep(seconds)
            return seconds

        items = {0: 0.3, 1: 0.3, 2: 60.0, 3: 0.0}
        gateway.inputs(container, gateway.define(sleep), call, items, timeout=0.5)
        gateway.finish_inputs(call, items)

        outcomes = call.outcomes()
        assert ["result", "result", "error", "result"] == [outcomes[index].kind for index in items]
        assert "FunctionTimeoutError" == outcomes[2].meta["skylift"]
        assert outcomes[2].meta["message"].startswith("Input 2 of work ran longer than its timeout of 0.5 s")

    def test_one_cancelled_input_leaves_the_others_alone(self, gateway: FakeGateway) -> None:
        container, call = gateway.start(spec()), gateway.expect("fc-map0000004")
        function = gateway.define(lambda n: time.sleep(60) if n == "sleep" else n)
        gateway.inputs(container, function, call, {0: "sleep", 1: "one", 2: "two"})
        gateway.inputs(container, function, call, {3: "three", 4: "four"})
        gateway.cancel(call, index=2)
        gateway.cancel(call, index=4)
        gateway.cancel(call, index=0)
        gateway.finish_inputs(call, range(5))

        outcomes = call.outcomes()
        assert ["error", "result", "error", "result", "error"] == [outcomes[i].kind for i in range(5)]
        assert "InputCancellation" == outcomes[4].meta["skylift"]

    def test_a_cancelled_map_answers_every_input(self, gateway: FakeGateway) -> None:
        container, call = gateway.start(spec()), gateway.expect("fc-map0000005")
        function = gateway.define(lambda n: time.sleep(60))
        gateway.inputs(container, function, call, dict.fromkeys(range(3)))
        gateway.inputs(container, function, call, dict.fromkeys(range(3, 6)))
        gateway.wait_for(lambda: call.started, "the first input")
        gateway.cancel(call, reason="enough")
        gateway.finish_inputs(call, range(6))
        assert {"error"} == {event.kind for event in call.outcomes().values()}


class TestCells:
    def test_variables_live_on_and_output_streams(self, gateway: FakeGateway) -> None:
        container = gateway.start(session_spec())
        first = gateway.finish(gateway.cell(container, "x = 20\nprint('printed')"))
        second = gateway.finish(gateway.cell(container, "x + 1"))

        assert "printed\n" == first.text("stdout")
        assert "21" == second.shown("value")["text/plain"]

    def test_an_interrupted_cell_leaves_the_session_alive(self, gateway: FakeGateway) -> None:
        container = gateway.start(session_spec())
        cell = gateway.cell(container, "x = 1\nprint('here')\nimport time\ntime.sleep(60)")
        gateway.wait_for(lambda: "here" in cell.text(), "the cell's output")
        gateway.cancel(cell, "interrupt")
        gateway.finish(cell)

        assert "cancelled" == cell.state
        assert "KeyboardInterrupt" == cell.error["type"]
        assert "1" == gateway.finish(gateway.cell(container, "x")).shown("value")["text/plain"]

    def test_a_waiting_cell_is_interrupted_without_having_run(self, gateway: FakeGateway) -> None:
        container = gateway.start(session_spec())
        running = gateway.cell(container, "import time\ntime.sleep(60)")
        waiting = gateway.cell(container, "print('never')")
        gateway.wait_for(lambda: running.started, "the first cell's start")
        gateway.cancel(waiting, "interrupt")
        gateway.finish(waiting)

        assert ("cancelled", "KeyboardInterrupt", "") == (
            waiting.state,
            waiting.error["type"],
            waiting.text(),
        )
        assert isinstance(pickle.loads(waiting.of("error")[0].data), KeyboardInterrupt)
        assert running.end is None
        gateway.cancel(running)
        gateway.finish(running)

    def test_a_cell_that_takes_too_long(self, gateway: FakeGateway) -> None:
        container = gateway.start(session_spec())
        cell = gateway.finish(gateway.cell(container, "import time\ntime.sleep(60)", timeout=0.3))

        assert "timeout" == cell.state
        message = (
            "The cell ran longer than its timeout of 0.3 s and was stopped. "
            "Give it more time with `--timeout`, for example `%%gpu … --timeout 1s`."
        )
        assert message == cell.error["message"]


class TestPipes:
    def test_what_processes_write_comes_before_the_end(self, gateway: FakeGateway) -> None:
        def shout() -> str:
            os.write(1, b"from the descriptor\n")
            subprocess.run(["sh", "-c", "echo from a child; echo and its error >&2"], check=True)
            return "returned"

        container, function = gateway.start(spec()), gateway.define(shout)
        for _ in range(20):
            call = gateway.finish(gateway.call(container, function))
            assert "from the descriptor\nfrom a child\n" == call.text("stdout")
            assert "and its error\n" == call.text("stderr")
            assert "returned" == call.result

    def test_output_of_an_input_of_a_map_has_its_index(self, gateway: FakeGateway) -> None:
        container, call = gateway.start(spec()), gateway.expect("fc-map0000006")
        function = gateway.define(lambda n: os.write(1, f"input {n}\n".encode()))
        gateway.inputs(container, function, call, {7: 7})
        gateway.finish_inputs(call, [7])
        assert [(7, b"input 7\n")] == [(event.meta["index"], event.data) for event in call.of("output")]

    def test_bytes_that_are_no_text_are_replaced(self, gateway: FakeGateway) -> None:
        call = gateway.finish(gateway.call(gateway.start(spec()), os.write, 1, b"caf\xe9 \xe2\x82\xac"))
        assert "caf\N{REPLACEMENT CHARACTER} €" == call.text()

    def test_a_child_that_floods_waits_for_the_consumer(self, gateway: FakeGateway) -> None:
        gateway.consumes = False
        window = 100_000
        flood = "import sys; sys.stdout.write('x' * 1_000_000)"
        call = gateway.call(
            gateway.start(spec()),
            lambda: subprocess.run(["python3", "-c", flood], check=True).returncode,
            window=window,
        )
        gateway.wait_for(lambda: call.total >= window, "a full window")
        assert call.total < window + 2 * (65536 + EVENT_OVERHEAD)
        assert call.end is None
        gateway.consumes = True
        gateway.send(Window(call_id=call.call_id, total=call.total))
        gateway.finish(call)
        assert 1_000_000 == len(call.text())


class TestWindow:
    def test_a_producer_stops_at_its_window_and_goes_on(self, gateway: FakeGateway) -> None:
        gateway.consumes = False
        call = gateway.call(gateway.start(spec()), count, 20_000, kind="generator", window=50_000)
        gateway.wait_for(lambda: call.total >= 50_000 - 100, "a full window")
        assert call.total < 50_000 + 200
        gateway.consumes = True
        gateway.send(Window(call_id=call.call_id, total=call.total))
        gateway.finish(call)
        assert list(range(20_000)) == call.items

    def test_one_full_container_of_a_map_does_not_stop_the_other(self, gateway: FakeGateway) -> None:
        gateway.consumes = False
        one, two = gateway.start(spec()), gateway.start(spec())
        function, call = gateway.define(lambda n: sys.stdout.write("x" * n)), gateway.expect("fc-map0000007")
        gateway.inputs(one, function, call, {0: 60_000, 1: 60_000, 2: 1}, window=50_000)
        gateway.wait_for(lambda: call.total > 60_000, "a full window")
        gateway.inputs(two, function, call, {3: 10, 4: 10}, window=50_000)
        gateway.finish_inputs(call, [3, 4])
        assert [3, 4] == call.done
        gateway.send(Window(call_id=call.call_id, total=call.total))
        gateway.consumes = True
        gateway.finish_inputs(call, range(5))

    def test_a_log_that_is_behind_stops_the_producer(self, gateway: FakeGateway) -> None:
        gateway.persists = False
        window = 100_000
        call = gateway.call(
            gateway.start(spec()),
            lambda: (bytes(10_000) for _ in range(2000)),
            kind="generator",
            window=window,
        )
        most = 2 * window + 1024 * 1024
        gateway.wait_for(lambda: call.total >= most - 300_000, "what may wait for the log")
        assert call.total < most + 400_000
        gateway.persists = True
        gateway.persist(call)
        gateway.finish(call)
        assert 2000 == len(call.items)


class TestTimeout:
    def test_python_code_is_stopped_and_the_container_lives(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec())
        call = gateway.finish(gateway.call(container, time.sleep, 60, timeout=0.2))

        assert "timeout" == call.state
        assert "FunctionTimeoutError" == call.error["skylift"]
        message = (
            "work ran longer than its timeout of 0.2 s and was stopped. Give it more time with `timeout=` "
            "on the function: seconds, for example 1."
        )
        assert message == call.error["message"]
        assert 42 == gateway.finish(gateway.call(container, add_one, 41)).result

    def test_code_that_does_not_react_is_killed_with_its_container(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec())
        call = gateway.call(container, holds_the_interpreter, timeout=0.2)
        waiting = gateway.call(container, add_one, 1)
        gateway.finish(call)

        assert ("timeout", "FunctionTimeoutError") == (call.state, call.error["skylift"])
        assert call.error["message"].startswith("work ran longer than its timeout of 0.2 s and was stopped.")
        problem = gateway.exited(container)
        assert problem is not None
        assert "FunctionTimeoutError" == problem.error
        assert isinstance(gateway.lost(waiting), CallLost)

    def test_the_clock_of_a_call_starts_when_it_begins(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec())
        calls = [gateway.call(container, time.sleep, 0.3, timeout=0.5) for _ in range(4)]
        assert ["done"] * 4 == [gateway.finish(call).state for call in calls]


class TestCancel:
    def test_a_running_call(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec())
        call = gateway.call(container, time.sleep, 60)
        gateway.wait_for(lambda: call.started, "its start")
        gateway.cancel(call, reason="not needed")
        gateway.finish(call)

        assert ("cancelled", "InputCancellation") == (call.state, call.error["skylift"])
        assert "not needed" in call.error["message"]
        assert 42 == gateway.finish(gateway.call(container, add_one, 41)).result

    def test_a_waiting_call_never_runs(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec())
        running = gateway.call(container, time.sleep, 60)
        waiting = gateway.call(container, print, "never")
        gateway.cancel(waiting)
        gateway.finish(waiting)

        assert ("cancelled", "") == (waiting.state, waiting.text())
        assert "work was cancelled." == waiting.error["message"]
        gateway.cancel(running)
        gateway.finish(running)

    def test_terminate_ends_the_container_too(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec())
        call = gateway.call(container, never_returns)
        gateway.wait_for(lambda: call.started, "its start")
        gateway.cancel(call, "terminate", "stop it")
        gateway.finish(call)

        assert ("cancelled", "work was cancelled: stop it") == (call.state, call.error["message"])
        gateway.exited(container)

    def test_a_generator_that_waits_for_its_window(self, gateway: FakeGateway) -> None:
        gateway.consumes = False
        call = gateway.call(gateway.start(spec()), count, 100_000, kind="generator", window=1000)
        gateway.wait_for(lambda: call.total >= 900, "a full window")
        gateway.cancel(call)
        gateway.finish(call)
        assert "cancelled" == call.state


def input_from_pipe() -> None:
    read, _ = os.pipe()
    os.read(read, 1)
