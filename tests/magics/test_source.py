from __future__ import annotations

import linecache
from typing import Any

import pytest

from skylift.magics.source import CellSource, read_source


@pytest.fixture
def source_of(shell: Any) -> Any:
    """Runs a cell whose ``%%gpu`` magic looks at its source."""
    seen: list[CellSource] = []

    def magic(line: str, cell: str) -> None:
        seen.append(read_source(shell, line, cell))

    shell.register_magic_function(magic, "cell", "gpu")

    def run(cell: str) -> CellSource:
        shell.run_cell(cell, store_history=True).raise_error()
        return seen[-1]

    return run


def test_the_line_of_the_magic_is_line_1(source_of: Any) -> None:
    source = source_of("%%gpu H100\nx = 1\ny = 2\n")
    assert (2, "x = 1\ny = 2\n") == (source.first_line, source.code)


def test_the_cells_lines_are_found_under_its_file_name(source_of: Any, shell: Any) -> None:
    source = source_of("%%gpu H100\nx = 1\n")
    assert "\n" == linecache.getline(source.filename, 1)
    assert "x = 1\n" == linecache.getline(source.filename, 2)
    assert ("Cell", f"In[{source.execution_count}]") == shell.compile.format_code_name(source.filename)


def test_blank_lines_and_other_magics_before_the_code_count(source_of: Any, shell: Any) -> None:
    assert 4 == source_of("%%gpu H100\n\n\nx = 1\n").first_line
    assert 3 == source_of("%%time\n%%gpu H100\nx = 1").first_line
    assert 3 == source_of("\n%%gpu H100\nx = 1").first_line


def test_a_cell_that_is_run_by_code_has_lines_too(shell: Any) -> None:
    source = read_source(shell, "H100", "x = 1\n")
    assert (2, "x = 1\n") == (source.first_line, linecache.getline(source.filename, 2))


def test_ipythons_syntax_and_await_are_no_errors(source_of: Any) -> None:
    source = source_of("%%gpu H100\nfiles = !ls\n%time x = 1\nawait f()\n")
    assert "get_ipython().getoutput('ls')" in source.python


@pytest.mark.parametrize(
    ("body", "line"),
    [("x = 1\ny = = 2\n", 3), ("\n\nx = (1,\n", 4), ("return 1\n", 2), ("def f(:\n", 2)],
)
def test_a_syntax_error_has_the_line_of_the_cell(shell: Any, body: str, line: int) -> None:
    with pytest.raises(SyntaxError) as caught:
        read_source(shell, "H100", body)
    assert line == caught.value.lineno
    assert f"Cell In[{shell.displayhook.prompt_count}], line {line}" in "\n".join(
        shell.SyntaxTB.structured_traceback(SyntaxError, caught.value, [])
    )
