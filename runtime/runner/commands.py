"""``!command`` in a cell: runs it in a pseudo-terminal, so that its output comes as it is written."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios

_ROWS, _COLUMNS = 24, 80
_LOOK_SECONDS = 0.05
_INTERRUPT_SECONDS = 1.0


def run_command(command: str) -> int:
    """Runs a shell command and prints what it writes; its exit status, negative for a signal.

    What is raised here meanwhile interrupts the command and, where that does not help, kills it. Processes
    that it leaves in the background run on without being listened to.
    """
    ours, theirs = _terminal()
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
    finally:
        os.close(theirs)
    try:
        _print_until_it_ends(process, ours)
        return process.wait()
    except BaseException:
        _interrupt(process)
        raise
    finally:
        os.close(ours)


def _terminal() -> tuple[int, int]:
    """Our end and the command's of a new pseudo-terminal, or of a pipe where there are none."""
    try:
        ours, theirs = pty.openpty()
    except OSError:
        return os.pipe()
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST  # lines end in "\n", as from a program
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    return ours, theirs


def _print_until_it_ends(process: subprocess.Popen[bytes], descriptor: int) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        ended = process.poll() is not None
        if select.select([descriptor], [], [], 0 if ended else _LOOK_SECONDS)[0]:
            try:
                data = os.read(descriptor, 64 * 1024)
            except OSError:  # how a terminal says that nobody writes to it any more
                data = b""
            if not data:
                break
            sys.stdout.write(decoder.decode(data))
        elif ended:
            break
    sys.stdout.write(decoder.decode(b"", final=True))


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(_INTERRUPT_SECONDS)
    except (subprocess.TimeoutExpired, ProcessLookupError):
        pass
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
