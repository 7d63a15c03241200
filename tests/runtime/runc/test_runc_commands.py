from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from skylift.runtime.runc.commands import CommandError, Output, run, within


def test_output_and_input(tmp_path: Path) -> None:
    assert Output("given\n", "") == asyncio.run(run(["cat"], given="given\n"))
    assert f"{tmp_path}\n" == asyncio.run(run(["pwd"], cwd=tmp_path)).stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["no-such-program", "x"], "no-such-program is not installed."),
        (["sh", "-c", "echo why >&2; exit 1"], "sh -c echo why >&2; exit 1: why"),
        (["sh", "-c", "exit 3"], "sh -c exit 3: exit status 3"),
        (["/"], "/ cannot be run: Permission denied."),
    ],
)
def test_what_goes_wrong_is_said(command: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=f"^{re.escape(message)}$"):
        asyncio.run(run(command))


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(CommandError, match=r"sleep 609 did not end within 0 s\."):
        asyncio.run(run(["sleep", "609"], timeout=0.05))


def test_a_cancellation_that_comes_with_the_result_is_not_lost() -> None:
    async def body() -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(within(future, 10))
        await asyncio.sleep(0)
        future.set_result("done")
        task.cancel()
        return await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(body())


def test_time_runs_out() -> None:
    async def body() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await within(asyncio.Event().wait(), 0.01)

    asyncio.run(body())
