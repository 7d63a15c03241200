"""`error` events: what people are told of an exception, and the exception itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from fake_host import RUNNER, FakeHost


def test_the_fields(host: FakeHost) -> None:
    def outer() -> None:
        def inner() -> None:
            raise LookupError("no such thing")

        inner()

    call = host.call(outer)
    error = call.error
    first, last = error["frames"]
    line = outer.__code__.co_firstlineno

    assert (error["type"], error["module"], error["qualname"]) == ("LookupError", "builtins", "LookupError")
    assert error["message"] == "no such thing"
    assert (error["cause"], error["context"], error["suppress_context"]) == (None, None, False)
    assert (error["notes"], error["skylift"], error["unpicklable"]) == ([], "", "")
    assert (first["file"], first["line"], first["function"]) == (__file__, line + 4, "outer")
    assert first["source"] == "inner()"
    assert (last["line"], last["function"]) == (line + 2, "inner")
    assert last["source"] == 'raise LookupError("no such thing")'
    assert last["context_start"] == line
    assert last["context"][2].strip() == last["source"]
    assert call.end is not None
    assert call.end["summary"] == "LookupError: no such thing"
    assert type(call.exception) is LookupError
    assert error["text"].startswith("Traceback (most recent call last):\n")
    assert error["text"].endswith("\nLookupError: no such thing\n")
    assert str(RUNNER) not in error["text"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="columns came with Python 3.11")
def test_columns(host: FakeHost) -> None:
    def fail() -> Any:
        é = {"ä": 1}
        return é["ä"] + é["ü"]

    frame = host.call(fail).error["frames"][-1]
    line = Path(__file__).read_text(encoding="utf-8").splitlines()[frame["line"] - 1]
    assert line[frame["column"] : frame["end_column"]] == 'é["ü"]'
    assert frame["end_line"] == frame["line"]


def test_causes_contexts_and_notes(host: FakeHost) -> None:
    def fail() -> None:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise ValueError("second")  # noqa: B904
        except ValueError as error:
            final = RuntimeError("third")
            final.__dict__["__notes__"] = ["mind the gap"]
            raise final from error

    call = host.call(fail)
    error = call.error
    assert error["cause"]["message"] == "second"
    assert error["cause"]["context"]["type"] == "KeyError"
    assert error["cause"]["context"]["frames"][0]["function"] == "fail"
    assert error["suppress_context"] is True
    assert error["notes"] == ["mind the gap"]

    exception = call.exception
    assert isinstance(exception.__cause__, ValueError)
    assert isinstance(exception.__cause__.__context__, KeyError)
    assert exception.__suppress_context__ is True
    assert exception.__notes__ == ["mind the gap"]  # type: ignore[attr-defined]


def test_raise_from_none(host: FakeHost) -> None:
    def fail() -> None:
        try:
            raise KeyError("hidden")
        except KeyError:
            raise ValueError("shown") from None

    call = host.call(fail)
    assert (call.error["cause"], call.error["suppress_context"]) == (None, True)
    assert call.exception.__suppress_context__ is True
    assert "hidden" not in call.error["text"]


def test_exceptions_that_are_each_others_context(host: FakeHost) -> None:
    def fail() -> None:
        first, second = ValueError("a"), ValueError("b")
        first.__cause__, second.__cause__ = second, first
        raise first

    call = host.call(fail)
    assert call.state == "failed"
    assert call.error["cause"]["message"] == "b"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_exception_groups(host: FakeHost) -> None:
    def fail() -> None:
        raise ExceptionGroup("both", [ValueError("a"), TypeError("b")])  # noqa: F821

    call = host.call(fail)
    assert [one["type"] for one in call.error["exceptions"]] == ["ValueError", "TypeError"]
    assert len(call.exception.exceptions) == 2  # type: ignore[attr-defined]


def test_a_class_of_the_notebook(host: FakeHost) -> None:
    class OwnError(Exception):
        def __init__(self, code: int) -> None:
            super().__init__(code)
            self.code = code

    def fail() -> None:
        raise OwnError(7)

    call = host.call(fail)
    assert isinstance(call.exception, OwnError)
    assert call.exception.code == 7
    assert call.error["qualname"].endswith("OwnError")


def test_an_exception_that_does_not_unpickle(host: FakeHost) -> None:
    class TwoArguments(Exception):  # noqa: N818
        def __init__(self, a: int, b: int) -> None:
            super().__init__("only one kept")

    def fail() -> None:
        raise TwoArguments(1, 2)

    call = host.call(fail)
    (event,) = call.of("error")
    assert event.data == b""
    assert call.error["message"] == "only one kept"
    assert call.error["unpicklable"].startswith("its pickle cannot be unpickled: TypeError: ")
    assert "missing 1 required positional argument: 'b'" in call.error["unpicklable"]


def test_an_exception_that_does_not_pickle(host: FakeHost) -> None:
    def fail() -> None:
        import threading

        raise ValueError(threading.Lock())

    call = host.call(fail)
    assert call.of("error")[0].data == b""
    assert call.error["unpicklable"] == "it cannot be pickled: TypeError: cannot pickle '_thread.lock' object"


def test_a_cause_that_does_not_pickle_stays_behind(host: FakeHost) -> None:
    def fail() -> None:
        import threading

        raise ValueError("here") from OSError(threading.Lock())

    call = host.call(fail)
    assert (type(call.exception), call.exception.__cause__) == (ValueError, None)
    assert call.error["cause"]["type"] == "OSError"


def test_an_exception_whose_text_cannot_be_made(host: FakeHost) -> None:
    class Broken(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise RuntimeError

    def fail() -> None:
        raise Broken

    call = host.call(fail)
    assert call.error["message"] == "<its text cannot be made: RuntimeError>"


def test_a_syntax_error(host: FakeHost) -> None:
    def fail() -> None:
        compile("x = = 1", "thing.py", "exec")

    syntax = host.call(fail).error["syntax"]
    assert (syntax["file"], syntax["line"], syntax["offset"]) == ("thing.py", 1, 5)
    assert (syntax["message"], syntax["text"].strip()) == ("invalid syntax", "x = = 1")


def test_a_deep_recursion_is_shortened(host: FakeHost) -> None:
    def fail() -> None:
        def deeper(n: int) -> None:
            deeper(n + 1)

        deeper(0)

    error = host.call(fail).error
    assert error["type"] == "RecursionError"
    assert len(error["frames"]) == 100
    assert error["frames"][30]["omitted"] > 500
    assert "Previous line repeated" in error["text"]


def test_a_coroutines_frames_begin_with_the_users(host: FakeHost) -> None:
    async def outer() -> None:
        import asyncio

        async def inner() -> None:
            await asyncio.sleep(0)
            raise ValueError("deep")

        await asyncio.gather(inner())

    frames = [frame["function"] for frame in host.call(outer).error["frames"]]
    assert frames == ["outer", "inner"]


def test_out_of_memory_in_python_is_an_error_like_others(host: FakeHost) -> None:
    def fail() -> Any:
        return bytearray(1 << 60)

    assert host.call(fail).error["type"] == "MemoryError"


def test_the_exception_does_not_keep_its_frames_alive(host: FakeHost) -> None:
    def fail() -> None:
        import sys
        import weakref

        class Large:
            pass

        large = Large()
        sys.test_weak = weakref.ref(large)  # type: ignore[attr-defined]
        raise ValueError

    def look() -> bool:
        import sys

        return sys.test_weak() is None  # type: ignore[attr-defined,no-any-return]

    host.call(fail)
    assert host.call(look).result is True
