"""What user code prints, from threads and child processes too."""

from __future__ import annotations

from typing import Any

import pytest
from fake_host import FakeHost


def test_stdout_and_stderr_keep_their_order(host: FakeHost) -> None:
    def talk() -> None:
        import sys

        for n in range(3):
            print("out", n)
            print("err", n, file=sys.stderr)

    call = host.call(talk)
    assert [(event.meta["stream"], event.data) for event in call.of("output")] == [
        (stream, f"{stream[3:]} {n}\n".encode()) for n in range(3) for stream in ("stdout", "stderr")
    ]


def test_many_lines_are_few_events(host: FakeHost) -> None:
    def talk() -> None:
        for n in range(10_000):
            print("line", n)

    call = host.call(talk)
    assert call.text() == "".join(f"line {n}\n" for n in range(10_000))
    assert len(call.of("output")) < 1000


def test_a_long_text_comes_in_pieces(host: FakeHost) -> None:
    text = "ä€𝄞x" * 100_000
    call = host.call(lambda: print(text, end=""))
    assert call.text() == text
    assert max(len(event.data) for event in call.of("output")) <= 4 * 64 * 1024


def test_printing_waits_for_the_window(own_host: FakeHost) -> None:
    def talk() -> None:
        while True:
            print("x" * 99)

    own_host.consume = False
    call = own_host.start(talk, window=10_000)
    own_host.wait_for(lambda: call.cost >= 10_000)
    assert own_host.call_is_quiet(call, 0.1)
    assert call.cost < 30_000
    call.cancel()
    assert call.wait().state == "cancelled"


def test_the_streams_are_like_files(host: FakeHost) -> None:
    def look() -> Any:
        import sys

        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        sys.stdout.close()
        sys.stdout.writelines(["a", "b"])
        with open(sys.stderr.fileno(), "wb", closefd=False) as raw:
            raw.flush()
        return (
            sys.stdout.isatty(),
            sys.stdout.encoding,
            sys.stdout.fileno(),
            sys.stderr.fileno(),
            sys.stdout.writable(),
            sys.stdout.closed,
            sys.stdout.name,
        )

    call = host.call(look)
    assert call.result == (False, "utf-8", 1, 2, True, False, "<stdout>")
    assert call.text() == "ab"


def test_writing_what_is_no_text(host: FakeHost) -> None:
    def write() -> None:
        import sys

        sys.stdout.write(b"x")  # type: ignore[arg-type]

    assert host.call(write).error["message"] == "write() argument must be str, not bytes"


def test_bytes_are_decoded(host: FakeHost) -> None:
    def write() -> None:
        import sys

        for byte in "ä\n".encode():
            sys.stdout.buffer.write(bytes([byte]))
        sys.stdout.write("\udcff\n")

    assert host.call(write).text() == "ä\n\\udcff\n"


def test_a_handler_made_in_one_call_prints_in_the_next(host: FakeHost) -> None:
    def log() -> None:
        import logging

        logger = logging.getLogger("test")
        if not logger.handlers:
            logger.addHandler(logging.StreamHandler())
        logger.warning("logged")

    function = host.define(log)
    assert [host.call(function).text("stderr") for _ in range(2)] == ["logged\n", "logged\n"]


def test_a_thread_prints_into_the_call_that_runs(host: FakeHost) -> None:
    def start() -> None:
        import sys
        import threading

        sys.test_go = threading.Event()  # type: ignore[attr-defined]
        sys.test_went = threading.Event()  # type: ignore[attr-defined]

        def talk() -> None:
            print("in the first call")
            sys.test_went.set()  # type: ignore[attr-defined]
            sys.test_go.wait()  # type: ignore[attr-defined]
            print("in the second call")
            sys.test_went.set()  # type: ignore[attr-defined]

        threading.Thread(target=talk).start()
        sys.test_went.wait()  # type: ignore[attr-defined]
        sys.test_went.clear()  # type: ignore[attr-defined]

    def go() -> None:
        import sys

        sys.test_go.set()  # type: ignore[attr-defined]
        sys.test_went.wait()  # type: ignore[attr-defined]

    assert host.call(start).text() == "in the first call\n"
    assert host.call(go).text() == "in the second call\n"


def test_what_a_thread_prints_between_calls_goes_to_the_descriptor(host: FakeHost) -> None:
    def start() -> None:
        import threading
        import time

        def talk() -> None:
            time.sleep(0.1)
            print("between calls")

        threading.Thread(target=talk).start()

    call = host.call(start)
    host.wait_printed("between calls\n")
    assert call.text() == ""


def test_a_thread_that_waits_for_the_window_is_let_go_at_the_end(own_host: FakeHost) -> None:
    def start() -> None:
        import threading

        def talk() -> None:
            for _ in range(100):
                print("x" * 99)
            print("through")

        thread = threading.Thread(target=talk)
        thread.start()
        thread.join(0.2)

    own_host.consume = False
    own_host.call(start, window=1000)
    own_host.wait_printed("through\n")


def test_started_is_said_of_long_calls_only(own_host: FakeHost) -> None:
    def wait(seconds: float) -> None:
        import time

        time.sleep(seconds)

    function = own_host.define(wait)
    # A busy machine may make some of them long.
    assert any(own_host.call(function, 0).started == [] for _ in range(50))
    call = own_host.call(function, 0.3)
    (started,) = call.started
    assert call.end is not None
    assert abs(started["time"] - call.end["started"]) < 0.1


# --- processes -----------------------------------------------------------------------------------


def test_a_command_prints_to_the_descriptor(host: FakeHost) -> None:
    def run() -> int:
        import subprocess

        return subprocess.run(["sh", "-c", "echo from a command; ls -l /proc/self/fd"], check=True).returncode

    assert host.call(run).result == 0
    host.wait_printed("from a command\n")
    assert b"socket:" not in host.printed["stdout"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes_do_not_talk_on_the_link(host: FakeHost, method: str) -> None:
    def fork(method: str) -> Any:
        import multiprocessing

        with multiprocessing.get_context(method).Pool(2) as pool:
            return pool.map(abs, [-1, -2, -3])

    call = host.call(fork, method)
    assert call.result == [1, 2, 3]
    assert host.call(lambda: "next").result == "next"


def test_a_forked_child_prints_to_the_descriptor(host: FakeHost) -> None:
    def fork() -> Any:
        import multiprocessing

        process = multiprocessing.get_context("fork").Process(
            target=lambda: print("from a child", flush=True)
        )
        process.start()
        process.join()
        return process.exitcode

    call = host.call(fork)
    assert call.result == 0
    assert call.text() == ""
    host.wait_printed("from a child\n")


def test_a_forked_child_can_be_terminated(host: FakeHost) -> None:
    def fork() -> Any:
        import multiprocessing
        import time

        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        process.start()
        process.terminate()
        process.join()
        return process.exitcode

    assert host.call(fork).result == -15


def test_a_forked_child_that_returns_does_not_answer(host: FakeHost) -> None:
    def fork() -> Any:
        import os

        pid = os.fork()
        if pid == 0:
            return "child"
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert host.call(fork).result == 0
    assert host.call(lambda: "next").result == "next"


def test_input_says_why_there_is_none(host: FakeHost) -> None:
    call = host.call(lambda: input("name?"))
    assert call.error["type"] == "UnsupportedOperation"
    assert call.error["message"] == (
        "there is no keyboard in a container, so input() and its like cannot ask: ask in the notebook and "
        "pass the answer in"
    )
