"""What travels with a function, when it is pickled anew, and what is said of what cannot travel."""

from __future__ import annotations

import pickle
import sys
import threading
from pathlib import Path

import pytest

import skylift
from skylift import function_code, serialization
from skylift.exceptions import SerializationError
from skylift.function_code import FunctionCode
from skylift.serialization import dumps_call, loads

app = skylift.App("captures")


def code(raw, **options) -> FunctionCode:
    return FunctionCode(raw, raw.__name__, **options)


def test_the_pickle_is_kept_while_captured_values_are_the_same() -> None:
    factor, names = 2, ("a", "b")

    def inner(x):
        return x * factor

    def outer(x, y=1):
        return inner(x), names, threading

    kept = code(outer)
    first = kept.pickled()
    assert kept.pickled() is first
    factor = 3
    second = kept.pickled()
    assert second is not first
    assert (15, ("a", "b")) == pickle.loads(second)(5)[:2]
    assert kept.pickled() is second


def test_what_can_change_is_pickled_each_time() -> None:
    numbers = [1]

    def total():
        return sum(numbers)

    kept = code(total)
    assert 1 == pickle.loads(kept.pickled())()
    numbers.append(2)
    assert 3 == pickle.loads(kept.pickled())()


def test_redefined_helpers_are_noticed() -> None:
    namespace: dict = {"__name__": "__main__"}
    exec("def helper(): return 1\ndef outer(): return helper()", namespace)
    kept = code(namespace["outer"])
    assert 1 == pickle.loads(kept.pickled())()
    exec("def helper(): return 2", namespace)
    assert 2 == pickle.loads(kept.pickled())()


def test_defaults_are_captured() -> None:
    def power(x, exponent=2, *, offset=0):
        return x**exponent + offset

    kept = code(power)
    assert 9 == pickle.loads(kept.pickled())(3)
    power.__defaults__ = (3,)
    assert 27 == pickle.loads(kept.pickled())(3)


def test_functions_of_modules_go_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "local_module.py").write_text(
        "import skylift\napp = skylift.App('m')\nstate = []\n"
        "@app.function()\ndef push(x):\n    state.append(x)\n    return state\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import local_module

    by_name = local_module.push._code.pickled()
    assert pickle.loads(by_name) is local_module.push._skylift_raw
    by_value = pickle.loads(code(local_module.push._skylift_raw, by_value=True).pickled())
    assert by_value is not local_module.push._skylift_raw
    assert [1] == by_value(1)
    assert [] == local_module.state
    handle = pickle.loads(serialization.dumps(local_module.push))
    assert handle._skylift_raw is local_module.push._skylift_raw
    del sys.modules["local_module"]


def test_dill_where_it_is_asked_for() -> None:
    def double(x):
        return 2 * x

    data = code(double, serializer="dill").pickled()
    assert b"dill" in data
    assert 6 == pickle.loads(data)(3)


def test_a_capture_that_cannot_travel_is_named() -> None:
    lock = threading.Lock()

    def helper():
        return lock

    def train():
        return helper()

    with pytest.raises(SerializationError) as caught:
        code(train).pickled()
    message = str(caught.value)
    assert message.startswith(
        "'lock', which test_a_capture_that_cannot_travel_is_named.<locals>.helper() captures ("
    )
    assert f"{__file__}, line {helper.__code__.co_firstlineno})" in message
    assert "a _thread.lock cannot be pickled (TypeError: cannot pickle '_thread.lock' object)" in message
    assert message.endswith("or pass what is needed to make it as an argument")


def test_the_part_at_fault_is_named() -> None:
    class Client:
        def __init__(self) -> None:
            self.settings = {"lock": threading.Lock()}

    client = Client()

    def train():
        return client

    with pytest.raises(SerializationError, match=r"its part \.settings\['lock'\], a _thread\.lock,"):
        code(train).pickled()


def test_an_argument_that_cannot_travel_is_named() -> None:
    def train(lr, model=None):
        return lr

    with pytest.raises(
        SerializationError, match=r"argument 'model' of train\(\) cannot travel to a container: a "
    ):
        dumps_call((0.1, threading.Lock()), {}, "train", train)
    with pytest.raises(SerializationError, match=r"argument 'model' of train\(\)"):
        dumps_call((0.1,), {"model": threading.Lock()}, "train", train)


def test_large_payloads_warn_once_and_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialization, "WARN_SIZE", 1000)
    monkeypatch.setattr(function_code, "WARN_SIZE", 1000)
    table, small = bytearray(5000), [1]

    def train(x):
        return table, small

    kept = code(train)
    with pytest.warns(UserWarning, match=r"'table', which train\(\) captures, takes 0 MB to send"):
        kept.pickled()
    kept.pickled()
    with pytest.warns(UserWarning, match=r"argument 'x' of train\(\) takes 0 MB") as caught:
        dumps_call((bytes(5000),), {}, "train", train)
    assert __file__ == caught[0].filename


def test_handles_travel_in_closures_and_arguments() -> None:
    @app.function(timeout=60)
    def helper(x):
        return x + 1

    @app.function()
    def outer(x):
        return helper, x

    @app.function()
    def recursive(n):
        return recursive if n else 0

    travelled, argument = pickle.loads(outer._code.pickled())(helper)
    assert (3, 3) == (travelled.local(2), pickle.loads(serialization.dumps(argument)).local(2))
    assert 60.0 == travelled._options.timeout
    assert "captures" == travelled._app.name
    again = pickle.loads(recursive._code.pickled())(1)
    assert 0 == again.local(0)
    assert outer._code.pickled() is outer._code.pickled()


def test_plain_arguments_need_no_cloudpickle() -> None:
    assert ((1, "a", None), {}) == pickle.loads(dumps_call((1, "a", None), {}, "f"))
    assert ((), {"x": [1]}) == pickle.loads(dumps_call((), {"x": [1]}, "f"))


def test_what_cannot_be_loaded_here() -> None:
    with pytest.raises(
        skylift.exceptions.DeserializationError, match=r"the result of f.. cannot be loaded here"
    ):
        loads(b"nonsense", "the result of f()")
