"""Programs of this machine that help to build an image."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence

NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--ipc", "--uts")
"""Before a command: what it mounts and starts ends with it, also when it is killed."""

_END_SECONDS = 10.0

Told = Callable[[str], None]
"""Gets what is printed."""


def output_lines(command: Sequence[str]) -> Iterator[str]:
    """What a program prints, in English; nothing where it is not there."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError:
        return
    yield from done.stdout.decode(errors="replace").splitlines()


async def run_told(command: Sequence[str], tell: Told, *, env: Mapping[str, str], given: str = "") -> int:
    """Run a program with `given` as its input; its exit status. It ends where this is cancelled."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(env),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(given.encode())
        process.stdin.close()
        while text := await process.stdout.read(65536):
            tell(text.decode(errors="replace"))
        return await process.wait()
    finally:
        if process.returncode is None:
            await asyncio.shield(asyncio.ensure_future(_end(process)))


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a program of `NAMESPACES` by the first process in there: so its parent is there to wait for it,
    and it does not stay a zombie of ours."""
    try:
        children = _children(process.pid)
        for child in children:
            os.kill(child, signal.SIGKILL)
        if children:
            await asyncio.wait_for(process.wait(), _END_SECONDS)
    except (OSError, asyncio.TimeoutError):
        pass
    if process.returncode is None:
        process.kill()
        await process.wait()
