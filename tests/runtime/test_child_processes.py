"""Waiting for processes, and notes of those that must not stay."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from skylift.runtime.child_processes import ChildProcess, become_subreaper
from skylift.runtime.process_notes import ProcessNotes, started


def spawn(*command: str) -> int:
    """A child that nobody else waits for."""
    return os.posix_spawnp(command[0], command, os.environ)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", -15)])
def test_how_it_ended(script: str, status: int) -> None:
    async def body() -> None:
        child = ChildProcess(spawn("sh", "-c", script))
        assert [status, status] == await asyncio.gather(child.wait(), child.wait())
        assert child.ended
        child.send_signal(signal.SIGKILL)  # too late, and no harm
        with pytest.raises(ChildProcessError):
            os.waitpid(child.pid, 0)  # noqa: ASYNC222

    asyncio.run(body())


def test_a_signal_reaches_it() -> None:
    async def body() -> None:
        child = ChildProcess(spawn("sleep", "610"))
        child.send_signal(signal.SIGKILL)
        assert -signal.SIGKILL == await child.wait()

    asyncio.run(body())


def test_there_is_no_such_process() -> None:
    async def body() -> None:
        pid = spawn("true")
        os.waitpid(pid, 0)  # noqa: ASYNC222
        with pytest.raises(ProcessLookupError):
            ChildProcess(pid)

    asyncio.run(body())


def test_an_orphan_becomes_a_child() -> None:
    become_subreaper()

    async def body() -> None:
        # The shell is gone when it has told the pid of what it has started.
        gate, opener = os.pipe()
        script = "exec 3<&0; (read x <&3; exit 5) >/dev/null & echo $!"
        shell = ["sh", "-c", script]
        finished = subprocess.run(shell, stdin=gate, stdout=subprocess.PIPE, check=True)  # noqa: ASYNC221
        os.close(gate)
        child = ChildProcess(int(finished.stdout))
        os.close(opener)
        assert 5 == await child.wait()

    asyncio.run(body())


def test_notes_name_what_still_runs(tmp_path: Path) -> None:
    notes = ProcessNotes(tmp_path / "notes")
    assert [] == notes.take_living()
    running, ended, forgotten = spawn("sleep", "611"), spawn("true"), spawn("sleep", "612")
    try:
        for name, pid in (("running", running), ("ended", ended), ("forgotten", forgotten)):
            notes.write(name, pid)
        os.waitpid(ended, 0)
        notes.forget("forgotten")
        notes.forget("forgotten")
        (tmp_path / "notes" / "reused").write_text(f"{running} 1")  # another process had that pid
        (tmp_path / "notes" / "broken").write_text("")
        assert [running] == notes.take_living()
        assert [] == notes.take_living()
        notes.remove_folder()
        assert not (tmp_path / "notes").exists()
    finally:
        for pid in (running, forgotten):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert "" == started(running)
