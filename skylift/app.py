"""Apps: functions that belong together, and when they may be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NoReturn, ParamSpec, TypeVar

from skylift import context
from skylift.class_description import describe_class
from skylift.client import Client, notebook_name
from skylift.cls import Cls
from skylift.decorating import (
    check_class,
    check_function,
    check_name,
    check_schedulable,
    is_generator_function,
)
from skylift.exceptions import InvalidError
from skylift.function import Function
from skylift.image import Image, default_image
from skylift.inside import container_spec
from skylift.options import Serializer, check_options, check_timeout_given, refuse_not_built
from skylift.retries import Retries
from skylift.volume_options import check_volumes

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")

_NOT_BUILT = frozenset(
    {"deploy", "lookup", "stop", "server", "logs", "stats", "set_tags", "get_tags", "sandboxes"}
)


class _AppType(type):
    """Makes ``App.lookup`` and the like say that they are not built yet."""

    def __getattr__(cls, name: str) -> Any:
        if name in _NOT_BUILT:
            _refuse(name)
        raise AttributeError(f"type object 'App' has no attribute {name!r}")


class App(metaclass=_AppType):
    """A group of functions that run in containers.

    In a notebook the app runs from its first call on, and a cell that is run again replaces its functions. In
    a script it runs within ``with app.run():``. `image` is for functions that name none of their own; without
    it they get `Image.from_environment`.
    """

    _skylift_handle = True
    _skylift_travels = None

    def __init__(
        self,
        name: str | None = None,
        *,
        image: Image | None = None,
        secrets: Sequence[Any] = (),
        volumes: Mapping[Any, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        include_source: bool = True,
    ) -> None:
        if name is not None and (not isinstance(name, str) or not name.strip()):
            raise InvalidError(f'App(name={name!r}): a name is text, such as "training"')
        if image is not None and not isinstance(image, Image):
            raise InvalidError(f"App(image={image!r}): a skylift.Image")
        refuse_not_built({"secrets": secrets, "tags": tags, "include_source": include_source})
        self._volumes = check_volumes(volumes or {})
        self._name = name
        self._image = image
        self._functions: dict[str, Function[..., Any]] = {}
        self._classes: dict[str, Cls[Any]] = {}
        self._entrypoints: dict[str, Callable[..., Any]] = {}
        self._runs_now = 0
        self._spawned_ids: list[str] = []
        self._known_as = ""

    @property
    def name(self) -> str | None:
        """The name it was made with."""
        return self._name

    @property
    def registered_functions(self) -> dict[str, Function[..., Any]]:
        """Its functions by name."""
        return dict(self._functions)

    @property
    def registered_classes(self) -> dict[str, Cls[Any]]:
        """Its classes by name."""
        return dict(self._classes)

    @property
    def registered_entrypoints(self) -> dict[str, Callable[..., Any]]:
        """Its local entrypoints by name."""
        return dict(self._entrypoints)

    def function(
        self,
        forgotten: object = None,
        /,
        *,
        image: Image | None = None,
        env: Mapping[str, str | None] | None = None,
        secrets: Sequence[Any] | None = None,
        gpu: str | Sequence[str] | None = None,
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        ephemeral_disk: int | None = None,
        volumes: Mapping[Any, Any] | None = None,
        schedule: Any = None,
        timeout: float = 300,
        startup_timeout: float | None = None,
        retries: int | Retries | None = None,
        name: str | None = None,
        is_generator: bool | None = None,
        serialized: bool = False,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
        cloud: str | None = None,
        region: str | Sequence[str] | None = None,
        zone: str | Sequence[str] | None = None,
        nonpreemptible: bool = False,
        enable_memory_snapshot: bool = False,
        block_network: bool = False,
        single_use_containers: bool = False,
        include_source: bool | None = None,
        experimental_options: Mapping[str, Any] | None = None,
        max_cost: float | None = None,
        checkpoint_every: float | None = None,
        serializer: Serializer = "cloudpickle",
    ) -> Callable[[Callable[P, R]], Function[P, R]]:
        """Makes a function one that runs in containers.

        `gpu`: ``"H100"``, ``"H100:8"``, a list in order of preference, ``"any"``. `cpu`: cores, or a pair
        (reserved, limit). `memory`: MiB, or such a pair. `timeout`: seconds for one call (for one input of a
        map), at most 24 hours. `startup_timeout`: seconds for a container to become ready.
        `retries`: how often a call that raised is tried again. `max_containers`: how many may run at once.
        `scaledown_window`: seconds that an idle container is kept. `serialized`: send the code of a function
        of an imported module too. `serializer`: what pickles the code.

        Raises `InvalidError`, here and not at the call, for anything wrong; parameters whose feature is not
        built yet are refused by name.
        """
        given = {key: value for key, value in locals().items() if key not in ("self", "forgotten")}
        if forgotten is not None:
            raise InvalidError("@app.function needs parentheses: write @app.function()")
        given["volumes"] = self._all_volumes(volumes)
        check_name(name, "function", "train")
        check_timeout_given(timeout)

        def decorate(raw: Callable[P, R]) -> Function[P, R]:
            check_function(raw)
            generator = is_generator_function(raw) if is_generator is None else is_generator
            function_name = name or raw.__qualname__.rpartition("<locals>.")[2]
            if generator and retries is not None:
                raise InvalidError(f"retries= of {function_name}: a generator cannot be retried")
            if schedule is not None:
                check_schedulable(raw, function_name)
            made = Function(self, raw, function_name, check_options(given), generator)
            self._functions[function_name] = made
            self._classes.pop(function_name, None)
            return made

        # Wrong parameters are reported at the decorator's line, also when it is not applied to anything.
        check_options({**given, "schedule": None})
        return decorate

    def cls(
        self,
        forgotten: object = None,
        /,
        *,
        image: Image | None = None,
        env: Mapping[str, str | None] | None = None,
        secrets: Sequence[Any] | None = None,
        gpu: str | Sequence[str] | None = None,
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        ephemeral_disk: int | None = None,
        volumes: Mapping[Any, Any] | None = None,
        timeout: float = 300,
        startup_timeout: float | None = None,
        retries: int | Retries | None = None,
        name: str | None = None,
        serialized: bool = False,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
        cloud: str | None = None,
        region: str | Sequence[str] | None = None,
        zone: str | Sequence[str] | None = None,
        nonpreemptible: bool = False,
        enable_memory_snapshot: bool = False,
        block_network: bool = False,
        single_use_containers: bool = False,
        include_source: bool | None = None,
        experimental_options: Mapping[str, Any] | None = None,
        max_cost: float | None = None,
        checkpoint_every: float | None = None,
        serializer: Serializer = "cloudpickle",
    ) -> Callable[[type[C]], Cls[C]]:
        """Makes a class one whose instances live in containers, with state that is kept between calls.

        Its methods to be called have ``@skylift.method()``; ``@skylift.enter()`` runs once in each container,
        ``@skylift.exit()`` when it ends; ``size: int = skylift.parameter()`` declares what an instance is
        made with. All methods share the containers of their instance. The parameters are those of `function`;
        `timeout` is for one call, the first of which enters the instance; `retries` are for methods that
        return.

        Raises `InvalidError`, here and not at the call, for anything wrong.
        """
        given = {key: value for key, value in locals().items() if key not in ("self", "forgotten")}
        if forgotten is not None:
            raise InvalidError("@app.cls needs parentheses: write @app.cls()")
        given["volumes"] = self._all_volumes(volumes)
        check_name(name, "class", "Model")
        check_timeout_given(timeout)
        options = check_options(given)

        def decorate(raw: type[C]) -> Cls[C]:
            check_class(raw)
            class_name = name or raw.__qualname__.rpartition("<locals>.")[2]
            made = Cls(self, raw, describe_class(raw, class_name), options)
            self._classes[class_name] = made
            self._functions.pop(class_name, None)
            return made

        return decorate

    def local_entrypoint(
        self, forgotten: object = None, /, *, name: str | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Makes a function the one that ``skylift run file.py`` runs here, with the app running."""
        if forgotten is not None:
            raise InvalidError("@app.local_entrypoint needs parentheses: write @app.local_entrypoint()")

        def decorate(raw: Callable[P, R]) -> Callable[P, R]:
            entry_name = name or raw.__name__
            if entry_name in self._entrypoints and not context.in_notebook():
                raise InvalidError(f"the app has a local entrypoint {entry_name!r} already")
            self._entrypoints[entry_name] = raw
            return raw

        return decorate

    def run(self, *, detach: bool = False) -> _Running:
        """While it is open (``with``, ``async with``) the app's functions can be called.

        When it closes, calls that were spawned in it and still run are cancelled, unless `detach` lets them
        go on. In a notebook it is not needed.
        """
        return _Running(self, detach)

    def include(self, other: App, /) -> App:
        """Adds another app's functions and classes to this one; they run when this one runs."""
        for class_name, cls in other._classes.items():
            if self._classes.get(class_name, cls) is not cls:
                raise InvalidError(f"both apps have a class {class_name!r}")
            self._classes[class_name] = cls
            cls._app = self
        for function_name, function in other._functions.items():
            if self._functions.get(function_name, function) is not function:
                raise InvalidError(f"both apps have a function {function_name!r}")
            self._functions[function_name] = function
            function._app = self
        return self

    def __getattr__(self, name: str) -> Any:
        if name in _NOT_BUILT:
            _refuse(name)
        raise AttributeError(f"'App' object has no attribute {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._name, self._image, self._label)

    def __repr__(self) -> str:
        names = ", ".join([*self._functions, *self._classes])
        return f"<skylift.App {self._name or '(unnamed)'}: {names or 'no functions'}>"

    # --- for Function ----------------------------------------------------------------------------

    @property
    def _label(self) -> str:
        """What people see: the name, or that of the notebook or script."""
        if self._name or self._known_as:
            return self._name or self._known_as
        # In a container an app without a name is that of whoever called, which has its name from there.
        inside = container_spec()
        return inside.app if inside is not None else PurePath(notebook_name()).stem or "app"

    def _all_volumes(self, volumes: object) -> dict[str, Any]:
        """Those of the app, and a function's own."""
        return {**self._volumes, **check_volumes({} if volumes is None else volumes)}

    def _default_image(self) -> Image:
        return self._image or default_image()

    def _runs(self) -> bool:
        return self._runs_now > 0 or context.in_notebook() or not context.is_local()

    def _spawned(self, call_id: str) -> None:
        if self._runs_now:
            self._spawned_ids.append(call_id)

    def _start(self) -> None:
        if not self._runs_now:
            _running.append(self)
        self._runs_now += 1
        for function in self._functions.values():
            if function._options.min_containers:
                function._announce()

    def _finish(self, detach: bool) -> None:
        self._runs_now -= 1
        if not self._runs_now:
            _running.remove(self)
        if self._runs_now or detach:
            return
        spawned, self._spawned_ids = self._spawned_ids, []
        if spawned:
            Client.current().cancel_all(spawned, "its app.run() has ended")


class _Running:
    """The context manager of `App.run`, in both kinds."""

    def __init__(self, app: App, detach: bool) -> None:
        self._app = app
        self._detach = detach

    def __enter__(self) -> App:
        self._app._start()
        return self._app

    def __exit__(self, *exc_info: object) -> None:
        self._app._finish(self._detach)

    async def __aenter__(self) -> App:
        return self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__()


def _refuse(name: str) -> NoReturn:
    raise InvalidError(f"App.{name} is not built yet")


_running: list[App] = []
"""Apps within their ``with app.run():``."""


def _restore(name: str | None, image: Image | None, label: str) -> App:
    # A handle that comes back from a container belongs to the app that it was sent from.
    for app in _running:
        if (app._name, app._label) == (name, label):
            return app
    app = App(name, image=image)
    app._known_as = label
    return app
