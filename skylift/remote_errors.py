"""Exceptions from `error` events: the original exception, with the traceback that it had in the container.

The event is described in docs/protocol.md.
"""

from __future__ import annotations

import builtins
import pickle
from typing import Any

from skylift import exceptions
from skylift.exceptions import Error, ExecutionError, InternalFailure
from skylift.remote_tracebacks import remote_traceback
from skylift.wire import Problem

_MAX_CHAIN = 50


def problem_error(problem: Problem) -> Error:
    """The exception for an error that the gateway or a host reports."""
    return _ours(problem.error, problem.message)


def rebuild(meta: dict[str, Any], data: bytes) -> BaseException:
    """The exception that an `error` event tells of. Never raises."""
    name = meta.get("skylift") or ""
    if name:
        return _decorate(_ours(name, str(meta.get("message", ""))), meta)
    if not data:
        return _decorate(_stand_in(meta, str(meta.get("unpicklable", ""))), meta)
    try:
        error = pickle.loads(data)
    except Exception as reason:
        return _decorate(_stand_in(meta, f"it cannot be loaded here: {reason}"), meta)
    if not isinstance(error, BaseException):
        return _decorate(_stand_in(meta, "it is not an exception when it is loaded here"), meta)
    return _decorate(error, meta)


def _decorate(error: BaseException, meta: dict[str, Any], depth: int = 0) -> BaseException:
    """Gives an exception, and those that it is chained to, their tracebacks and notes."""
    error.__traceback__ = remote_traceback(meta.get("frames") or [])
    notes = meta.get("notes") or []
    if notes and not getattr(error, "__notes__", None):
        error.__notes__ = list(notes)
    if depth >= _MAX_CHAIN:
        return error
    for link, described in (("__cause__", meta.get("cause")), ("__context__", meta.get("context"))):
        if not described:
            continue
        chained = getattr(error, link)
        if chained is None:
            chained = _chained(described)
            setattr(error, link, chained)
        _decorate(chained, described, depth + 1)
    error.__suppress_context__ = bool(meta.get("suppress_context", False))
    inner = getattr(error, "exceptions", None)
    if isinstance(inner, tuple):
        for member, described in zip(inner, meta.get("exceptions") or [], strict=False):
            if isinstance(member, BaseException):
                _decorate(member, described, depth + 1)
    return error


def _ours(name: str, message: str) -> Error:
    kind = getattr(exceptions, name, None)
    if kind is exceptions.InputCancellation:
        # That one is for the function itself; who waits for its result should be able to catch this.
        return exceptions.RemoteError(message or "the call was cancelled")
    if not (isinstance(kind, type) and issubclass(kind, Error)):
        return InternalFailure(f"{name}: {message}")
    return kind(message)


def _stand_in(meta: dict[str, Any], why: str) -> ExecutionError:
    reason = f" ({why})" if why else ""
    text = str(meta.get("text") or "").rstrip()
    return ExecutionError(
        f"{_named(meta)}\n\nThe exception itself cannot be had here{reason}. "
        f"The traceback from the container:\n{text}"
    )


def _chained(meta: dict[str, Any]) -> BaseException:
    """An exception of which there is a description only."""
    kind = getattr(builtins, str(meta.get("qualname")), None) if meta.get("module") == "builtins" else None
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(meta.get("message", ""))
        except Exception:
            return ExecutionError(_named(meta))
    return ExecutionError(_named(meta))


def _named(meta: dict[str, Any]) -> str:
    name = f"{meta.get('module', '')}.{meta.get('qualname') or meta.get('type', 'Exception')}"
    return f"{name.removeprefix('builtins.').removeprefix('__main__.')}: {meta.get('message', '')}"
