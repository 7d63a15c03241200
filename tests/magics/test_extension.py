from __future__ import annotations

from typing import Any

import pytest

from skylift.magics.help import gpu_cell_help, gpu_line_help, skylift_help
from skylift.magics.options import NOT_BUILT_YET, OPTIONS


@pytest.fixture
def loaded(shell: Any) -> Any:
    shell.run_line_magic("load_ext", "skylift.magics")
    return shell


def test_loading_registers_the_magics(loaded: Any) -> None:
    assert {"gpu"} <= set(loaded.magics_manager.magics["cell"])
    assert {"gpu", "skylift"} <= set(loaded.magics_manager.magics["line"])


def test_unloading_takes_them_back(loaded: Any) -> None:
    matchers = len(loaded.Completer.custom_matchers)
    loaded.run_line_magic("unload_ext", "skylift.magics")
    assert "gpu" not in loaded.magics_manager.magics["cell"]
    assert matchers - 1 == len(loaded.Completer.custom_matchers)


def test_loading_again_changes_nothing(loaded: Any) -> None:
    loaded.run_line_magic("reload_ext", "skylift.magics")
    loaded.run_line_magic("load_ext", "skylift.magics")
    matchers = loaded.Completer.custom_matchers
    assert 1 == sum(getattr(matcher, "matcher_identifier", "") == "skylift" for matcher in matchers)


def test_the_docstrings_are_the_reference(loaded: Any) -> None:
    assert gpu_cell_help() == loaded.magics_manager.magics["cell"]["gpu"].__doc__
    assert gpu_line_help() == loaded.magics_manager.magics["line"]["gpu"].__doc__
    assert skylift_help() == loaded.magics_manager.magics["line"]["skylift"].__doc__


def test_the_reference_has_every_option() -> None:
    text = gpu_cell_help()
    assert [] == [option.name for option in OPTIONS if option.name not in text]
    assert [] == [option for option in NOT_BUILT_YET if option not in text]
    assert max(map(len, text.splitlines())) <= 110


def test_ipython_shows_the_reference(loaded: Any, capsys: pytest.CaptureFixture[str]) -> None:
    loaded.set_hook("show_in_pager", lambda shell, data, **rest: print(data["text/plain"]), 1)
    loaded.run_cell("%%gpu?")
    assert "Run the cell in a container with a GPU." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("%%gpu H1000\nx", "InvalidError: gpu='H1000': unknown GPU 'H1000'; did you mean H100"),
        (
            "%%gpu H100 --volume a:b\nx",
            "InvalidError: %%gpu: --volume 'a:b': it takes a path in the container",
        ),
        ("%%gpu\nx", "InvalidError: %%gpu: which GPU?"),
        ("%gpu H100", "InvalidError: %gpu H100: to run a cell on it, write two percent signs: %%gpu H100"),
        ("%gpu stpo", "InvalidError: %gpu stpo: no such command; did you mean stop"),
        ("%gpu sleep", "InvalidError: This notebook has no session yet. A %%gpu cell starts one"),
        ("%gpu wake a b", "InvalidError: %gpu wake takes the name of one session, and there is 'b' too"),
        ("%gpu wkae", "InvalidError: %gpu wkae: no such command; did you mean wake"),
        (
            "%%gpu H100 --idle-policy sleeep\nx",
            "InvalidError: %%gpu: --idle-policy 'sleeep': it takes one of sleep, sleep-or-stop, stop, keep",
        ),
        ("%gpu stop a b", "InvalidError: %gpu stop takes the name of one session, and there is 'b' too"),
        ("%gpu put", "InvalidError: %gpu put takes the names of variables, as in %gpu put x"),
        ("%gpu attach", "InvalidError: %gpu attach takes the id of one run"),
        ("%gpu attach x", "InvalidError: %gpu attach x: ids of runs look like fc-01jd3k…"),
        ("%gpu attach x --from here", "InvalidError: %gpu attach: --from is followed by start or now"),
        ("%skylift machine", "InvalidError: %skylift machine: no such command; did you mean machines"),
        ("%skylift runs all", "InvalidError: %skylift runs takes nothing more, and there is 'all'"),
        ("%skylift spend gpus", "InvalidError: %skylift spend gpus: did you mean gpu?"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    loaded: Any, capsys: pytest.CaptureFixture[str], cell: str, expected: str
) -> None:
    result = loaded.run_cell(cell, store_history=True)
    text = capsys.readouterr().out
    assert text.startswith(expected)
    assert 1 == text.count("\n")
    assert "InvalidError" == type(result.error_in_exec).__name__


def test_a_syntax_error_is_found_before_anything_is_sent(
    loaded: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded.run_cell("%%gpu H100\nx = 1\ny = = 2\n", store_history=True)
    text = capsys.readouterr().out
    assert "Cell In[1], line 3\n    y = = 2\n" in text
    assert "SyntaxError: invalid syntax" in text
