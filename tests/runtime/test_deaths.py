"""What users are told when their code ends its process, or something else does."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

import pytest
from fake_gateway import FakeGateway, Received
from host_process import running_host, session_spec, spec

from skylift.runtime.deaths import before_ready, died, startup_timed_out
from skylift.runtime.isolation import ExitStatus


def crash() -> None:
    ctypes.string_at(0)


def fill_memory() -> int:
    blocks = [bytearray(b"x" * (16 << 20)) for _ in range(64)]
    return len(blocks)


def ended(gateway: FakeGateway, call: Received) -> tuple[str, str, str]:
    """State, class and message."""
    gateway.finish(call)
    assert call.end is not None
    assert call.end.summary == f"{call.error['type']}: {call.error['message']}".splitlines()[0][:300]
    return call.state, call.error["skylift"], call.error["message"]


class TestFunctions:
    def test_os_exit(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec())
        message = (
            "work ended its own process with exit status 3: os._exit(3), or a library that calls it. "
            "Return or raise an exception instead, and the process stays."
        )
        assert ("failed", "ExecutionError", message) == ended(gateway, gateway.call(container, os._exit, 3))
        problem = gateway.exited(container)
        assert problem is not None
        assert ("ExecutionError", message) == (problem.error, problem.message)

    def test_a_segmentation_fault(self, gateway: FakeGateway) -> None:
        call = gateway.call(gateway.start(spec()), crash)
        message = (
            "work was ended by SIGSEGV (a segmentation fault: native code, often of an extension module, "
            "touched memory that is not its own)."
        )
        assert ("failed", "ExecutionError", message) == ended(gateway, call)
        assert "Segmentation fault" in call.text("stderr")

    def test_sigkill(self, gateway: FakeGateway) -> None:
        call = gateway.call(gateway.start(spec()), lambda: os.kill(os.getpid(), signal.SIGKILL))
        message = (
            "work was killed (SIGKILL): by itself, by an administrator, or by the system when the machine "
            "ran out of memory."
        )
        assert ("failed", "ExecutionError", message) == ended(gateway, call)

    def test_calls_that_wait_can_run_elsewhere(self, gateway: FakeGateway) -> None:
        container = gateway.start(spec())

        def die_slowly() -> None:
            time.sleep(0.3)
            os._exit(4)

        dying, waiting = gateway.call(container, die_slowly), gateway.call(container, abs, -1)
        gateway.finish(dying)
        assert gateway.lost(waiting).reason.startswith("work ended its own process with exit status 4")
        assert [] == waiting.events

    def test_of_a_map_only_the_input_that_did_it_fails(self, gateway: FakeGateway) -> None:
        """Also where its neighbours are so quick that their results were still on their way."""
        call = gateway.expect("fc-map0000001")
        function = gateway.define(lambda n: os._exit(5) if n == 2 else n)
        left = list(range(5))
        for _ in range(3):
            container = gateway.start(spec())
            gateway.inputs(container, function, call, {index: index for index in left})
            if left == [3, 4]:
                break
            gateway.exited(container)
            left = [index for index in range(5) if index not in call.done]
        gateway.finish_inputs(call, range(5))

        outcomes = call.outcomes()
        kinds = [outcomes[index].kind for index in range(5)]
        assert ["result", "result", "error", "result", "result"] == kinds
        assert "exit status 5" in outcomes[2].meta["message"]

    def test_of_a_map_an_input_that_took_its_time_is_known(self, gateway: FakeGateway) -> None:
        container, call = gateway.start(spec()), gateway.expect("fc-map0000002")

        def die_slowly(number: int) -> None:
            time.sleep(0.3)
            os._exit(number)

        function = gateway.define(die_slowly)
        gateway.inputs(container, function, call, {0: 6, 1: 6})
        gateway.inputs(container, function, call, {2: 6})
        gateway.finish_inputs(call, [0])
        gateway.exited(container)
        assert "exit status 6" in call.outcomes()[0].meta["message"]
        assert {1, 2} == gateway.returned(call)

    def test_output_that_was_written_last_still_comes(self, gateway: FakeGateway) -> None:
        def last_words() -> None:
            print("by print", flush=True)
            os.write(2, b"by the descriptor\n")
            os._exit(1)

        call = gateway.finish(gateway.call(gateway.start(spec()), last_words))
        assert "by the descriptor\n" == call.text("stderr")


class TestSessions:
    def test_cells_that_wait_are_told_too(self, gateway: FakeGateway) -> None:
        container = gateway.start(session_spec())
        dying = gateway.cell(container, "import os, time\ntime.sleep(0.3)\nos._exit(1)")
        waiting = gateway.cell(container, "print('never')")
        message = (
            "Session train ended its own process with exit status 1: os._exit(1), or a library that calls "
            "it. Return or raise an exception instead, and the process stays. The session's variables are "
            "gone; the next cell starts a new one."
        )
        assert ("failed", "ExecutionError", message) == ended(gateway, dying)
        waited = "This cell had not begun when its session ended. " + message
        assert ("failed", "ExecutionError", waited) == ended(gateway, waiting)


@pytest.mark.slow
@pytest.mark.root
def test_out_of_memory_names_the_limit_and_the_peak(host_home: Path) -> None:
    with running_host(host_home, "runc") as (_, gateway):
        container = gateway.start(spec(memory_limit=200))
        state, error, message = ended(gateway, gateway.call(container, fill_memory))
        assert ("failed", "ResourceExhaustedError") == (state, error)
        assert message.startswith("work ran out of memory: its container may use 200 MiB and had used ")
        assert message.endswith(
            "MiB when the system killed a process in it. "
            "Give it more: `memory=(128, 512)` on the function (MiB: reserved, limit)."
        )
        problem = gateway.exited(container)
        assert problem is not None
        assert message == problem.message


class TestTexts:
    def test_a_session_out_of_memory(self) -> None:
        status = ExitStatus(code=137, signal=9, oom=True, peak_memory=2 << 30, memory_limit=2 << 30)
        death = died(session_spec(), status)
        message = (
            "Session train ran out of memory: its container may use 2,048 MiB and had used 2,048 MiB when "
            "the system killed a process in it. Start the session with more: `--memory 4` (GiB) on its first "
            "cell. The session's variables are gone."
        )
        assert ("ResourceExhaustedError", message) == (death.problem.error, death.problem.message)

    def test_an_unknown_signal_has_its_number(self) -> None:
        death = died(spec(), ExitStatus(code=128 + 40, signal=40))
        assert "work was ended by signal 40." == death.problem.message

    def test_an_end_before_it_was_ready_has_the_last_words(self) -> None:
        problem = before_ready(spec(), ExitStatus(code=1), "one\ntwo\n")
        message = (
            "The container of work ended with exit status 1 before it was ready. Its last output:\none\ntwo"
        )
        assert message == problem.message
        silent = before_ready(session_spec(), ExitStatus(code=139, signal=11), "")
        message = "The container of session train ended by SIGSEGV before it was ready. It wrote nothing."
        assert message == silent.message

    def test_a_start_that_took_too_long(self) -> None:
        problem = startup_timed_out(spec(startup_timeout=2.0), "importing")
        message = (
            "The container of work was not ready after 2 s (startup_timeout) and was ended. If it needs "
            "longer, raise startup_timeout. Its last output:\nimporting"
        )
        assert ("FunctionTimeoutError", message) == (problem.error, problem.message)
