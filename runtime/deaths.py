"""What is said to the user when a container or a call was ended from outside."""

from __future__ import annotations

import pickle
import signal
from typing import Any

import msgspec

from skylift.runtime.isolation import ExitStatus
from skylift.wire import CallState, Event, FunctionSpec, Problem

MIB = 1024 * 1024
_SUMMARY = 300
_SIGNALS: dict[int, str] = {
    signal.SIGSEGV: "a segmentation fault: native code, often of an extension module, touched memory that is "
    "not its own",
    signal.SIGABRT: "native code gave up (abort), often after a failed assertion",
    signal.SIGBUS: "a bus error: often a memory-mapped file that became shorter, or a full /dev/shm",
    signal.SIGFPE: "an arithmetic error in native code",
    signal.SIGILL: "an instruction that this processor does not have: often a package built for another one",
}


class Death(msgspec.Struct, frozen=True):
    """Why a call ended before its code did."""

    state: CallState
    problem: Problem

    @property
    def summary(self) -> str:
        """One line."""
        return f"{self.problem.error}: {self.problem.message}".splitlines()[0][:_SUMMARY]

    def event(self, index: int = -1) -> Event:
        """The `error` event that a user's exception is made of."""
        return error_event(self.problem, index)


def error_event(problem: Problem, index: int = -1) -> Event:
    """An error of ours as an event (see docs/protocol.md); `index` names an input of a map."""
    meta: dict[str, Any] = {
        "type": problem.error,
        "module": "skylift.exceptions",
        "qualname": problem.error,
        "message": problem.message,
        "frames": [],
        "cause": None,
        "context": None,
        "suppress_context": False,
        "notes": [],
        "unpicklable": "",
        "skylift": problem.error,
        "text": f"skylift.exceptions.{problem.error}: {problem.message}\n",
    }
    if index >= 0:
        meta["index"] = index
    return Event("error", meta)


def interrupted_event() -> Event:
    """The `error` event of a cell that was interrupted before it began."""
    meta = error_event(Problem(error="KeyboardInterrupt", message="")).meta
    meta.update(module="builtins", skylift="", text="KeyboardInterrupt")
    return Event("error", meta, pickle.dumps(KeyboardInterrupt()))


def label(spec: FunctionSpec) -> str:
    """What people call it: ``train``, or ``session train``."""
    if spec.session:
        return f"session {spec.session_name}" if spec.session_name else "the session"
    return spec.name


def timed_out(spec: FunctionSpec, timeout: float, index: int = -1) -> Death:
    """`timeout` seconds of one call, cell or input are over."""
    if spec.session:
        text = (
            f"The cell ran longer than its timeout of {timeout:g} s and was stopped. "
            f"Give it more time with `--timeout`, for example `%%gpu … --timeout {_longer(timeout)}`."
        )
    else:
        what = spec.name if index < 0 else f"Input {index} of {spec.name}"
        text = (
            f"{what} ran longer than its timeout of {timeout:g} s and was stopped. "
            f"Give it more time with `timeout=` on the function: seconds, for example {_round(timeout * 4)}."
        )
    return Death("timeout", Problem(error="FunctionTimeoutError", message=text))


def cancelled(spec: FunctionSpec, reason: str) -> Death:
    """The call was cancelled, and did not end by itself in time or was not to."""
    text = f"{_capital(label(spec))} was cancelled" + (f": {reason}" if reason else ".")
    return Death("cancelled", Problem(error="InputCancellation", message=text))


def stopped(spec: FunctionSpec, reason: str) -> Death:
    """The container was stopped on purpose while the call was in it."""
    text = f"The container of {label(spec)} was stopped" + (f": {reason}" if reason else ".")
    return Death("cancelled", Problem(error="InputCancellation", message=text))


def no_contact(spec: FunctionSpec, seconds: float) -> Death:
    """The runner's connections are gone although its process lives."""
    text = (
        f"The process of {label(spec)} lost its connection to the host for {seconds:g} s and was ended. "
        "Code that closes file descriptors it did not open (os.closerange, daemonizing) does that."
    )
    return Death("failed", Problem(error="ExecutionError", message=text))


def broke_protocol(spec: FunctionSpec, reason: str) -> Death:
    """What came from the container was not the runner's."""
    text = f"The container of {label(spec)} was ended because its link broke: {reason}."
    return Death("failed", Problem(error="InternalFailure", message=text))


def unreadable(what: str) -> Death:
    """Code or arguments that a call needs cannot be read."""
    text = f"{what.rstrip('.')}. The call cannot run; call it again to send everything anew."
    return Death("failed", Problem(error="InternalFailure", message=text))


def died(spec: FunctionSpec, status: ExitStatus) -> Death:
    """The container's process ended by itself while a call was in it."""
    return Death("failed", _exit_problem(spec, status))


def before_ready(spec: FunctionSpec, status: ExitStatus, last_words: str) -> Problem:
    """The container's process ended before it could take calls."""
    if status.oom:
        return _out_of_memory(spec, status)
    how = f"by {signal_name(status.signal)}" if status.signal else f"with exit status {status.code}"
    return Problem(
        error="ExecutionError",
        message=f"The container of {label(spec)} ended {how} before it was ready.{_words(last_words)}",
    )


def startup_timed_out(spec: FunctionSpec, last_words: str) -> Problem:
    """The container was not ready within `startup_timeout`."""
    return Problem(
        error="FunctionTimeoutError",
        message=(
            f"The container of {label(spec)} was not ready after {spec.startup_timeout:g} s "
            f"(startup_timeout) and was ended. If it needs longer, raise startup_timeout.{_words(last_words)}"
        ),
    )


def session_lost(death: Death) -> Death:
    """For the cells that were waiting in a session when it died."""
    text = f"This cell had not begun when its session ended. {death.problem.message}"
    return Death(death.state, Problem(error=death.problem.error, message=text))


def signal_name(number: int) -> str:
    """``SIGSEGV``; the number where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _exit_problem(spec: FunctionSpec, status: ExitStatus) -> Problem:
    name = _capital(label(spec))
    lost = " The session's variables are gone; the next cell starts a new one." if spec.session else ""
    if status.oom:
        return _out_of_memory(spec, status)
    if status.signal == signal.SIGKILL:
        text = (
            f"{name} was killed (SIGKILL): by itself, by an administrator, or by the system when the machine "
            f"ran out of memory.{lost}"
        )
    elif status.signal:
        why = _SIGNALS.get(status.signal)
        text = f"{name} was ended by {signal_name(status.signal)}{f' ({why})' if why else ''}.{lost}"
    else:
        text = (
            f"{name} ended its own process with exit status {status.code}: os._exit({status.code}), or a "
            f"library that calls it. Return or raise an exception instead, and the process stays.{lost}"
        )
    return Problem(error="ExecutionError", message=text)


def _out_of_memory(spec: FunctionSpec, status: ExitStatus) -> Problem:
    limit = max(status.memory_limit // MIB, 1)
    more = 1 << (2 * limit - 1).bit_length()
    if spec.session:
        advice = f"Start the session with more: `--memory {max(more // 1024, 1)}` (GiB) on its first cell."
    else:
        advice = f"Give it more: `memory=({spec.memory}, {more})` on the function (MiB: reserved, limit)."
    allowed = f"its container may use {limit:,} MiB" if status.memory_limit else "the machine has no more"
    return Problem(
        error="ResourceExhaustedError",
        message=(
            f"{_capital(label(spec))} ran out of memory: {allowed} and had used "
            f"{status.peak_memory // MIB:,} MiB when the system killed a process in it. {advice}"
            + (" The session's variables are gone." if spec.session else "")
        ),
    )


def _words(last_words: str) -> str:
    return f" Its last output:\n{last_words.rstrip()}" if last_words.strip() else " It wrote nothing."


def _capital(text: str) -> str:
    # A function's name keeps its case.
    return text[0].upper() + text[1:] if text.startswith(("the ", "session ")) else text


def _round(seconds: float) -> int:
    return max(1, round(seconds))


def _longer(timeout: float) -> str:
    seconds = timeout * 4
    if seconds >= 7200:
        return f"{round(seconds / 3600)}h"
    return f"{round(seconds / 60)}m" if seconds >= 120 else f"{_round(seconds)}s"
