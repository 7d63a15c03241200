"""The link: letting go and coming back, with nothing lost and nothing twice."""

from __future__ import annotations

import os
from collections.abc import Iterator

from fake_host import FakeHost


def count(n: int) -> Iterator[int]:
    yield from range(n)


def test_an_idle_runner_lets_go_and_comes_back(own_host: FakeHost) -> None:
    assert own_host.call(lambda: 1).result == 1
    own_host.release()
    had = len(own_host.frames)
    waiting = own_host.start(lambda: 2)
    own_host.listen()
    own_host.accept()

    assert waiting.wait().result == 2
    assert [hello["channel"] for hello in own_host.hellos] == ["data", "control"] * 2
    assert own_host.hellos[2]["sent"] == had
    assert own_host.hellos[2]["got"] == 2


def test_a_call_that_ends_in_between_is_not_lost(own_host: FakeHost) -> None:
    def wait_for(path: str) -> str:
        import os
        import time

        print("begun")
        while not os.path.exists(path):
            time.sleep(0.005)
        print("over")
        return "result"

    path = own_host.path + ".go"
    call = own_host.start(wait_for, path)
    call.wait_output("begun")
    own_host.release()
    open(path, "w").close()
    assert own_host.call_is_quiet(call, 0.1)
    own_host.listen()
    own_host.accept()

    assert call.wait().result == "result"
    assert call.text() == "begun\nover\n"


def test_once_let_go_it_has_no_socket_open(own_host: FakeHost) -> None:
    """The host sees the end of both connections only then, for it has the process written next."""

    def sockets() -> list[str]:
        folder = f"/proc/{own_host.runner_pid}/fd"
        links = (os.readlink(f"{folder}/{name}") for name in os.listdir(folder))
        return [link for link in links if link.startswith("socket:")]

    assert 2 == len(sockets())
    for number in range(20):
        own_host.release()
        assert [] == sockets()
        own_host.listen()
        own_host.accept()
        assert number == own_host.call(lambda x: x, number).result


def test_a_stream_survives_many_cuts(own_host: FakeHost) -> None:
    def numbers(n: int) -> Iterator[int]:
        import time

        for i in range(n):
            yield i
            if i % 100 == 0:
                time.sleep(0.005)

    call = own_host.start(numbers, 10_000, kind="generator")
    for cut in range(1, 6):
        call.wait_events(cut * 1000)
        own_host.release()
        own_host.listen()
        own_host.accept()
        # The window as it is now: what was said before the cut may be lost.
        call.consume(call.cost)
    assert call.wait().items == list(range(10_000))


def test_a_connection_that_breaks_is_taken_up_again(own_host: FakeHost) -> None:
    assert own_host.call(lambda: 1).result == 1
    assert own_host.data is not None
    own_host.hang_up()
    own_host.accept()
    assert own_host.call(lambda: 2).result == 2


def test_frames_to_the_runner_are_not_lost_or_doubled(own_host: FakeHost) -> None:
    def add() -> int:
        import sys

        sys.test_count = getattr(sys, "test_count", 0) + 1  # type: ignore[attr-defined]
        return int(sys.test_count)  # type: ignore[attr-defined]

    function = own_host.define(add)
    calls = []
    for _ in range(8):
        calls += [own_host.start(function) for _ in range(50)]
        own_host.hang_up()
        calls += [own_host.start(function) for _ in range(50)]
        own_host.accept()
    for call in calls:
        call.wait()
    assert [call.result for call in calls] == list(range(1, 801))


def test_what_has_come_is_acknowledged(own_host: FakeHost) -> None:
    function = own_host.define(lambda: None)
    for _ in range(63):
        own_host.call(function)
    own_host.wait_for(lambda: {"t": "ack", "got": 64} in own_host.control_frames)
    own_host.call(lambda data: len(data), b"x" * (1 << 20))
    own_host.wait_for(lambda: {"t": "ack", "got": 66} in own_host.control_frames)


def test_a_large_frame_survives_a_cut_in_its_middle(own_host: FakeHost) -> None:
    data = b"x" * 30_000_000
    function = own_host.define(lambda value: len(value))
    call = own_host.new_call()
    own_host.cut_after = 1_000_000
    own_host.start(function, data, call=call)
    own_host.accept()
    assert call.wait().result == len(data)
