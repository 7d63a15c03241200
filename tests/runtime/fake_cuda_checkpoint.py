"""A ``cuda-checkpoint`` that moves nothing: it keeps a state for each process, and notes what it is asked.

A process is known by its pid in its own pid namespace, which is the same after it was written and restored.
"""

from __future__ import annotations

import os
from pathlib import Path

SCRIPT = r"""#!/bin/sh
here=$(dirname "$0")/../cuda
while [ $# -gt 0 ]; do
    case $1 in
    --action) what=$2; shift ;;
    --get-state | --get-restore-tid | --help) what=${1#--} ;;
    --pid) pid=$2; shift ;;
    --timeout) more="$more timeout=$2"; shift ;;
    --device-map) more="$more $2"; shift ;;
    esac
    shift
done
if [ "$what" = help ]; then cat "$here/help"; exit 0; fi
process=$(sed -n 's/^NSpid:.*\t//p' "/proc/$pid/status")
state=$here/states/$process
refuse() { echo "Could not $what on process ID $pid: \"$1\"" >&2; exit 1; }
[ "$what" = get-state ] || [ "$what" = get-restore-tid ] || echo "$what $process$more" >>"$here/log"
[ -e "$state" ] || refuse "initialization error"
if [ -e "$here/fail-$what" ]; then refuse "$(cat "$here/fail-$what")"; fi
if [ -e "$here/hang-$what" ]; then exec sleep 1000; fi
grep -q '^State:\s*T' "/proc/$pid/status" && refuse "the process is stopped"
step() { [ "$(cat "$state")" = "$1" ] || refuse "invalid argument"; echo "$2" >"$state"; }
case $what in
get-state) cat "$state" ;;
get-restore-tid) echo "$pid" ;;
lock) step running locked ;;
checkpoint) step locked checkpointed ;;
restore) step checkpointed locked ;;
unlock) step locked running ;;
esac
"""


class FakeCudaCheckpoint:
    """The program, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self._folder = folder / "cuda"
        self._seen = 0
        self.bin.mkdir()
        (self._folder / "states").mkdir(parents=True)
        self.has_device_map(True)
        program = self.bin / "cuda-checkpoint"
        program.write_text(SCRIPT)
        program.chmod(0o755)

    @property
    def path(self) -> str:
        """For ``$PATH``."""
        return f"{self.bin}:{os.environ['PATH']}"

    def uses_cuda(self, *pids: int, state: str = "running") -> None:
        """The processes have begun to."""
        for pid in pids:
            (self._folder / "states" / str(pid)).write_text(f"{state}\n")

    def state(self, pid: int) -> str:
        return (self._folder / "states" / str(pid)).read_text().strip()

    def fail(self, what: str, said: str) -> None:
        """From now on this action does."""
        (self._folder / f"fail-{what}").write_text(said)

    def hang(self, what: str) -> None:
        """From now on this action does."""
        (self._folder / f"hang-{what}").touch()

    def has_device_map(self, has: bool) -> None:
        """Whether it is one of driver 580 or newer."""
        (self._folder / "help").write_text("--action lock | ..." + " [--device-map <uuids>]" * has)

    def asked(self) -> list[str]:
        """What it was to do since this was last called: action, process, options."""
        log = self._folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        new, self._seen = lines[self._seen :], len(lines)
        return new
