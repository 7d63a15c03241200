from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest

from skylift.exceptions import FunctionTimeoutError, InvalidError
from skylift.magics.errors import raise_ours, raise_the_cells
from skylift.remote_errors import rebuild


@pytest.fixture
def shown(shell: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """What IPython prints for a cell whose magic raises an error, and the error that it raised."""

    def run(error: BaseException, raise_it: Any = raise_ours) -> tuple[str, BaseException | None]:
        shell.register_magic_function(lambda line, cell: raise_it(shell, error), "cell", "gpu")
        result = shell.run_cell("%%gpu H100\nx = 1\ny = 1 / 0\n", store_history=True)
        captured = capsys.readouterr()
        return captured.out + captured.err, result.error_in_exec

    return run


def remote(error: BaseException) -> BaseException:
    """The error as it comes out of a container."""
    frame = {
        "file": "<cell>",
        "line": 3,
        "function": "<module>",
        "context": ["x = 1", "y = 1 / 0"],
        "context_start": 2,
    }
    name = type(error).__name__
    meta = {"type": name, "module": "builtins", "qualname": name, "message": str(error), "frames": [frame]}
    return rebuild(meta, pickle.dumps(error))


def test_an_error_of_ours_is_its_type_and_message(shown: Any) -> None:
    error = InvalidError("%%gpu: unknown option --nam")
    text, raised = shown(error)
    assert "InvalidError: %%gpu: unknown option --nam\n" == text
    assert error is raised


def test_an_error_of_the_cell_is_shown_with_its_own_frames_only(shown: Any) -> None:
    text, raised = shown(remote(ZeroDivisionError("m")), raise_the_cells)
    assert "ZeroDivisionError" in text
    assert "y = 1 / 0" in text
    assert "_raise_showing" not in text
    assert "run_cell_magic" not in text
    assert isinstance(raised, ZeroDivisionError)


def test_a_remote_keyboard_interrupt_is_one(shown: Any) -> None:
    text, raised = shown(remote(KeyboardInterrupt()), raise_the_cells)
    assert isinstance(raised, KeyboardInterrupt)
    assert "_raise_showing" not in text


def test_a_remote_error_without_frames_is_its_message(shown: Any) -> None:
    error = FunctionTimeoutError("the cell took longer than its --timeout of 5 s")
    text, _ = shown(error, raise_the_cells)
    assert "FunctionTimeoutError: the cell took longer than its --timeout of 5 s\n" == text


def test_a_syntax_error_is_shown_as_ipython_shows_its_own(shown: Any, shell: Any) -> None:
    filename = shell.compile.cache("%%gpu H100\ny = = 2\n", 7)
    try:
        compile("\ny = = 2\n", filename, "exec")
    except SyntaxError as error:
        text, raised = shown(error)
    assert "Cell In[7], line 2" in text
    assert "y = = 2" in text
    assert "run_cell_magic" not in text
    assert isinstance(raised, SyntaxError)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_an_exception_group_is_shown_without_our_frames(shown: Any) -> None:
    group = ExceptionGroup("both", [ValueError("a"), KeyError("b")])  # noqa: F821
    text, raised = shown(remote(group), raise_the_cells)
    assert "both" in text
    assert "ValueError: a" in text
    assert "_raise_showing" not in text
    assert isinstance(raised, ExceptionGroup)  # noqa: F821


def test_ipython_shows_later_errors_as_before(
    shown: Any, shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shell.custom_exceptions
    shown(SyntaxError("no"))
    assert before == shell.custom_exceptions
    shell.run_cell("1 / 0")
    assert "Cell In" in capsys.readouterr().out
