from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from typing import Any

import pytest

from skylift.exceptions import SerializationError
from skylift.magics.sending import captured_values, pickle_for_session
from skylift.session import Pickled, RemoteRef, Session

SESSION = """
import base64, json, pickle, sys
namespace = vars(sys.modules["__main__"])
for name, data in json.load(sys.stdin).items():
    namespace[name] = pickle.loads(base64.b64decode(data))
"""


def notebook(code: str) -> dict[str, Any]:
    """The namespace of a notebook that ran `code`."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, "<cell>", "exec"), namespace)
    return namespace


def sent(
    namespace: dict[str, Any], *reads: str, maybe: tuple[str, ...] = ()
) -> dict[str, Pickled | RemoteRef]:
    return captured_values(reads, maybe, namespace, {}, "In[3]")


def refusal(namespace: dict[str, Any], *reads: str) -> str:
    with pytest.raises(SerializationError) as caught:
        sent(namespace, *reads)
    return str(caught.value)


def in_a_session(values: dict[str, Pickled | RemoteRef], code: str) -> str:
    """What `code` prints in another process that was given these values."""
    pickles = {
        name: base64.b64encode(value.data).decode()
        for name, value in values.items()
        if isinstance(value, Pickled)
    }
    command = [sys.executable, "-c", SESSION + code]
    result = subprocess.run(command, input=json.dumps(pickles), capture_output=True, text=True, timeout=60)
    assert result.stderr == ""
    return result.stdout.strip()


def test_only_what_the_notebook_has_is_sent() -> None:
    assert ["x"] == list(sent(notebook("x = 1"), "x", "print", "there_only"))


def test_what_functions_read_in_turn_is_sent_too() -> None:
    namespace = notebook("scale = 2\ndef double(x): return x * scale\ndef twice(x): return double(double(x))")
    assert ["double", "scale", "twice"] == list(sent(namespace, "twice"))


def test_a_function_sees_the_sessions_current_values() -> None:
    namespace = notebook("scale = 2\ndef double(x): return x * scale")
    values = sent(namespace, "double")
    assert "6" == in_a_session(values, "print(double(3))")
    assert "30" == in_a_session(values, "scale = 10; print(double(3))")


def test_methods_and_functions_inside_values_are_found() -> None:
    namespace = notebook(
        "import functools\nbase = 5\n"
        "def add(x, y): return x + y + base\n"
        "class Model:\n    def run(self): return tools['add'](1, 2)\n"
        "tools = {'add': functools.partial(add)}\n"
        "model = Model()"
    )
    values = sent(namespace, "model")
    assert {"model", "tools", "base"} <= set(values)
    assert "8" == in_a_session(values, "print(model.run())")


def test_a_large_captured_array_is_in_its_own_pickle_only() -> None:
    namespace = notebook("data = bytes(1_000_000)\ndef total(): return len(data)")
    values = sent(namespace, "total")
    assert isinstance(values["total"], Pickled)
    assert len(values["total"].data) < 2_000


def test_equal_values_have_equal_pickles() -> None:
    namespace = notebook("class C:\n    def f(self): return g()\ndef g(): return 1\nx = [C(), {'a': {1, 2}}]")
    first, _ = pickle_for_session(namespace["x"], namespace)
    second, _ = pickle_for_session(namespace["x"], namespace)
    assert first.data == second.data


def test_references_go_as_themselves() -> None:
    ref = RemoteRef.__new__(RemoteRef)
    assert {"ref": ref} == sent({"ref": ref}, "ref")


def test_a_reference_inside_another_value_says_what_to_do() -> None:
    described = {"id": "rf-1", "type": "Tensor", "module": "torch"}
    ref = RemoteRef(Session(name="train", gpu="H100"), described)
    text = refusal({"pair": [1, ref]}, "pair")
    assert "'pair' cannot travel to the session: this torch.Tensor lives in session train" in text
    assert ".get()" in text


def test_ipythons_own_names_stay_here_unless_they_were_rebound() -> None:
    own = object()
    namespace = {"In": own, "display": 3, "__name__": "__main__"}
    hidden = {"In": own, "display": own}
    assert ["display"] == list(captured_values(["In", "display", "__name__"], (), namespace, hidden, "In[1]"))


def test_what_cannot_travel_is_named_with_its_type_and_the_cell() -> None:
    text = refusal({"guard": threading.Lock()}, "guard")
    assert text.startswith("'guard' cannot travel to the session: a _thread.lock cannot be pickled")
    assert "Cell In[3] reads it" in text


def test_the_part_at_fault_is_named() -> None:
    assert "its part ['a'][1], a _thread.lock," in refusal({"config": {"a": [1, threading.Lock()]}}, "config")


def test_the_function_that_captured_it_is_named() -> None:
    namespace = notebook("import threading\nguard = threading.Lock()\ndef work():\n    with guard: pass")
    text = refusal(namespace, "work")
    assert "'guard' cannot travel" in text
    assert "The function work, which Cell In[3] uses, reads it" in text


def test_what_the_cell_may_assign_itself_is_left_out_where_it_cannot_travel() -> None:
    assert ["x"] == list(sent({"x": 1, "guard": threading.Lock()}, "x", maybe=("guard",)))


def test_an_error_in_the_users_own_pickling_is_told() -> None:
    namespace = notebook("class Odd:\n    def __reduce__(self): raise RuntimeError('not today')\nodd = Odd()")
    assert "RuntimeError: not today" in refusal(namespace, "odd")
