"""Classes: what is checked at decoration, how instances are called, what travels."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skylift
from skylift import serialization
from skylift.exceptions import InvalidError, SerializationError
from skylift.wire import Define, Submit

OFFSET = 10


def make_model(app: skylift.App, **options: Any) -> Any:
    @app.cls(**options)
    class Model:
        """Doubles."""

        size: int = skylift.parameter(default=3)
        label: str = skylift.parameter(init=False, default="none")

        def __init__(self) -> None:
            self.log = [f"made {self.size}"]

        @skylift.enter()
        def connect(self) -> None:
            self.log.append("connect")

        @skylift.enter(snap=True)
        async def load(self) -> None:
            self.log.append("load")

        @skylift.method()
        def predict(self, x: int, *, plus: int = 0) -> int:
            return self.helper(x) * self.size + plus

        @skylift.method()
        def get_log(self) -> list[str]:
            return self.log

        @skylift.method()
        async def slowly(self, x: int) -> int:
            return x * self.size

        @skylift.method()
        def count(self, number: int) -> Iterator[int]:
            yield from range(number * self.size)

        @skylift.exit()
        def close(self) -> None: ...

        def helper(self, x: int) -> int:
            return x + OFFSET

    return Model


def test_every_way_of_calling(gateway: Any) -> None:
    app = skylift.App("ways")
    model = make_model(app)(size=2)
    with app.run():
        assert 22 == model.predict.remote(1)
        assert 27 == model.predict.remote(1, plus=5)
        assert [0, 1, 2, 3] == list(model.count.remote_gen(2))
        assert [20, 22, 24] == list(model.predict.map(range(3)))
        assert [25, 27] == list(model.predict.map([0, 1], kwargs={"plus": 5}))
        assert [24] == list(model.predict.starmap([(2,)]))
        model.predict.for_each([1, 2])
        assert 22 == model.predict.spawn(1).get()
        assert 8 == model.slowly.remote(4)
        assert 22 == asyncio.run(model.predict.remote.aio(1))
        assert ["made 2", "load", "connect"] == model.get_log.remote()
    assert 1 == len(gateway.control.services)
    submits = gateway.sent(Submit)
    assert "Model.predict(1, plus=5)" == submits[1].summary
    assert "Model.predict.map(…)" == submits[3].summary
    (define,) = gateway.sent(Define)
    spec = define.spec
    assert ("Model", False, 32) == (spec.name, spec.is_generator, len(spec.template_code))


def test_instances_with_equal_parameters_are_one(gateway: Any) -> None:
    app = skylift.App("equal")
    Model = make_model(app)
    with app.run():
        for model in (Model(), Model(size=3), Model(size=4)):
            model.predict.remote(1)
    first, second = gateway.sent(Define)
    assert first.function_id != second.function_id
    assert first.spec.parameters != second.spec.parameters
    assert (32, 32) == (len(first.spec.parameters), len(second.spec.parameters))


def test_generators_and_other_methods_are_told_apart() -> None:
    model = make_model(skylift.App("a"))()
    app = skylift.App("a")
    with app.run():
        with pytest.raises(InvalidError, match=r"^Model\.count is a generator function: use Model\.count"):
            model.count.remote(1)
        with pytest.raises(InvalidError, match=r"^Model\.count\.map\(\): Model\.count is a generator"):
            model.count.map([1])
    with pytest.raises(TypeError, match=r"^Model\.predict runs in a container: call Model\.predict"):
        model.predict(1)


def test_local() -> None:
    Model = make_model(skylift.App("local"))
    model = Model(size=2)
    assert 22 == model.predict.local(1)
    assert ["made 2", "load", "connect"] == model.get_log.local()
    assert [0, 1] == list(model.count.local(1))
    assert 8 == asyncio.run(model.slowly.local(4))
    assert ["made 3", "load", "connect"] == Model().get_log.local()


def test_local_in_a_running_loop() -> None:
    async def run() -> list[str]:
        return list(make_model(skylift.App("local"))().get_log.local())

    assert ["made 3", "load", "connect"] == asyncio.run(run())


def test_what_an_instance_shows() -> None:
    Model = make_model(skylift.App("shown"))
    model = Model(size=2)
    assert 2 == model.size
    assert "<skylift.Obj Model(size=2)>" == repr(model)
    assert "<skylift.Cls Model of app shown>" == repr(Model)
    assert "<skylift.Method Model.predict of app shown>" == repr(model.predict)
    assert ["predict", "get_log", "slowly", "count", "size"] == model.__dir__()
    assert "Doubles." == Model.__doc__
    assert 15 == model.helper(5)
    assert "none" == model.label
    assert ["made 2", "load", "connect"] == model.log
    with pytest.raises(AttributeError, match=r"parameter 'predct'; did you mean 'predict'\?$"):
        model.predct  # noqa: B018
    assert not hasattr(Model, "predict")


def test_what_belongs_to_the_app() -> None:
    app = skylift.App("a")
    Model = make_model(app)
    assert {"Model": Model} == app.registered_classes
    other = skylift.App("b")
    other.include(app)
    assert {"Model": Model} == other.registered_classes
    make_model(app)
    with pytest.raises(InvalidError, match="both apps have a class 'Model'"):
        other.include(app)
    assert "<skylift.App a: Model>" == repr(app)


# --- refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda model: model(2), r"^Model\(…\): parameters are given by name; write Model\(size=…\)$"),
        (
            lambda model: model(sze=2),
            r"^Model\(sze=…\): unknown parameter; did you mean 'size'\? Known: size$",
        ),
        (lambda model: model(label="x"), r"^Model\(label=…\): unknown parameter"),
        (lambda model: model(size="2"), r"^Model\(size='2'\): its type is int, and this is of type str$"),
        (lambda model: model(size=True), r"^Model\(size=True\): its type is int, and this is of type bool$"),
        (
            lambda model: model.predict.remote(1),
            r"^Model\.predict is called on an instance: write Model\(…\)\.pre",
        ),
        (
            lambda model: model.remote(1),
            r"has no remote; its methods have: write Model\(…\)\.predict\.remote\(…\)$",
        ),
        (lambda model: model.with_concurrency(), r"^Cls\.with_concurrency is not built yet$"),
        (lambda model: model.with_batching(), r"^Cls\.with_batching is not built yet$"),
        (lambda model: model.from_name("a", "b"), r"^Cls\.from_name is not built yet"),
        (lambda model: model.with_options(cloud="aws"), r"^cloud= is not built yet"),
        (
            lambda model: model().predict.with_options(gpu="T4"),
            r"write Model\.with_options\(…\)\(…\)\.predict$",
        ),
        (lambda model: type("Sub", (model,), {}), r"."),
        (lambda model: skylift.App("b").cls()(model), r"^Model is decorated with @app\.cls\(\) already$"),
        (
            lambda model: skylift.App("b").function()(model),
            r"^@app\.function\(\) is for functions, and Model is",
        ),
    ],
)
def test_wrong_uses_of_a_class(wrong: Any, message: str) -> None:
    with pytest.raises((InvalidError, TypeError), match=message):
        wrong(make_model(skylift.App("a")))


def test_no_subclasses() -> None:
    Model = make_model(skylift.App("a"))
    with pytest.raises(InvalidError, match=r"^Model is decorated with @app\.cls\(\) and cannot be sub"):

        class Sub(Model):
            pass


def needs_parentheses(name: str) -> str:
    return rf"^@{name} needs parentheses: write @{name}\(\)$"


def test_forgotten_parentheses() -> None:
    with pytest.raises(InvalidError, match=needs_parentheses(r"app\.cls")):
        skylift.App("a").cls(int)
    for decorator in (skylift.enter, skylift.exit, skylift.method):
        with pytest.raises(InvalidError, match=needs_parentheses(rf"skylift\.{decorator.__name__}")):
            decorator(lambda self: None)


def decorated(body: str) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "skylift": skylift, "app": skylift.App("a")}
    exec(body, namespace)


CLASS = "@app.cls()\nclass Model:\n    "
METHOD = "\n    @skylift.method()\n    def predict(self): ...\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "@app.cls()\ndef f(): ...",
            r"^@app\.cls\(\) is for classes, not for a function; use @app\.function\(\)$",
        ),
        ("app.cls()(5)", r"^@app\.cls\(\) is for classes, not for a int$"),
        ("app.cls(name='')", r'^name=\'\': a class\'s name is text, such as "Model"$'),
        ("app.cls(timeout=None)", r"^timeout=None"),
        ("app.cls(gpu='H1000')", r"H1000"),
        (
            CLASS + "def predict(self): ...",
            r"^@app\.cls\(\): Model has no method that could be called; decorate one with @skylift\.met",
        ),
        (
            CLASS + "def __init__(self, size, *rest): ..." + METHOD,
            r"__init__ takes size\. Instances .* the class declares: size: int = skylift\.parameter\(\)$",
        ),
        (
            CLASS + "@app.function()\n    def f(self): ..." + METHOD,
            r"^Model\.f is a method, and @app\.function\(\) is for functions outside of classes; use @skyli",
        ),
        (
            CLASS + "@app.function()\n    def f(x): ..." + METHOD,
            r"^Model\.f is decorated with @app\.function\(\), which is for functions outside of classes; ",
        ),
        (
            CLASS + "@app.function()\n    @skylift.method()\n    def f(self): ...",
            r"^f is decorated with @skylift\.method\(\), which is for methods of classes; leave out ",
        ),
        (
            CLASS + "@skylift.method()\n    @app.function()\n    def f(x): ...",
            r"^Model\.f is decorated with both @app\.function\(\) and @skylift\.method\(\): leave out",
        ),
        (
            CLASS + "@skylift.enter()\n    @skylift.method()\n    def f(self): ...",
            r"^f is decorated with both @skylift\.method\(\) and @skylift\.enter\(\)$",
        ),
        (
            CLASS + "@skylift.method()\n    @staticmethod\n    def f(x): ...",
            r"^@skylift\.method\(\) is for methods with self, and f is a staticmethod$",
        ),
        (
            CLASS + "@skylift.method()\n    def f(): ...",
            r"^f is a method and needs a first parameter: def f\(self\)",
        ),
        (
            CLASS + "@skylift.enter()\n    def f(self, x): ...",
            r"^@skylift\.enter\(\): f is called without arguments, and requires x$",
        ),
        (
            CLASS + "@skylift.exit()\n    def f(self): yield",
            r"^@skylift\.exit\(\): f is a generator; nobody would iterate over it$",
        ),
        ("skylift.enter(snap=1)", r"^@skylift\.enter\(snap=1\): True or False$"),
        ("skylift.method()(5)", r"^@skylift\.method\(\) is for methods, not for a int$"),
        (
            CLASS + "size = skylift.parameter()" + METHOD,
            r"^Model\.size: a parameter needs an annotation with its type: size: int = skylift\.param",
        ),
        (
            CLASS + "size: float = skylift.parameter()" + METHOD,
            r"^Model\.size: a parameter is a str, int, bool, bytes, not a float$",
        ),
        (
            CLASS + "size: int = skylift.parameter(default='3')" + METHOD,
            r"^Model\.size: default='3': its type is int, and this is of type str$",
        ),
        (
            CLASS + "size: int = skylift.parameter()" + METHOD + "Model()",
            r"^Model\(\): give size=…, a parameter of ",
        ),
        (
            CLASS + METHOD + "Model(size=1)",
            r"^Model\(size=…\): the class has no parameters; declare one in it: size:",
        ),
        ("skylift.parameter(init=3)", r"^skylift\.parameter\(init=3\): True or False$"),
    ],
)
def test_what_is_wrong_is_said_at_decoration(body: str, message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        decorated(body)


# --- inheritance -------------------------------------------------------------------------------------------


def test_bases_share_methods_hooks_and_parameters() -> None:
    class Base:
        size: int = skylift.parameter()
        name: str = skylift.parameter(default="base")

        @skylift.enter()
        def load(self) -> None:
            self.loaded = ["base"]

        @skylift.method()
        def get(self) -> tuple[Any, ...]:
            return self.size, self.name, self.loaded

    app = skylift.App("bases")

    @app.cls()
    class First(Base):
        flag: bool = skylift.parameter(default=False)

        @skylift.enter()
        def load(self) -> None:
            super().load()
            self.loaded.append("first")

    @app.cls()
    class Second(Base):
        name: str = "second"

    assert (1, "base", ["base", "first"]) == First(size=1).get.local()
    assert (2, "second", ["base"]) == Second(size=2).get.local()
    with pytest.raises(InvalidError, match="unknown parameter"):
        Second(size=1, name="x")


# --- what travels ------------------------------------------------------------------------------------------


def code_of(instance: Any) -> bytes:
    return instance._cls._definition(instance._parameters)._code.pickled()


def test_the_code_is_kept_while_nothing_changes() -> None:
    factor = 2

    class Base:
        def helper(self) -> int:
            return factor

    app = skylift.App("kept")

    @app.cls()
    class Model(Base):
        size: int = skylift.parameter()
        table = (1, 2)

        @property
        def twice(self) -> int:
            return 2 * self.size

        def helper(self) -> int:
            return super().helper() * self.twice

        @skylift.method()
        def get(self) -> int:
            return self.helper()

    first = code_of(Model(size=1))
    assert code_of(Model(size=1)) is first
    factor = 3
    second = code_of(Model(size=1))
    assert second != first
    assert code_of(Model(size=1)) is second
    marker = pickle.loads(second)
    made = marker["cls"]()
    made.size = 5
    assert 30 == made.get()


CELL = """
@app.cls()
class Model:
    @skylift.enter(snap=True)
    def load(self):
        self.helper = Helper()
    @skylift.method()
    def get(self):
        return self.helper
"""


def cell(source: str, filename: str, namespace: dict[str, Any]) -> Any:
    exec(compile(source, filename, "exec"), namespace)
    return namespace["Model"]()


def test_a_cell_that_is_run_again_makes_the_same_code() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "skylift": skylift, "app": skylift.App("cells")}
    exec("class Helper: pass", namespace)
    first = code_of(cell(CELL, "/tmp/ipykernel_12/1.py", namespace))
    assert code_of(cell(CELL, "/tmp/ipykernel_12/1.py", namespace)) == first
    changed = code_of(cell(CELL.replace("get", "give"), "/tmp/ipykernel_12/1.py", namespace))
    assert changed != first
    # What stands in another cell keeps its identity, so that values of it are known on both sides.
    assert pickle.loads(first)["cls"].load.__globals__["Helper"] is namespace["Helper"]


def test_the_template_is_the_same_in_another_kernel() -> None:
    def template_code(filename: str, source: str = CELL) -> str:
        namespace: dict[str, Any] = {"__name__": "__main__", "skylift": skylift, "app": skylift.App("cells")}
        exec(compile("class Helper: pass", filename, "exec"), namespace)
        instance = cell(source, filename, namespace)
        code = instance._cls._definition({})._code
        assert pickle.loads(code.pickled())["template"] == code.template_code()
        return str(code.template_code())

    first = template_code("/tmp/ipykernel_12/1.py")
    assert first
    assert template_code("/tmp/ipykernel_3456/1.py") == first
    assert template_code("/tmp/ipykernel_12/2.py") != first
    assert template_code("/tmp/ipykernel_12/1.py", CELL.replace("get", "give")) != first
    assert "" == template_code("/tmp/ipykernel_12/1.py", CELL.replace("snap=True", ""))


def test_the_code_is_plain_where_skylift_is_not_importable() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "skylift": skylift, "app": skylift.App("plain")}
    exec("class Helper: pass", namespace)
    data = code_of(cell(CELL.replace("load(self):", "load(self, size: int = 3):"), "cell.py", namespace))
    script = (
        "import sys; sys.modules['skylift'] = None; import pickle;"
        "marker = pickle.load(sys.stdin.buffer);"
        "made = marker['cls'](); made.load(); print(type(made.get()).__name__, marker['enter_snap'])"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    assert "Helper ['load']\n" == done.stdout.decode()


def test_dill_where_it_is_asked_for() -> None:
    @skylift.App("dill").cls(serializer="dill")
    class Model:
        @skylift.enter(snap=True)
        def load(self) -> None:
            self.value = OFFSET

        @skylift.method()
        def get(self) -> int:
            return self.value

    data = code_of(Model())
    assert b"dill" in data
    marker = pickle.loads(data)
    made = marker["cls"]()
    made.load()
    assert (10, 32) == (made.get(), len(marker["template"]))


def test_what_tools_show() -> None:
    model = make_model(skylift.App("tools"))()
    assert "(x: 'int', *, plus: 'int' = 0) -> 'int'" == str(inspect.signature(model.predict.remote))
    assert inspect.signature(model.predict) == inspect.signature(model.predict.remote)
    assert not hasattr(model, "_repr_html_")


def test_classes_of_modules_go_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "class_module.py").write_text(
        "import skylift\napp = skylift.App('m')\n"
        "@app.cls()\nclass Model:\n    size: int = skylift.parameter()\n"
        "    @skylift.method()\n    def get(self):\n        return self.size\n"
        "@app.cls(serialized=True)\nclass Sent(Model.__wrapped__):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import class_module  # type: ignore[import-not-found]

    data = code_of(class_module.Model(size=1))
    assert pickle.loads(data)["cls"] is class_module.Model._skylift_raw
    assert len(data) < 400
    sent = pickle.loads(code_of(class_module.Sent(size=1)))["cls"]
    assert sent is not class_module.Sent._skylift_raw
    again = pickle.loads(serialization.dumps(class_module.Model(size=2).get))
    assert 2 == again.local()
    assert again._instance._cls._skylift_raw is class_module.Model._skylift_raw
    del sys.modules["class_module"]


def test_handles_travel(gateway: Any) -> None:
    app = skylift.App("handles")
    Model = make_model(app, gpu="H100")
    model = Model(size=2)
    for handle in (Model(size=2), model.predict, Model):
        again = pickle.loads(serialization.dumps(handle))
        assert repr(handle) == repr(again)
    with app.run():
        again = pickle.loads(serialization.dumps(model.predict))
        assert 22 == again.remote(1)
    (define,) = gateway.sent(Define)
    assert "H100" == define.spec.gpus[0].model


def test_a_class_whose_methods_use_its_own_handles() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "skylift": skylift, "app": skylift.App("own")}
    source = (
        "@app.cls()\nclass Model:\n    @skylift.method()\n    def get(self, depth):\n"
        "        return depth and 1 + get.local(depth - 1)\n"
        "    @skylift.method()\n    def other(self):\n        return repr(Model), repr(instance)\n"
        "instance = Model()\nget = instance.get\n"
    )
    exec(source, namespace)
    for handle in ("Model", "instance", "get"):
        again = pickle.loads(serialization.dumps(namespace[handle]))
        assert repr(again) == repr(namespace[handle])
    data = code_of(namespace["instance"])
    assert code_of(namespace["instance"]) is data
    made = pickle.loads(data)["cls"]()
    assert 2 == made.get(2)
    assert ("<skylift.Cls Model of app own>", "<skylift.Obj Model()>") == made.other()


def test_what_cannot_travel_is_named() -> None:
    import threading

    lock = threading.Lock()
    app = skylift.App("locks")

    @app.cls()
    class Model:
        @skylift.method()
        def get(self) -> object:
            return lock

    with pytest.raises(SerializationError, match=r"^'lock', which .*Model\.get\(\) captures \("):
        code_of(Model())

    @app.cls()
    class Other:
        lock = threading.Lock()

        @skylift.method()
        def get(self) -> None: ...

    with pytest.raises(SerializationError, match=r"^'\.lock', which class .*Other captures \("):
        code_of(Other())
    with pytest.raises(SerializationError, match=r"^argument 'x' of Model\.predict\(\) cannot"):
        make_model(app)().predict._dump((lock,), {})
