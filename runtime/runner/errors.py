"""Exceptions as `error` events: a description for people, and the exception itself where it can travel.

The fields are in docs/protocol.md.
"""

from __future__ import annotations

import functools
import io
import json
import linecache
import os
import pickle
import sys
import traceback
from typing import Any, NamedTuple

from .pickling import PROTOCOL, one_line

OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
MAX_FRAMES = 100
_FIRST_FRAMES = 30
_WITH_CONTEXT = 5
_CONTEXT_LINES = 2
_MAX_PICKLE = 8 * 1024 * 1024
_MAX_MESSAGE = 200_000


class Described(NamedTuple):
    """An `error` event in the making."""

    meta: dict[str, Any]
    data: bytes
    summary: str
    """One line."""

    def event(self, index: int | None = None) -> tuple[str, str, bytes]:
        """Kind, meta as JSON, data."""
        meta = self.meta if index is None else {**self.meta, "index": index}
        return "error", json.dumps(meta), self.data


def describe(error: BaseException) -> Described:
    """What the user's code raised."""
    told = _told(error)
    data, reason = pickled(error)
    meta = {**_meta(error, told), "unpicklable": reason, "skylift": "", "text": "".join(told.format())}
    return Described(meta, data, one_line(error))


def describe_ours(
    name: str, message: str, error: BaseException | None = None, *, cause: bool = False
) -> Described:
    """An error of ours. `error` gives it its frames, or becomes its cause."""
    meta: dict[str, Any] = {
        "type": name,
        "module": "skylift.exceptions",
        "qualname": name,
        "message": message,
        "frames": [],
        "cause": None,
        "context": None,
        "suppress_context": cause,
        "notes": [],
    }
    text = ""
    if error is not None:
        told = _told(error)
        if cause:
            meta["cause"] = _meta(error, told)
            text = "".join(told.format())
            text += "\nThe above exception was the direct cause of the following exception:\n\n"
        else:
            meta["frames"] = _frames(told.stack)
            if told.stack:
                text = "Traceback (most recent call last):\n" + "".join(told.stack.format())
    text += f"skylift.exceptions.{name}: {message}\n"
    summary = " ".join(f"{name}: {message}".split())[:300]
    return Described({**meta, "unpicklable": "", "skylift": name, "text": text}, b"", summary)


def text_of(error: BaseException) -> str:
    """The traceback as Python prints it, without frames of ours."""
    return "".join(_told(error).format())


# --- the description -----------------------------------------------------------------------------


def _told(error: BaseException) -> traceback.TracebackException:
    told = traceback.TracebackException.from_exception(error)
    _drop_our_frames(told)
    return told


def _meta(error: BaseException, told: traceback.TracebackException) -> dict[str, Any]:
    cls = type(error)
    try:
        message = str(error)[:_MAX_MESSAGE]
    except Exception as failed:
        message = f"<its text cannot be made: {type(failed).__name__}>"
    meta: dict[str, Any] = {
        "type": cls.__name__,
        "module": cls.__module__,
        "qualname": cls.__qualname__,
        "message": message,
        "frames": _frames(told.stack),
        "cause": _meta(error.__cause__, told.__cause__) if error.__cause__ and told.__cause__ else None,
        "context": _meta(error.__context__, told.__context__)
        if error.__context__ and told.__context__
        else None,
        "suppress_context": error.__suppress_context__,
        "notes": [str(note) for note in getattr(error, "__notes__", None) or ()],
    }
    inner = getattr(told, "exceptions", None)
    if inner:
        meta["exceptions"] = [
            _meta(one, described)
            for one, described in zip(error.exceptions, inner, strict=False)  # type: ignore[attr-defined]
        ]
    if isinstance(error, SyntaxError):
        meta["syntax"] = {
            "message": error.msg,
            "file": error.filename,
            "line": error.lineno,
            "offset": error.offset,
            "end_line": getattr(error, "end_lineno", None),
            "end_offset": getattr(error, "end_offset", None),
            "text": error.text if isinstance(error.text, str) else None,
        }
    return meta


def _drop_our_frames(told: traceback.TracebackException) -> None:
    """Takes out the frames of the runner, of IPython's machinery, and of asyncio around a call."""
    ours = (OURS, *_ipython())
    around = os.path.dirname(os.path.abspath(os.__file__)) + os.sep + "asyncio" + os.sep
    seen: set[int] = set()
    waiting = [told]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        frames = [frame for frame in one.stack if not frame.filename.startswith(ours)]
        begin = 0
        while begin < len(frames) and frames[begin].filename.startswith(around):
            begin += 1
        one.stack = traceback.StackSummary.from_list(frames[begin:])
        waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
        waiting += getattr(one, "exceptions", None) or []


def _ipython() -> tuple[str, ...]:
    file = getattr(sys.modules.get("IPython"), "__file__", None)
    return (os.path.join(os.path.dirname(os.path.abspath(file)), "core") + os.sep,) if file else ()


def _frames(stack: traceback.StackSummary) -> list[dict[str, Any]]:
    frames = list(stack)
    omitted = len(frames) - MAX_FRAMES
    if omitted > 0:
        frames = frames[:_FIRST_FRAMES] + frames[_FIRST_FRAMES + omitted :]
    described = []
    for position, frame in enumerate(frames):
        line = frame.lineno or 0
        entry: dict[str, Any] = {
            "file": frame.filename,
            "line": line,
            "function": frame.name,
            "source": (frame.line or "").strip(),
        }
        if getattr(frame, "end_lineno", None) is not None:
            entry["end_line"] = frame.end_lineno
        for field, offset, at in (
            ("column", "colno", line),
            ("end_column", "end_colno", entry.get("end_line", line)),
        ):
            bytes_in = getattr(frame, offset, None)
            if bytes_in is not None:
                text = linecache.getline(frame.filename, at)
                entry[field] = len(text.encode()[:bytes_in].decode("utf-8", "replace")) if text else bytes_in
        if len(frames) - position <= _WITH_CONTEXT:
            lines = linecache.getlines(frame.filename)
            if 0 < line <= len(lines):
                begin = max(1, line - _CONTEXT_LINES)
                entry["context"] = [text.rstrip("\n") for text in lines[begin - 1 : line + _CONTEXT_LINES]]
                entry["context_start"] = begin
        if omitted > 0 and position == _FIRST_FRAMES:
            entry["omitted"] = omitted
        described.append(entry)
    return described


# --- the exception itself ------------------------------------------------------------------------


def pickled(error: BaseException) -> tuple[bytes, str]:
    """The exception's pickle if it can be unpickled again, with the exceptions that led to it if these can;
    else empty, and why."""
    data, reason = _tried(error, chained=True)
    if reason and (error.__cause__ or error.__context__):
        data, reason = _tried(error, chained=False)
    return data, reason


def _tried(error: BaseException, *, chained: bool) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    try:
        if not chained and type(error).__module__ == "builtins":
            pickle.Pickler(buffer, PROTOCOL).dump(error)
        else:
            _exception_pickler()(buffer, chained).dump(error)
    except Exception as failed:
        return b"", f"it cannot be pickled: {one_line(failed)}"
    data = buffer.getvalue()
    if len(data) > _MAX_PICKLE:
        return b"", f"its pickle takes {len(data)} bytes"
    try:
        again = pickle.loads(data)
    except Exception as failed:
        return b"", f"its pickle cannot be unpickled: {one_line(failed)}"
    if type(again).__qualname__ != type(error).__qualname__:
        return b"", f"its pickle becomes a {type(again).__qualname__}"
    return data, ""


@functools.cache
def _exception_pickler() -> Any:
    """A pickler that gives exceptions their causes, which they do not take along by themselves."""
    try:
        from cloudpickle import Pickler  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        from pickle import Pickler  # type: ignore[assignment,unused-ignore]

    class ExceptionPickler(Pickler):  # type: ignore[misc]
        def __init__(self, file: io.BytesIO, chained: bool) -> None:
            super().__init__(file, PROTOCOL)
            self._chained = chained

        def reducer_override(self, value: Any) -> Any:
            if self._chained and isinstance(value, BaseException):
                extended = _with_causes(value)
                if extended is not None:
                    return extended
            parent = getattr(super(), "reducer_override", None)
            return NotImplemented if parent is None else parent(value)

    return ExceptionPickler


def _with_causes(error: BaseException) -> Any:
    """``error.__reduce_ex__()`` with the causes added to its state: `BaseException.__setstate__` sets
    attributes."""
    links = {
        name: value
        for name in ("__cause__", "__context__")
        if (value := getattr(error, name)) is not None and value is not error
    }
    if not links or type(error).__setstate__ is not BaseException.__setstate__:
        return None
    reduced = error.__reduce_ex__(PROTOCOL)
    if not isinstance(reduced, tuple) or len(reduced) not in (2, 3):
        return None
    state = reduced[2] if len(reduced) == 3 else None
    if state is not None and not isinstance(state, dict):
        return None
    return (*reduced[:2], {**(state or {}), **links, "__suppress_context__": error.__suppress_context__})
