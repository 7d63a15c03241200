"""``%%gpu`` cells that call functions of the notebook, which run in containers of their own."""

from __future__ import annotations

import pytest
from notebook_kernel import Notebook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def functions(notebook: Notebook) -> None:
    notebook.ok("""
        import skylift
        app = skylift.App()

        @app.function()
        def square(number):
            print('squaring', number)
            return number * number

        @app.function()
        def sleep(seconds):
            import time
            print('sleeping')
            time.sleep(seconds)
        """)


def test_a_cell_calls_functions(notebook: Notebook) -> None:
    cell = notebook.ok("""
        %%gpu H100
        total = sum(square.map([1, 2, 3]))
        total
        """)
    assert ["14"] == cell.values
    assert {"squaring 1", "squaring 2", "squaring 3"} == set(cell.text().splitlines())
    assert ["14"] == notebook.ok("total").values


def test_a_function_that_a_cell_defines_is_called_there_and_here(notebook: Notebook) -> None:
    cell = notebook.ok("""
        %%gpu H100
        @app.function()
        def twice(number):
            return square.remote(number) * 2
        twice.remote(3)
        """)
    assert ["18"] == cell.values
    assert ["32"] == notebook.ok("twice.remote(4)").values


def test_an_interrupt_reaches_what_the_cell_waits_for(notebook: Notebook) -> None:
    cell = notebook.start("%%gpu H100\nsleep.remote(300)")
    cell.wait(lambda cell: "sleeping" in cell.text())
    notebook.interrupt()
    cell.wait()
    assert "KeyboardInterrupt" == cell.reply["ename"]
    assert ["9"] == notebook.ok("%%gpu H100\nsquare.remote(3)").values
    ended = notebook.ok("""
        from skylift.client import Client
        (call,) = Client.current().http.get("/v1/calls", function="sleep")["calls"]
        try:
            skylift.FunctionCall.from_id(call["call_id"]).get()
        except skylift.exceptions.RemoteError as error:
            print(error)
        """)
    assert "its caller no longer waits for it\n" == ended.text()
