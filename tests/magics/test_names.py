from __future__ import annotations

import ast
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager

from skylift.magics.names import CellNames, cell_names

BUILTINS = set(dir(__builtins__) if not isinstance(__builtins__, dict) else __builtins__)


def names_of(code: str) -> CellNames:
    transform = TransformerManager().transform_cell
    return cell_names(transform(textwrap.dedent(code)), transform)


def reads(code: str) -> set[str]:
    return set(names_of(code).reads) - BUILTINS


def maybe_reads(code: str) -> set[str]:
    return set(names_of(code).maybe_reads) - BUILTINS


def assigned(code: str) -> list[str]:
    return list(names_of(code).assigned)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = 1\nprint(x, y)", {"y"}),
        ("x += 1", {"x"}),
        ("x: int = y", {"y"}),
        ("for i in items:\n    total += i", {"items", "total"}),
        ("with open(path) as f, lock as (a, b):\n    f.read(a)", {"path", "lock"}),
        ("[i * scale for i in xs if i > low]", {"xs", "scale", "low"}),
        ("{k: v for k, v in pairs}", {"pairs"}),
        ("sum(i for row in rows for i in row)", {"rows"}),
        ("f = lambda a, b=default: a + offset", {"default", "offset"}),
        ("if (n := len(v)) > 3:\n    print(n)", {"v"}),
        ("x = a if flag else b", {"a", "flag", "b"}),
        ("df['new'] = df['old'] * 2", {"df"}),
        ("model.bias.data[0] = 3", {"model"}),
        ("del old", {"old"}),
        ("await fetch(url)", {"fetch", "url"}),
        ("import numpy as np\nnp.zeros(n)", {"n"}),
        ("try:\n    pass\nexcept MyError as e:\n    print(e)", {"MyError"}),
        (
            "match m:\n    case {'a': a, **rest}:\n        print(a, rest)\n    case Point(x=x):\n        x",
            {"m", "Point"},
        ),
        ("f'{value:{width}}'", {"value", "width"}),
    ],
)
def test_reads_what_the_cell_does_not_assign_first(code: str, expected: set[str]) -> None:
    assert expected == reads(code)


def test_a_function_reads_its_globals_and_not_its_locals() -> None:
    code = """
        def train(steps, rate=base_rate):
            total = 0
            for step in range(steps):
                total += loss(model, step)
            def inner():
                return total + extra
            return inner
        """
    assert {"base_rate", "loss", "model", "extra"} == reads(code)
    assert ["train"] == assigned(code)


def test_what_a_function_reads_and_the_cell_assigns_is_sent_only_where_possible() -> None:
    code = "def f():\n    return data\ndata = 3\nf()"
    assert set() == reads(code)
    assert {"data"} == maybe_reads(code)


def test_a_name_assigned_before_the_function_is_not_read() -> None:
    code = "data = 3\ndef f():\n    return data"
    assert (set(), set()) == (reads(code), maybe_reads(code))


def test_a_global_statement_assigns_the_notebooks_name() -> None:
    code = "def f():\n    global counter\n    counter += 1"
    assert {"counter", "f"} == set(assigned(code))


def test_a_recursive_function_does_not_read_itself_from_the_notebook() -> None:
    assert set() == reads("def fact(n):\n    return 1 if n < 2 else n * fact(n - 1)")


def test_a_class_body_sees_its_own_names_and_its_methods_do_not() -> None:
    code = """
        class Net(Base):
            width = 3
            depth = width + extra
            def forward(self):
                return width
        """
    assert {"Base", "extra", "width"} == reads(code)
    assert ["Net"] == assigned(code)


def test_a_name_assigned_on_one_path_only_may_be_read() -> None:
    code = "if flag:\n    x = 1\nprint(x)"
    assert {"flag"} == reads(code)
    assert {"x"} == maybe_reads(code)
    assert (set(), {"flag"}) == (maybe_reads(code.replace("print", "else:\n    x = 2\nprint")), reads(code))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a = b = 1", ["a", "b"]),
        ("a, (b, *c) = value", ["a", "b", "c"]),
        ("for i, (j, k) in pairs:\n    pass", ["i", "j", "k"]),
        ("import os.path, numpy as np\nfrom a.b import c as d, e", ["os", "np", "d", "e"]),
        ("def f(): pass\nasync def g(): pass\nclass C: pass", ["f", "g", "C"]),
        ("[y for x in xs if (y := x)]", ["y"]),
        ("with a as b:\n    c = 1", ["b", "c"]),
        ("try:\n    r = 1\nexcept ValueError as error:\n    failed = True", ["r", "failed"]),
        ("df['x'] = 1\nmodel.rate = 2\ndel cache['k']", ["df", "model", "cache"]),
        ("x += 1", ["x"]),
        ("del gone", ["gone"]),
        ("match m:\n    case [first, *others]:\n        pass", ["first", "others"]),
        ("x: int", []),
        ("print(x)", []),
    ],
)
def test_assigns(code: str, expected: list[str]) -> None:
    assert expected == assigned(code)


def test_only_a_del_of_the_name_itself_deletes() -> None:
    assert {"old"} == set(names_of("del old, cache['k']").deleted)


def test_a_method_called_for_its_effect_may_change_its_object() -> None:
    assert {"losses", "history"} == set(
        names_of("losses.append(1)\nhistory['a'].add(2)\nn = text.upper()").mutated
    )


def test_shell_lines_read_the_variables_that_ipython_expands() -> None:
    code = "files = !ls {folder} $pattern\n!echo {len(items)}"
    assert {"folder", "pattern", "items", "get_ipython"} == reads(code) | {"get_ipython"}
    assert ["files"] == assigned(code)


def test_magics_over_code_are_read_as_code() -> None:
    assert {"run", "data"} == reads("%time out = run(data)") - {"get_ipython"}
    assert ["out"] == assigned("%time out = run(data)")
    assert {"f", "x"} == reads("%timeit -n 3 -r 2 f(x)") - {"get_ipython"}
    assert ["y"] == assigned("%%time\ny = x + 1")
    assert ["captured", "y"] == assigned("%%capture captured\ny = 1")


def test_other_magics_read_nothing() -> None:
    assert set() == reads("%matplotlib inline") - {"get_ipython"}


def test_a_syntax_error_is_one() -> None:
    with pytest.raises(SyntaxError):
        cell_names("x = = 1")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="except* came with 3.11")
def test_exception_groups() -> None:
    assert {"work", "MyError"} == reads("try:\n    work()\nexcept* MyError as e:\n    print(e)")


IDENTIFIERS = st.sampled_from(["a", "b", "c", "d"])
EXPRESSIONS = st.recursive(
    IDENTIFIERS | st.sampled_from(["1", "(d() if callable(d) else 0)"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} + {pair[1]})"),
        inner.map(lambda body: f"[{body} for a in range(2)]"),
        inner.map(lambda body: f"(lambda b: {body})(0)"),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
    ),
    max_leaves=6,
)
STATEMENTS = st.recursive(
    st.tuples(IDENTIFIERS, EXPRESSIONS).map(lambda pair: f"{pair[0]} = {pair[1]}") | EXPRESSIONS,
    lambda inner: st.one_of(
        st.tuples(EXPRESSIONS, inner).map(lambda t: f"if {t[0]}:\n" + textwrap.indent(t[1], "  ")),
        st.tuples(IDENTIFIERS, inner).map(lambda t: f"for {t[0]} in [1]:\n" + textwrap.indent(t[1], "  ")),
        st.tuples(inner, inner).map("\n".join),
        inner.map(lambda body: "def d():\n" + textwrap.indent(body, "  ")),
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(STATEMENTS)
def test_running_a_cell_with_what_it_reads_never_lacks_a_name_of_the_notebook(code: str) -> None:
    """The law behind sending: with the names that count as read, the cell meets no name that is missing and
    that the notebook would have had."""
    names = cell_names(ast.unparse(ast.parse(code)))
    notebook = dict.fromkeys("abcd", 1)
    sent = {name: 1 for name in notebook if name in names.reads | names.maybe_reads}

    def outcome(namespace: dict[str, object]) -> tuple[str, str]:
        try:
            exec(compile(code, "<cell>", "exec"), namespace)
        except RecursionError:
            return "RecursionError", ""
        except Exception as error:
            return type(error).__name__, str(error)
        return "", ""

    assert outcome(dict(notebook)) == outcome(dict(sent))


@settings(deadline=None)
@given(STATEMENTS)
def test_every_name_that_a_cell_binds_counts_as_assigned(code: str) -> None:
    names = cell_names(code)
    namespace: dict[str, object] = dict.fromkeys("abcd", 1)
    before = dict(namespace)
    try:
        exec(compile(code, "<cell>", "exec"), namespace)
    except Exception:
        return
    changed = {
        name for name in namespace if name != "__builtins__" and namespace[name] is not before.get(name)
    }
    assert changed <= set(names.assigned)
