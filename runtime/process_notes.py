"""Notes of processes that must not outlive a host: if it crashes, the next one ends them."""

from __future__ import annotations

import contextlib
from pathlib import Path


def started(pid: int) -> str:
    """When a process began: with its pid, this tells it from another that has the pid later.

    Empty where there is no such process, or no ``/proc``.
    """
    fields = stat_fields(pid)
    return fields[19] if fields else ""


def stat_fields(pid: int | str) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the state on; empty where there is no such process."""
    try:
        return Path("/proc", str(pid), "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


class ProcessNotes:
    """A folder with a file for each process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, pid: int) -> None:
        """Note a process under a name."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / name).write_text(f"{pid} {started(pid)}", encoding="ascii")

    def forget(self, name: str) -> None:
        """Idempotent."""
        (self._folder / name).unlink(missing_ok=True)

    def take_living(self) -> list[int]:
        """The processes that are noted and still run; the notes are removed."""
        living = []
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                pid, _, began = path.read_text(encoding="ascii").partition(" ")
                if pid.isdecimal() and began and started(int(pid)) == began:
                    living.append(int(pid))
                path.unlink(missing_ok=True)
        return living

    def remove_folder(self) -> None:
        """Remove the folder, where it is empty."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()
