from __future__ import annotations

import os
import signal
import threading

import pytest

from skylift.magics.interrupts import Interrupts


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_two_are_passed_on_and_the_third_is_raised() -> None:
    first, second = threading.Event(), threading.Event()
    with Interrupts(first.set, second.set) as interrupts:
        assert not interrupts.happened
        interrupt()
        assert first.wait(10)
        assert not second.is_set()
        interrupt()
        assert second.wait(10)
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert interrupts.happened


def test_afterwards_python_raises_them_again() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts(lambda: None, lambda: None):
        pass
    assert before is signal.getsignal(signal.SIGINT)


def test_in_other_threads_it_does_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    entered: list[bool] = []

    def work() -> None:
        with Interrupts(lambda: None, lambda: None):
            entered.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [True] == entered
    assert before is signal.getsignal(signal.SIGINT)
