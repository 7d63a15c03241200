from __future__ import annotations

from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter

from skylift.magics.completion import Completion
from skylift.magics.sessions import NotebookSessions


@pytest.fixture
def complete(shell: Any) -> Any:
    """What IPython offers at the end of a line (the kernel's ``complete_request`` asks the same)."""
    Completion(shell, NotebookSessions()).register()

    def run(text: str) -> list[str]:
        with provisionalcompleter():
            return [match.text for match in shell.Completer.completions(text, len(text))]

    return run


@pytest.mark.parametrize(
    ("line", "first"),
    [
        ("%%gpu ", "B200"),
        ("%%gpu H", "H200"),
        ("%%gpu h1", "H100"),
        ("%%gpu H100,A1", "A100-80GB"),
        ("%%gpu H100 --na", "--name"),
        ("%%gpu H100 ", "--cpu"),
        ("%%gpu H100 --timeout ", "5m"),
        ("%gpu ", "stop"),
        ("%gpu at", "attach"),
        ("%gpu sl", "sleep"),
        ("%gpu wa", "wake"),
        ("%%gpu H100 --idle-policy ", "sleep"),
        ("%%gpu H100 --idle-policy k", "keep"),
        ("%gpu attach fc-1 --from n", "now"),
        ("%skylift m", "machines"),
        ("%skylift spend f", "function"),
    ],
)
def test_what_fits_comes_first(complete: Any, line: str, first: str) -> None:
    assert first == complete(line)[0]


def test_a_gpu_that_is_there_already_is_not_offered_again(complete: Any) -> None:
    matches = complete("%%gpu H100,")
    assert "H100" not in matches
    assert "A100-80GB" in matches
    assert "cpu" not in matches


def test_a_given_option_is_not_offered_again_unless_it_repeats(complete: Any) -> None:
    matches = complete("%%gpu H100 --name a --env A=1 --")
    assert "--name" not in matches
    assert "--env" in matches


def test_variables_are_offered_for_put(complete: Any, shell: Any) -> None:
    shell.run_cell("weights = 1")
    assert ["weights"] == complete("%gpu put wei")


def test_other_lines_are_left_alone(complete: Any, shell: Any) -> None:
    shell.run_cell("some_long_name = 1")
    assert "some_long_name" in complete("some_lo")
