"""What a build tells, and how often."""

from __future__ import annotations

import asyncio

from skylift.runtime.build_log import BuildLog
from skylift.wire import BuildOutput


def told(lines: int, *, size: int = 8) -> tuple[list[BuildOutput], list[str]]:
    sent: list[BuildOutput] = []

    async def body() -> list[str]:
        log = BuildLog("bu-1", 2, sent.append)
        log.begin(1, "install")
        for number in range(lines):
            log.text(f"{number:0{size}}\n")
            if number % 100 == 0:
                await asyncio.sleep(0)
        log.moved(5, 10)
        log.end("done")
        return log.last_lines()

    return sent, asyncio.run(body())


def test_many_lines_are_few_messages() -> None:
    sent, last = told(1000)
    assert len(sent) < 20
    assert "".join(f"{number:08}\n" for number in range(1000)) == "".join(each.text for each in sent)
    assert ("done", 1, 2, "install") == (sent[-1].state, sent[-1].step, sent[-1].steps, sent[-1].label)
    assert [f"{number:08}" for number in range(981, 1000)] == last


def test_of_too_much_the_middle_is_left_out() -> None:
    sent, _ = told(100, size=10000)
    text = "".join(each.text for each in sent)
    assert len(text) < 400 * 1024
    assert "characters were left out" in text


def test_how_far_something_is() -> None:
    sent, _ = told(1)
    assert (5, 10) in [(each.done, each.total) for each in sent]


def test_a_progress_bar_is_its_last_state() -> None:
    async def body() -> list[str]:
        log = BuildLog("bu-1", 1, lambda _: None)
        log.begin(0, "")
        for percent in range(0, 101, 10):
            log.text(f"\r{percent} %")
        log.text("\nno luck\n")
        return log.last_lines()

    assert ["100 %", "no luck"] == asyncio.run(body())
