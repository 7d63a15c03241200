"""Cells: what a person would see if they ran in a notebook's own kernel."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
from fake_host import Call, FakeHost


def names(call: Call) -> dict[str, Any]:
    (event,) = call.of("names")
    entries: dict[str, Any] = event.meta["names"]
    values: dict[str, Any] = {}
    position = 0
    for name, entry in entries.items():
        if "length" in entry:
            values[name] = pickle.loads(event.data[position : position + entry["length"]])
            position += entry["length"]
        else:
            values[name] = entry
    assert position == len(event.data)
    return values


def test_output_and_the_value_of_the_last_line(host: FakeHost) -> None:
    call = host.cell("x = 20\nprint('hello')\nx + 1", execution_count=7)

    assert call.state == "done"
    assert [event.kind for event in call.events] == ["output", "value"]
    assert call.text() == "hello\n"
    (value,) = call.of("value")
    assert value.meta == {"execution_count": 7}
    assert json.loads(value.data) == {"data": {"text/plain": "21"}, "metadata": {}}


def test_a_semicolon_hides_the_value(host: FakeHost) -> None:
    assert host.cell("1 + 1;").events == []


def test_variables_live_on(host: FakeHost) -> None:
    host.cell("kept = [1, 2]")
    assert host.cell("kept.append(3); kept").shown() == [{"text/plain": "[1, 2, 3]"}]
    assert host.cell("_").shown() == [{"text/plain": "[1, 2, 3]"}]


def test_silent_shows_no_value(host: FakeHost) -> None:
    call = host.cell("print('said')\n1 + 1", silent=True)
    assert [event.kind for event in call.events] == ["output"]


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("import asyncio\nawait asyncio.sleep(0, 'slept')", "'slept'"),
        ("asyncio.run(asyncio.sleep(0, 'ran'))", "'ran'"),
        ("async with asyncio.Lock():\n    inside = 1\ninside", "1"),
    ],
)
def test_top_level_await(host: FakeHost, code: str, shown: str) -> None:
    host.cell("import asyncio")
    assert host.cell(code).shown() == [{"text/plain": shown}]


def test_commands_stream_their_output(host: FakeHost) -> None:
    call = host.start_cell("!echo first; sleep 0.1; echo second >&2; sleep 600\nprint('after')")
    call.wait_output("second")
    assert call.text() == "first\nsecond\n"
    call.cancel("interrupt")
    assert call.wait().state == "cancelled"
    assert "after" not in call.text()


def test_a_command_that_ignores_an_interrupt_is_killed(host: FakeHost) -> None:
    call = host.start_cell("!trap '' INT; echo $$; while true; do sleep 0.1; done")
    call.wait_output("\n")
    call.cancel("interrupt")
    assert call.wait().state == "cancelled"
    assert not Path(f"/proc/{int(call.text())}").exists()


def test_a_command_sees_names_and_a_terminal(host: FakeHost) -> None:
    call = host.cell("word = 'ä'\n!echo {word} $word; test -t 1 && echo terminal; exit 3\n_exit_code")
    assert call.text() == "ä ä\nterminal\n"
    assert call.shown() == [{"text/plain": "3"}]


def test_a_command_leaves_its_background_behind(host: FakeHost) -> None:
    call = host.cell("!sleep 600 & echo started $!")
    assert call.state == "done"
    assert call.text().startswith("started ")
    os.kill(int(call.text().split()[1]), signal.SIGKILL)
    message = host.cell("!sleep 600 &").error["message"]
    assert message == "a command in the background would outlive its cell: start it with subprocess.Popen"


def test_a_commands_output_as_a_value(host: FakeHost) -> None:
    assert host.cell("lines = !echo a; echo b\nlines").shown() == [{"text/plain": "['a', 'b']"}]


def test_magics(host: FakeHost) -> None:
    assert "Wall time" in host.cell("%time x = sum(range(10))").text()
    assert "Wall time" in host.cell("%%time\nx = sum(range(10))").text()
    assert "per loop" in host.cell("%timeit -n 10 -r 1 pass").text()
    assert host.cell("%%bash\necho from bash").text() == "from bash\n"
    call = host.cell("%%capture caught\nprint('quiet')")
    assert call.events == []
    assert host.cell("caught.stdout").shown() == [{"text/plain": "'quiet\\n'"}]


def test_display_update_and_clear(host: FakeHost) -> None:
    call = host.cell(
        "from IPython.display import HTML, clear_output, display\n"
        "handle = display(HTML('<b>x</b>'), display_id='id-1')\n"
        "handle.update(HTML('<b>y</b>'))\n"
        "clear_output(wait=True)\n"
        "display('z')"
    )
    assert [(event.kind, event.meta) for event in call.events] == [
        ("display", {"display_id": "id-1"}),
        ("display", {"display_id": "id-1", "update": True}),
        ("clear", {"wait": True}),
        ("display", {}),
    ]
    assert call.shown("display")[1]["text/html"] == "<b>y</b>"


def test_a_plot_is_shown_without_being_asked(host: FakeHost) -> None:
    call = host.cell(
        "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\naxes.plot([1, 2])\nNone"
    )
    (event,) = call.of("display")
    bundle = json.loads(event.data)["data"]
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert host.cell("x = 1").events == []


def test_a_plot_of_a_failing_cell_is_shown(host: FakeHost) -> None:
    call = host.cell("import matplotlib.pyplot as plt\nplt.plot([1, 2])\n1 / 0")
    assert [event.kind for event in call.events] == ["error", "display"]


@pytest.mark.parametrize("module", ["tqdm", "tqdm.auto", "tqdm.notebook"])
def test_progress_bars_are_text(host: FakeHost, module: str) -> None:
    call = host.cell(f"from {module} import tqdm\nfor _ in tqdm(range(3)):\n    pass")
    assert "100%|" in call.text("stderr")
    assert call.state == "done"


def test_pandas_like_representations(host: FakeHost) -> None:
    host.cell("class Table:\n    def _repr_html_(self):\n        return '<table></table>'")
    assert host.cell("Table()").shown()[0]["text/html"] == "<table></table>"


def test_help_comes_as_text(host: FakeHost) -> None:
    assert "Return the number of items" in host.cell("len?").shown("display")[0]["text/plain"]


@pytest.mark.parametrize("code", ["input('name')", "import getpass\ngetpass.getpass()"])
def test_there_is_no_keyboard(host: FakeHost, code: str) -> None:
    error = host.cell(code).error
    assert error["type"] == "StdinNotImplementedError"
    assert error["message"].startswith("there is no keyboard in a container")


def test_exit_ends_nothing(host: FakeHost) -> None:
    assert host.cell("exit").text("stderr") == "exit does nothing in a session; %gpu stop ends it\n"


# --- generators ----------------------------------------------------------------------------------


def test_a_generators_items_are_shown_one_by_one(host: FakeHost) -> None:
    call = host.start_cell(
        "import threading\n"
        "def slow():\n    yield 1\n    yield None\n    yield 2\n    threading.Event().wait()\n"
        "slow()"
    )
    call.wait_events(2)
    assert call.shown() == [{"text/plain": "1"}, {"text/plain": "2"}]
    call.cancel("interrupt")
    assert call.wait().state == "cancelled"


@pytest.mark.parametrize("before", ["", "await asyncio.sleep(0)\n"])
def test_an_async_generators_items_are_shown(host: FakeHost, before: str) -> None:
    call = host.cell(
        "import asyncio\n"
        "async def slow():\n    for n in range(3):\n        await asyncio.sleep(0)\n        yield n\n"
        f"{before}slow()"
    )
    assert call.shown() == [{"text/plain": str(n)} for n in range(3)]


def test_a_failing_async_generator(host: FakeHost) -> None:
    call = host.cell("async def fail():\n    yield 1\n    raise ValueError('no second')\nfail()")
    assert [event.kind for event in call.events] == ["value", "error"]
    assert (call.state, call.error["message"]) == ("failed", "no second")


# --- errors --------------------------------------------------------------------------------------


def test_a_traceback_has_the_notebooks_lines(host: FakeHost) -> None:
    call = host.cell("def fail():\n    return 1 / 0\n\nfail()", filename="/tmp/kernel/1.py", first_line=3)
    error = call.error
    assert [(frame["file"], frame["line"], frame["function"]) for frame in error["frames"]] == [
        ("/tmp/kernel/1.py", 6, "<module>"),
        ("/tmp/kernel/1.py", 4, "fail"),
    ]
    assert [frame["source"] for frame in error["frames"]] == ["fail()", "return 1 / 0"]
    assert error["frames"][1]["context"] == ["", "", "def fail():", "    return 1 / 0", "", "fail()"][1:]
    assert call.state == "failed"
    assert type(call.exception) is ZeroDivisionError


def test_a_function_of_an_earlier_cell_keeps_its_lines(host: FakeHost) -> None:
    host.cell("def fail():\n    raise ValueError('x')", filename="/tmp/kernel/2.py", first_line=2)
    error = host.cell("fail()", filename="/tmp/kernel/3.py", first_line=2).error
    assert [(frame["file"], frame["line"], frame["source"]) for frame in error["frames"]] == [
        ("/tmp/kernel/3.py", 2, "fail()"),
        ("/tmp/kernel/2.py", 3, "raise ValueError('x')"),
    ]


def test_a_line_with_a_magic_is_shown_as_it_was_written(host: FakeHost) -> None:
    error = host.cell("x = 1\n%run /no/such/file.py\n1 / 0").error
    assert error["frames"][0]["source"] != "get_ipython().run_line_magic('run', '/no/such/file.py')"


def test_a_syntax_error(host: FakeHost) -> None:
    error = host.cell("x = 1\ny = = 2", filename="/tmp/kernel/4.py", first_line=2).error
    assert (error["type"], error["frames"]) == ("SyntaxError", [])
    assert (error["syntax"]["file"], error["syntax"]["line"]) == ("/tmp/kernel/4.py", 3)
    assert error["syntax"]["text"].strip() == "y = = 2"


def test_an_unknown_magic(host: FakeHost) -> None:
    error = host.cell("%nosuchmagic").error
    assert (error["type"], error["frames"]) == ("UsageError", [])
    assert error["message"] == "Line magic function `%nosuchmagic` not found."


def test_output_before_an_error_comes_before_it(host: FakeHost) -> None:
    call = host.cell("print('before')\n1 / 0")
    assert [event.kind for event in call.events] == ["output", "error"]


def test_an_interrupt_leaves_the_session_as_it_was(host: FakeHost) -> None:
    host.cell("kept = 1")
    for code in ("import time\nprint('begun')\ntime.sleep(600)", "print('begun')\nawait asyncio.sleep(600)"):
        host.cell("import asyncio")
        call = host.start_cell(code, filename="/tmp/kernel/5.py")
        call.wait_output("begun")
        call.cancel("interrupt")
        assert call.wait().state == "cancelled"
        assert call.error["type"] == "KeyboardInterrupt"
        assert call.error["frames"][0]["file"] == "/tmp/kernel/5.py"
        assert len(call.of("error")) == 1
    assert host.cell("kept").shown() == [{"text/plain": "1"}]


def test_an_interrupt_that_the_cell_catches(host: FakeHost) -> None:
    call = host.start_cell(
        "import time\n"
        "try:\n    print('begun')\n    time.sleep(600)\n"
        "except KeyboardInterrupt:\n    print('caught')"
    )
    call.wait_output("begun")
    call.cancel("interrupt")
    assert call.wait().state == "done"
    assert call.text() == "begun\ncaught\n"


@pytest.mark.parametrize(("mode", "state"), [("cancel", "cancelled"), ("timeout", "timeout")])
def test_a_cell_that_is_ended(host: FakeHost, mode: str, state: str) -> None:
    call = host.start_cell("import time\nx = 5\nprint('begun')\ntime.sleep(600)", assigned=["x"])
    call.wait_output("begun")
    call.cancel(mode, "enough")
    assert call.wait().state == state
    assert call.error["message"] == "enough"
    assert names(call) == {"x": 5}


def test_a_cancel_before_the_cell(host: FakeHost) -> None:
    first = host.start_cell("import time\nprint('begun')\ntime.sleep(600)")
    first.wait_output("begun")
    second = host.start_cell("print('ran')")
    second.cancel("interrupt")
    first.cancel("interrupt")
    assert second.wait().state == "cancelled"
    assert second.text() == ""


# --- names ---------------------------------------------------------------------------------------


def test_names_are_sent_and_returned(host: FakeHost) -> None:
    call = host.cell("y = x * 2", send={"x": 21}, assigned=["y", "nowhere"])
    assert names(call) == {"y": 42, "nowhere": {"gone": True}}


def test_names_come_back_from_a_failing_cell(host: FakeHost) -> None:
    call = host.cell("z = 1\n1 / 0\nz = 2", assigned=["z"])
    assert names(call) == {"z": 1}
    assert call.state == "failed"


def test_a_variable_that_does_not_unpickle(host: FakeHost) -> None:
    call = host.cell("print('ran')", send={"good": 1, "bad": b"cnot_installed_here\nThing\n."})
    assert (call.state, call.error["skylift"]) == ("failed", "DeserializationError")
    assert call.error["message"].startswith(
        "the variable bad cannot be unpickled in the container: there is no"
    )
    assert call.text() == ""
    assert host.cell("'good' in globals()").shown() == [{"text/plain": "False"}]


def test_missing_names_run_nothing(host: FakeHost) -> None:
    host.cell("there = 1")
    call = host.cell("print('ran')", have=["there", "not_there"])
    (event,) = call.of("names")
    assert event.meta == {"names": {}, "missing": ["not_there"]}
    assert call.text() == ""
    assert call.state == "done"


def test_a_function_comes_back_bound_to_the_notebooks_names(host: FakeHost) -> None:
    import sys

    call = host.cell("factor = 3\ndef scale(x):\n    return factor * x", assigned=["scale"])
    scale = names(call)["scale"]
    assert scale.__globals__ is vars(sys.modules["__main__"])
    assert "factor" not in scale.__globals__


def test_put_and_names(own_host: FakeHost) -> None:
    assert own_host.cell(op="put", send={"a": [1, 2]}).state == "done"
    own_host.cell("b = a[0]")
    (event,) = own_host.cell(op="names").of("result")
    listed = {entry["name"]: entry for entry in json.loads(event.data)}
    assert set(listed) == {"a", "b"}
    assert (listed["a"]["type"], listed["a"]["module"], listed["a"]["repr"]) == ("list", "builtins", "[1, 2]")


def test_an_unknown_operation(host: FakeHost) -> None:
    error = host.cell(op="fly").error
    assert (error["skylift"], error["message"]) == (
        "InvalidError",
        "a session does not know the operation 'fly'",
    )


# --- references ----------------------------------------------------------------------------------


def test_a_large_value_stays_and_is_known_by_its_reference(host: FakeHost) -> None:
    call = host.cell("import numpy\nlarge = numpy.zeros((10, 200))", assigned=["large"], limit=1000)
    ref = names(call)["large"]["ref"]
    assert (ref["module"], ref["type"], ref["shape"]) == ("numpy", "ndarray", [10, 200])
    assert (ref["dtype"], ref["nbytes"], ref["why"]) == ("float64", 16000, "size")
    assert ref["repr"].startswith("array([[0., 0.")
    assert len(ref["repr"]) <= 200

    again = names(host.cell("alias = large", assigned=["alias"], limit=1000))["alias"]["ref"]
    assert again["id"] == ref["id"]
    assert host.cell("same is large", send={"same": {"ref": ref["id"]}}).shown() == [{"text/plain": "True"}]
    assert host.cell(op="get", ref=ref["id"]).result.shape == (10, 200)

    host.cell("1", drop=[ref["id"]])
    error = host.cell(op="get", ref=ref["id"]).error
    assert error["skylift"] == "NotFoundError"
    assert error["message"] == (
        "this reference is to a value that the session no longer holds: its container was started anew, or "
        "the value was let go. Run the cell that makes it again."
    )
    error = host.cell("1", send={"same": {"ref": ref["id"]}}).error
    assert error["message"].startswith("same stands for a value that the session no longer holds")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("v = list(range(10_000))", "size"),
        ("v = (i for i in range(3))", "generator"),
        (
            "import threading\nv = threading.Lock()",
            "unpicklable: TypeError: cannot pickle '_thread.lock' object",
        ),
        (
            "v = {'a': [threading.Lock()]}",
            "unpicklable: value['a'][0] is a _thread.lock: TypeError: cannot pickle '_thread.lock' object",
        ),
    ],
)
def test_why_a_value_stays(host: FakeHost, code: str, why: str) -> None:
    ref = names(host.cell("import threading\n" + code, assigned=["v"], limit=1000))["v"]["ref"]
    assert ref["why"] == why


def test_what_cannot_be_brought(host: FakeHost) -> None:
    ref = names(host.cell("import threading\nv = [threading.Lock()]", assigned=["v"]))["v"]["ref"]
    error = host.cell(op="get", ref=ref["id"]).error
    assert error["skylift"] == "SerializationError"
    assert error["message"] == (
        "the value of type list cannot be sent: value[0] is a _thread.lock: TypeError: cannot pickle "
        "'_thread.lock' object. It works on in the session's cells: bring what you need of it."
    )


def test_a_value_on_a_device_stays_there_and_is_brought_as_a_copy(host: FakeHost) -> None:
    host.cell(
        "class Tensor:\n"
        "    device = 'cuda:0'\n"
        "    def __init__(self, is_cuda):\n        self.is_cuda = is_cuda\n"
        "    def cpu(self):\n        return Tensor(False)\n"
    )
    entries = names(host.cell("v = Tensor(True)\nw = [v]", assigned=["v", "w"]))
    assert [entries[name]["ref"]["why"] for name in ("v", "w")] == ["device", "device"]
    assert entries["v"]["ref"]["device"] == "cuda:0"
    assert host.cell(op="get", ref=entries["v"]["ref"]["id"]).result.is_cuda is False


def test_values_that_are_awkward_to_describe(host: FakeHost) -> None:
    host.cell(
        "class Awkward:\n"
        "    def __repr__(self):\n        raise RuntimeError\n"
        "    @property\n    def shape(self):\n        raise RuntimeError\n"
        "    nbytes = 'many'\n"
        "    def __reduce__(self):\n        raise RuntimeError('no pickle')\n"
    )
    ref = names(host.cell("v = Awkward()", assigned=["v"]))["v"]["ref"]
    assert ref["repr"].startswith("<Awkward instance at ")
    assert ref["why"] == "unpicklable: RuntimeError: no pickle"
    assert "shape" not in ref


def test_output_of_many_cells_is_not_kept(own_host: FakeHost) -> None:
    own_host.cell("1")
    code = "import resource\nprint('x' * 2_000_000)\nresource.getrusage(resource.RUSAGE_SELF).ru_maxrss"
    first = int(own_host.cell(code, execution_count=1).shown()[0]["text/plain"])
    for number in range(2, 30):
        last = int(own_host.cell(code, execution_count=number).shown()[0]["text/plain"])
    assert last - first < 30_000
