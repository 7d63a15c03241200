"""What ``@app.function`` refuses, when, and in which words."""

from __future__ import annotations

import inspect

import pytest

import skylift
from skylift.exceptions import InvalidError
from skylift.options import check_options
from skylift.wire import GpuRequest, RetryPolicy

KNOWN = [
    "image",
    "env",
    "secrets",
    "gpu",
    "cpu",
    "memory",
    "ephemeral_disk",
    "volumes",
    "schedule",
    "timeout",
    "startup_timeout",
    "retries",
    "name",
    "is_generator",
    "serialized",
    "min_containers",
    "max_containers",
    "buffer_containers",
    "scaledown_window",
    "cloud",
    "region",
    "nonpreemptible",
    "enable_memory_snapshot",
    "block_network",
    "single_use_containers",
    "include_source",
    "experimental_options",
    "zone",
    "max_cost",
    "checkpoint_every",
    "serializer",
]


def train(x):
    return x


def count(n):
    yield from range(n)


def test_every_parameter_of_the_api_is_known() -> None:
    parameters = set(inspect.signature(skylift.App.function).parameters) - {"self", "forgotten"}
    assert set(KNOWN) == parameters


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpu": "H10"}, "gpu='H10': unknown GPU 'H10'; did you mean H100"),
        ({"gpu": "RTX4090"}, "unknown GPU 'RTX4090'.*\"any\" takes whichever there is"),
        ({"gpu": "H100:0"}, 'the count after ":" is a number from 1 to 16'),
        ({"gpu": "any!"}, "means exactly this model"),
        ({"gpu": []}, "an empty list of GPUs"),
        ({"gpu": 1}, "a GPU is written as text"),
        ({"gpu": ["H100", None]}, "gpu=None: a GPU is written as text"),
        ({"cpu": 0}, "cpu=0: more than 0 cores"),
        ({"cpu": (4, 2)}, "reserves 4 cores, more than its limit of 2"),
        ({"cpu": "4"}, "cpu='4': a number of cores"),
        ({"memory": 0.5}, "memory=0.5: a whole number of MiB"),
        ({"memory": (2048, 1024)}, "reserves 2048 MiB, more than its limit of 1024"),
        ({"timeout": None}, "timeout=None: a function needs a timeout in seconds"),
        ({"timeout": 0}, "timeout=0: a number of seconds, more than 0 and at most 86400"),
        ({"timeout": 1e6}, "at most 86400"),
        ({"startup_timeout": -1}, "startup_timeout=-1: a number of seconds"),
        ({"retries": -1}, "max_retries=-1: a whole number from 0 to 100"),
        ({"retries": "3"}, "retries='3': a whole number, or skylift.Retries"),
        ({"min_containers": 3, "max_containers": 2}, "min_containers=3 is more than max_containers=2"),
        ({"min_containers": -1}, "min_containers=-1: a whole number of at least 0"),
        ({"buffer_containers": 1.5}, "buffer_containers=1.5: a whole number of at least 0"),
        ({"max_containers": 0}, "max_containers=0: a whole number of at least 1"),
        ({"scaledown_window": "5m"}, "scaledown_window='5m': a number of seconds"),
        ({"env": {"A": 1}}, "the value is text; write '1'"),
        ({"env": ["A"]}, "a dict of environment variables"),
        ({"env": {"A=B": "1"}}, "not a name of an environment variable"),
        ({"image": "debian"}, "image='debian': a skylift.Image"),
        ({"block_network": 1}, "block_network=1: True or False"),
        ({"serializer": "pickle"}, 'serializer=\'pickle\': "cloudpickle" or "dill"'),
        ({"name": ""}, "name='': a function's name is text"),
        ({"cloud": "asw"}, "cloud='asw': unknown cloud; did you mean 'aws'"),
    ],
)
def test_wrong_parameters_are_named_at_the_decorator(given: dict, message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        skylift.App("a").function(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"secrets": [object()]},
        {"cloud": "aws"},
        {"region": "us-east-1"},
        {"zone": "us-east-1c"},
        {"nonpreemptible": True},
        {"ephemeral_disk": 1024},
        {"enable_memory_snapshot": True},
        {"experimental_options": {"x": 1}},
        {"max_cost": 5.0},
        {"checkpoint_every": 60},
        {"include_source": False},
    ],
)
def test_what_is_not_built_is_refused_by_name(given: dict) -> None:
    (name,) = given
    with pytest.raises(InvalidError, match=rf"{name}=.*is not built yet"):
        skylift.App("a").function(**given)


def test_warm_containers_travel_in_the_spec(app: skylift.App) -> None:
    function = app.function(min_containers=1, buffer_containers=2, max_containers=4)(train)
    options = function._options
    assert (1, 2, 4) == (options.min_containers, options.buffer_containers, options.max_containers)
    with pytest.raises(InvalidError, match="min_containers=5 is more than max_containers=4"):
        check_options({"min_containers": 5}, options)


def test_schedules_are_checked_and_refused() -> None:
    with pytest.raises(InvalidError, match="called without arguments, and this one requires x"):
        skylift.App("a").function(schedule=object())(train)
    with pytest.raises(InvalidError, match="schedule= is not built yet"):
        skylift.App("a").function(schedule=object())(lambda: 1)


def test_generators_cannot_be_retried() -> None:
    with pytest.raises(InvalidError, match="retries= of count: a generator cannot be retried"):
        skylift.App("a").function(retries=1)(count)
    assert skylift.App("a").function(retries=1, is_generator=False)(count)


def test_forgotten_parentheses() -> None:
    app = skylift.App("a")
    with pytest.raises(InvalidError, match=r"write @app\.function\(\)"):
        app.function(train)
    with pytest.raises(InvalidError, match=r"write @app\.local_entrypoint\(\)"):
        app.local_entrypoint(train)


def test_only_functions_are_decorated() -> None:
    app = skylift.App("a")
    with pytest.raises(InvalidError, match=r"Model is a class; use @app\.cls\(\)"):
        app.function()(type("Model", (), {}))
    with pytest.raises(InvalidError, match=r"train is decorated with @app.function"):
        app.function()(app.function()(train))
    with pytest.raises(InvalidError, match="for functions, not for a int"):
        app.function()(5)  # type: ignore[type-var]


def test_what_options_become() -> None:
    options = check_options(
        {
            "gpu": ["h100!", "a100-80gb:2", "any"],
            "cpu": (1, 2.5),
            "memory": 512,
            "retries": 3,
            "env": {"A": "1", "B": None},
            "scaledown_window": 5,
        }
    )
    assert (
        GpuRequest(model="H100", exact=True),
        GpuRequest(model="A100-80GB", count=2),
        GpuRequest(model="any"),
    ) == options.gpus
    assert (1.0, 2.5, 512, None) == (options.cpu, options.cpu_limit, options.memory, options.memory_limit)
    assert RetryPolicy(max_retries=3, backoff_coefficient=1.0) == options.retries
    assert {"A": "1"} == options.env
    assert 5.0 == options.scaledown_window


def test_with_options_changes_what_is_given_and_no_more() -> None:
    function = skylift.App("a").function(gpu="H100", timeout=60)(train)
    changed = function.with_options(gpu="A10", timeout=30)
    assert (GpuRequest(model="A10G"),) == changed._options.gpus
    assert 30.0 == changed._options.timeout
    assert 60.0 == function._options.timeout
    assert (GpuRequest(model="H100"),) == function.with_options(timeout=5)._options.gpus
    with pytest.raises(InvalidError, match="region= is not built yet"):
        function.with_options(region="eu")


def test_retries_are_checked() -> None:
    with pytest.raises(InvalidError, match=r"backoff_coefficient=0.5: a number from 1 to 10"):
        skylift.Retries(max_retries=1, backoff_coefficient=0.5)
    with pytest.raises(InvalidError, match="max_delay=0: a number from 1 to 3600"):
        skylift.Retries(max_retries=1, max_delay=0)
    with pytest.raises(InvalidError, match="max_retries=True"):
        skylift.Retries(max_retries=True)


def test_names_that_are_not_built_say_so() -> None:
    with pytest.raises(InvalidError, match=r"skylift\.Queue\.from_name is not built yet"):
        skylift.Queue.from_name("jobs")
    with pytest.raises(InvalidError, match=r"skylift\.concurrent is not built yet"):
        skylift.concurrent(max_inputs=4)
    with pytest.raises(InvalidError, match=r"Image\.micromamba is not built yet"):
        skylift.Image.micromamba()
    with pytest.raises(InvalidError, match=r"Image\.micromamba_install is not built yet"):
        skylift.Image.debian_slim().micromamba_install("numpy")
    with pytest.raises(InvalidError, match=r"App\.deploy is not built yet"):
        skylift.App("a").deploy()
    with pytest.raises(InvalidError, match=r"App\.lookup is not built yet"):
        skylift.App.lookup("a")
    with pytest.raises(InvalidError, match=r"Function\.from_name is not built yet"):
        skylift.Function.from_name("a", "f")
    with pytest.raises(InvalidError, match=r"Function\.spawn_map is not built yet"):
        skylift.App("a").function()(train).spawn_map([1])
    with pytest.raises(InvalidError, match="tags= is not built yet"):
        skylift.App("a", tags={"team": "x"})
    with pytest.raises(AttributeError):
        skylift.Nonsense  # noqa: B018


def test_a_rerun_cell_replaces_its_function() -> None:
    app = skylift.App("a")
    first = app.function()(train)
    second = app.function()(train)
    assert {"train": second} == app.registered_functions
    assert first is not second


def test_include_takes_over_functions() -> None:
    one, two = skylift.App("one"), skylift.App("two")
    function = two.function()(train)
    assert {"train": function} == one.include(two).registered_functions
    with pytest.raises(InvalidError, match="both apps have a function 'train'"):
        one.include(_app_with_train())


def _app_with_train() -> skylift.App:
    app = skylift.App("three")
    app.function()(train)
    return app


def test_methods_show_the_functions_signature_and_their_own_text() -> None:
    function = skylift.App("a").function()(train)
    assert ["x"] == list(inspect.signature(function.remote).parameters)
    assert ["x"] == list(inspect.signature(function).parameters)
    assert "Runs the function in a container" in (function.remote.__doc__ or "")
    assert "as they are ready with ``order_outputs=False``" in (function.map.__doc__ or "")
    assert "Waits for the result" in (skylift.FunctionCall.from_id("fc-00000000").get.__doc__ or "")


def test_an_app_without_a_name_is_called_as_its_script() -> None:
    app = skylift.App()
    assert None is app.name
    assert app._label
    with pytest.raises(InvalidError, match="a name is text"):
        skylift.App("")
