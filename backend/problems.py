"""Errors of the control plane, in the form in which a call's stream carries them."""

from __future__ import annotations

from pathlib import Path

from skylift.wire import Event, Problem

BUSY_SECONDS = 5.0
"""How long a statement waits for a lock that another process holds."""


def no_call(call_id: str) -> Problem:
    """To whoever asks for a call that is not theirs, or not there any more."""
    message = f"There is no call {call_id} of yours. Calls are kept for retention_days (config.toml)."
    return Problem(error="NotFoundError", message=message)


def error_event(problem: Problem) -> Event:
    """The ``error`` event (docs/protocol.md) of an error that is ours: it has no traceback and no pickle."""
    return _event("skylift.exceptions", problem.error, problem.message, problem.error)


def interrupt_event() -> Event:
    """The ``error`` event of a call that was interrupted before it began."""
    return _event("builtins", "KeyboardInterrupt", "", "")


def _event(module: str, name: str, message: str, ours: str) -> Event:
    return Event(
        kind="error",
        meta={
            "type": name,
            "module": module,
            "qualname": name,
            "message": message,
            "frames": [],
            "cause": None,
            "context": None,
            "suppress_context": False,
            "notes": [],
            "unpicklable": "",
            "skylift": ours,
            "text": f"{name}: {message}" if message else name,
        },
    )


def lost_with_gateway(name: str, why: str) -> Problem:
    """Why a function's call ends that an earlier gateway took in."""
    return Problem(
        error="InternalFailure",
        message=f"The gateway was restarted, and {name} cannot go on: {why}. Run it again.",
    )


def summary(problem: Problem) -> str:
    """One line, as `End.summary` has it."""
    return f"{problem.error}: {problem.message.splitlines()[0] if problem.message else ''}"


def database_problem(path: Path, error: Exception) -> Problem:
    """Why the database in `path` cannot be used, by what its driver says."""
    text = str(getattr(error, "orig", error))
    if "full" in text:
        return Problem(
            error="ResourceExhaustedError",
            message=f"The gateway cannot write to {path}: the disk is full. Free some space there; until "
            "then, calls that must be on disk before they are accepted (spawn) are refused.",
        )
    if "locked" in text or "busy" in text:
        return Problem(
            error="ResourceExhaustedError",
            message=f"The gateway cannot write to {path}: another program holds it locked for longer than "
            f"{BUSY_SECONDS:g} s. Close what has the file open (a database browser, a second gateway).",
        )
    if "not a database" in text or "malformed" in text:
        return Problem(
            error="InternalFailure",
            message=f"{path} is damaged or no database ({text}). Move it away, and Skylift starts with a "
            "new one (the history of calls is lost).",
        )
    if "unable to open" in text or "readonly" in text:
        return Problem(
            error="ResourceExhaustedError",
            message=f"The gateway cannot open {path} for writing ({text}). Check that its folder exists and "
            "belongs to the user that runs the gateway.",
        )
    return Problem(error="InternalFailure", message=f"The database {path} failed: {text}.")
