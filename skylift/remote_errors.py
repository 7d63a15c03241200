"""Exceptions from `error` events: the original exception, with the traceback that it had in the container.

The event is described in docs/protocol.md. Tracebacks are made real with tblib, so that debuggers, loggers
and IPython show the container's frames as they show local ones: a notebook's cell with its own line numbers.
"""

from __future__ import annotations

import linecache
import pickle
from types import TracebackType
from typing import Any

from skylift import exceptions
from skylift.exceptions import Error, ExecutionError, InternalFailure
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
    error.__traceback__ = _traceback(meta.get("frames") or [])
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
            chained = _stand_in(described, "", whole=False)
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


def _stand_in(meta: dict[str, Any], why: str, *, whole: bool = True) -> ExecutionError:
    name = f"{meta.get('module', '')}.{meta.get('qualname') or meta.get('type', 'Exception')}"
    name = name.removeprefix("builtins.").removeprefix("__main__.")
    message = f"{name}: {meta.get('message', '')}"
    if not whole:
        return ExecutionError(message)
    reason = f" ({why})" if why else ""
    text = str(meta.get("text") or "").rstrip()
    return ExecutionError(
        f"{message}\n\nThe exception itself cannot be had here{reason}. "
        f"The traceback from the container:\n{text}"
    )


def _traceback(frames: list[dict[str, Any]]) -> TracebackType | None:
    from tblib import Traceback

    described: dict[str, Any] | None = None
    for frame in reversed(frames):
        filename = str(frame.get("file", "?"))
        line = int(frame.get("line") or 1)
        _remember_source(filename, frame)
        described = {
            "tb_frame": {
                "f_globals": {"__file__": filename, "__name__": "__remote__"},
                "f_locals": {},
                "f_lineno": line,
                "f_code": {"co_filename": filename, "co_name": str(frame.get("function", "?"))},
            },
            "tb_lineno": line,
            "tb_next": described,
        }
    if described is None:
        return None
    traceback: TracebackType | None = Traceback.from_dict(described).as_traceback()
    return traceback


def _remember_source(filename: str, frame: dict[str, Any]) -> None:
    """Lets tracebacks show the lines of files that are not on this machine."""
    context = frame.get("context")
    if not context or linecache.getlines(filename):
        return
    lines = context if isinstance(context, list) else str(context).splitlines()
    start = int(frame.get("context_start") or 1)
    padded = ["\n"] * (start - 1) + [line.rstrip("\n") + "\n" for line in lines]
    linecache.cache[filename] = (sum(map(len, padded)), None, padded, filename)
