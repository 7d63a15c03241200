"""Running the programs that the isolation is made of (runc, ip, iptables, newuidmap, ...)."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")

COMMAND_TIMEOUT = 30.0
"""Seconds. Each of these programs takes milliseconds; one that hangs must not hang the host."""


class CommandError(Exception):
    """A program is missing, failed or did not end. The message has its name and what it said."""


class Output(msgspec.Struct, frozen=True):
    """What a program printed."""

    stdout: str
    stderr: str


async def within(awaitable: Awaitable[T], seconds: float) -> T:
    """What `awaitable` gives. Raises `asyncio.TimeoutError` after so many seconds.

    Unlike `asyncio.wait_for` before Python 3.12, it never loses a cancellation that comes with the result.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise asyncio.TimeoutError
        return task.result()
    finally:
        task.cancel()


async def run(
    command: Sequence[str], *, given: str = "", cwd: Path | None = None, timeout: float = COMMAND_TIMEOUT
) -> Output:
    """Run a program with `given` as its input. Raises `CommandError` unless it exits with 0."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE if given else DEVNULL, stdout=PIPE, stderr=PIPE, cwd=cwd
        )
    except FileNotFoundError as error:
        raise CommandError(f"{command[0]} is not installed.") from error
    except OSError as error:
        raise CommandError(f"{command[0]} cannot be run: {error.strerror}.") from error
    try:
        out, err = await within(process.communicate(given.encode() or None), timeout)
    except asyncio.TimeoutError as error:
        raise CommandError(f"{' '.join(command)} did not end within {timeout:.0f} s.") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    output = Output(out.decode(errors="replace"), err.decode(errors="replace"))
    if process.returncode:
        said = output.stderr.strip() or output.stdout.strip() or f"exit status {process.returncode}"
        raise CommandError(f"{' '.join(command)}: {said}")
    return output
