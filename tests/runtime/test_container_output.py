from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

from skylift.runtime.container_output import ContainerOutput


class Scene:
    """A container's pipes, and what was read from them."""

    def __init__(self) -> None:
        out, self.stdout = os.pipe()
        err, self.stderr = os.pipe()
        self.written: list[tuple[str, bytes]] = []
        self.output = ContainerOutput((out, err), lambda stream, text: self.written.append((stream, text)))

    def text(self) -> bytes:
        return b"".join(text for _, text in self.written)

    async def until(self, condition: Callable[[], Any]) -> None:
        for _ in range(1000):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"it did not come: {self.written}")


def run(scenario: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        scene = Scene()
        try:
            await scenario(scene)
        finally:
            scene.output.close()
            os.close(scene.stdout)
            os.close(scene.stderr)

    asyncio.run(main())


def test_both_pipes_are_read() -> None:
    async def scenario(scene: Scene) -> None:
        os.write(scene.stdout, b"out")
        os.write(scene.stderr, b"err")
        await scene.until(lambda: len(scene.written) == 2)
        assert [("stderr", b"err"), ("stdout", b"out")] == sorted(scene.written)

    run(scenario)


def test_a_character_that_comes_in_two_reads_is_whole() -> None:
    async def scenario(scene: Scene) -> None:
        os.write(scene.stdout, "€".encode()[:2])
        scene.output.flush()
        assert [] == scene.written
        os.write(scene.stdout, "€".encode()[2:] + b"\xff.")
        scene.output.flush()
        assert "€\N{REPLACEMENT CHARACTER}." == scene.text().decode()

    run(scenario)


def test_flush_reads_what_is_there_also_while_paused() -> None:
    async def scenario(scene: Scene) -> None:
        scene.output.pause()
        os.write(scene.stdout, b"x")
        await asyncio.sleep(0.02)
        assert [] == scene.written
        scene.output.flush()
        assert b"x" == scene.text()
        os.write(scene.stdout, b"y")
        scene.output.resume()
        await scene.until(lambda: scene.text() == b"xy")

    run(scenario)


def test_the_tail_is_the_last_lines_and_bounded() -> None:
    async def scenario(scene: Scene) -> None:
        for number in range(3000):
            os.write(scene.stderr, f"line {number} {'x' * 80}\n".encode())
            if number % 100 == 0:
                scene.output.flush()
        scene.output.flush()
        lines = scene.output.tail(5).splitlines()
        assert [f"line {number}" for number in range(2995, 3000)] == [line[:9] for line in lines]
        assert len(scene.output.tail(10_000)) < 200_000

    run(scenario)


def test_closing_twice_and_after_the_end() -> None:
    async def scenario(scene: Scene) -> None:
        os.write(scene.stdout, b"last \xe2")
        scene.output.flush()
        assert b"last " == scene.text()
        read, write = os.pipe()
        os.dup2(write, scene.stdout)
        os.close(write)
        await scene.until(lambda: scene.text().decode() == "last \N{REPLACEMENT CHARACTER}")
        os.close(read)
        scene.output.close()
        scene.output.close()

    run(scenario)
