"""Exceptions that come from containers."""

from __future__ import annotations

import linecache
import traceback
from typing import Any

import pytest

from skylift import exceptions
from skylift.remote_errors import problem_error, rebuild
from skylift.remote_tracebacks import remote_traceback
from skylift.runtime.runner.errors import describe, describe_ours
from skylift.tracebacks import hide_our_frames
from skylift.wire import Problem


def raised(function: Any) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError


def frames_of(error: BaseException) -> list[tuple[str, int | None, str]]:
    return [
        (frame.name, frame.lineno, frame.line or "") for frame in traceback.extract_tb(error.__traceback__)
    ]


def test_the_traceback_is_as_it_was_there() -> None:
    def fail():
        values = [1, 2]
        return values[5] + 1

    original = raised(fail)
    described = describe(original)
    rebuilt = rebuild(described.meta, described.data)
    assert type(original) is type(rebuilt)
    assert frames_of(original)[-1] == frames_of(rebuilt)[-1]
    theirs = traceback.format_exception(original)[-2:]
    ours = traceback.format_exception(rebuilt)[-2:]
    assert theirs == ours


def test_causes_contexts_and_notes() -> None:
    def fail():
        try:
            {}["x"]
        except KeyError:
            try:
                raise ValueError("second")
            except ValueError as error:
                raise RuntimeError("third") from error

    original = raised(fail)
    original.__notes__ = ["look at the column names"]
    described = describe(original)
    rebuilt = rebuild(described.meta, described.data)
    assert "third" == str(rebuilt)
    assert isinstance(rebuilt.__cause__, ValueError)
    assert isinstance(rebuilt.__cause__.__context__, KeyError)
    assert ["look at the column names"] == rebuilt.__notes__
    assert "fail" == frames_of(rebuilt.__cause__.__context__)[-1][0]


def test_a_cause_that_did_not_travel_is_still_told() -> None:
    described = describe(ValueError("outer"))
    cause = describe(raised(lambda: {}["x"])).meta
    rebuilt = rebuild({**described.meta, "cause": cause, "suppress_context": True}, described.data)
    assert isinstance(rebuilt.__cause__, KeyError)
    assert "<lambda>" == frames_of(rebuilt.__cause__)[-1][0]
    strange = {**cause, "module": "only.there", "qualname": "Strange", "message": "oh"}
    rebuilt = rebuild({**described.meta, "cause": strange}, described.data)
    assert "only.there.Strange: oh" == str(rebuilt.__cause__)


def test_errors_of_ours_are_their_classes() -> None:
    for name in ("FunctionTimeoutError", "ResourceExhaustedError", "DeserializationError", "RemoteError"):
        described = describe_ours(name, "what happened")
        rebuilt = rebuild(described.meta, described.data)
        assert (name, "what happened") == (type(rebuilt).__name__, str(rebuilt))
        assert isinstance(rebuilt, exceptions.Error)
    cancelled = describe_ours("InputCancellation", "")
    assert "the call was cancelled" == str(rebuild(cancelled.meta, b""))
    assert isinstance(rebuild(cancelled.meta, b""), exceptions.RemoteError)


def test_a_problem_of_an_unknown_class_is_an_internal_failure() -> None:
    error = problem_error(Problem(error="NewerError", message="what happened"))
    assert isinstance(error, exceptions.InternalFailure)
    assert "NewerError: what happened" == str(error)


def test_without_the_exception_there_is_its_text() -> None:
    described = describe(raised(lambda: {}["x"]))
    meta = {**described.meta, "unpicklable": "TypeError: cannot pickle it"}
    error = rebuild(meta, b"")
    assert isinstance(error, exceptions.ExecutionError)
    assert str(error).startswith(
        "KeyError: 'x'\n\nThe exception itself cannot be had here (TypeError: cannot pickle it)"
    )
    assert "Traceback (most recent call last)" in str(error)
    assert isinstance(rebuild(described.meta, b"\x80\x05K\x01."), exceptions.ExecutionError)


def test_files_that_are_not_here_show_their_lines() -> None:
    frame = {
        "file": "/somewhere/else/train.py",
        "line": 12,
        "function": "train",
        "source": "return 1 / x",
        "context": ["def train(x):\n", "    return 1 / x\n"],
        "context_start": 11,
    }
    shown = traceback.format_tb(remote_traceback([frame]))
    assert ['  File "/somewhere/else/train.py", line 12, in train\n    return 1 / x\n'] == shown
    del linecache.cache["/somewhere/else/train.py"]


def test_no_frames_is_no_traceback() -> None:
    assert None is remote_traceback([])


def test_our_frames_are_hidden_and_others_stay() -> None:
    from skylift.gpu import parse_gpu

    def user():
        try:
            parse_gpu("nonsense")
        except exceptions.InvalidError as error:
            hide_our_frames(error)
            raise

    error = raised(user)
    names = [name for name, *_ in frames_of(error)]
    # Python 3.10 lists the frame that raises again a second time.
    assert ["raised", "user"] == list(dict.fromkeys(names))


def test_every_class_is_in_the_drawn_tree() -> None:
    for name in exceptions.__all__:
        assert name in (exceptions.__doc__ or ""), name
    with pytest.raises(exceptions.TimeoutError):
        raise exceptions.FunctionTimeoutError("late")
    assert not issubclass(exceptions.FunctionTimeoutError, TimeoutError)
    assert not issubclass(exceptions.InputCancellation, Exception)
