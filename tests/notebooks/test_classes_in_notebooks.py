"""Classes that a notebook defines, in a real kernel."""

from __future__ import annotations

import pytest
from notebook_kernel import Notebook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLASS = """
    import skylift
    app = skylift.App()
    CHOICES = ("a", "b")

    @app.cls(max_containers=1)
    class Counter:
        start: int = skylift.parameter(default=0)

        @skylift.enter(snap=True)
        def load(self):
            print("loading")
            self.count = self.start

        @skylift.method()
        def add(self, number):
            self.count += number
            return self.count

        @skylift.method()
        def choose(self, name):
            return CHOICES.index(name)

        @skylift.method()
        def knows(self, name):
            return name in {"left", "right", "up", "down", "in", "out"}
    """
TEMPLATE = "(lambda code: (code.pickled(), code.template_code())[1])(Counter()._cls._definition({})._code)"


def test_state_lasts_while_the_cell_is_run_again(notebook: Notebook) -> None:
    notebook.ok(CLASS)
    cell = notebook.ok("Counter(start=5).add.remote(1)")
    assert (["6"], "loading\n") == (cell.values, cell.text())
    notebook.ok(CLASS)
    cell = notebook.ok("Counter(start=5).add.remote(1)")
    assert (["7"], "") == (cell.values, cell.text())
    notebook.ok('CHOICES = ("x", "y")')
    cell = notebook.ok("Counter(start=5).choose.remote('y')")
    assert (["1"], "loading\n") == (cell.values, cell.text())


def test_an_exception_shows_the_class_in_its_cell(notebook: Notebook) -> None:
    notebook.ok(CLASS)
    cell = notebook.run("Counter().choose.remote('z')")
    assert "ValueError" == cell.reply["ename"]
    assert "return CHOICES.index(name)" in cell.traceback
    assert "service.py" not in cell.traceback


def test_a_gpu_cell_calls_a_class_and_can_have_an_instance_of_its_own(notebook: Notebook) -> None:
    notebook.ok(CLASS)
    cell = notebook.ok("""
        %%gpu H100
        counter = Counter(start=10)
        counter.add.remote(1), counter.add.local(2)
        """)
    assert ["(11, 12)"] == cell.values


def test_a_template_is_for_the_next_kernel_too(notebook: Notebook) -> None:
    notebook.ok(CLASS)
    first = notebook.ok(TEMPLATE).values
    notebook.restart()
    notebook.ok(CLASS)
    assert first == notebook.ok(TEMPLATE).values
    assert len("'…'") < len(first[0])
