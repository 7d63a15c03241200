"""Classes whose instances live in containers: what ``@app.cls()`` makes."""

from __future__ import annotations

import asyncio
import inspect
import threading
import types
from collections import OrderedDict
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import msgspec
from blake3 import blake3

from skylift.class_code import ClassCode
from skylift.class_description import ClassDescription
from skylift.exceptions import InvalidError
from skylift.function import Function
from skylift.function_definition import Definition
from skylift.image import Image
from skylift.options import FunctionOptions, check_options
from skylift.retries import Retries
from skylift.serialization import dumps_call

if TYPE_CHECKING:
    from skylift.app import App

C = TypeVar("C")

_KEPT_INSTANCES = 128
_CALLS = ("remote", "remote_gen", "map", "starmap", "for_each", "spawn", "local")
_NOT_BUILT = ("with_concurrency", "with_batching", "hydrate", "update_autoscaler")


class _NotOnTheClassError(InvalidError, AttributeError):
    """For what only instances have. An AttributeError too, for those that look whether it is there."""


class Cls(Generic[C]):
    """A class whose instances live in containers. ``@app.cls()`` makes one.

    ``Model(size=3)`` describes an instance; ``Model(size=3).predict.remote(x)`` calls its method in a
    container that has such an instance, and has run its ``enter`` hooks once.
    """

    _skylift_handle = True

    def __init__(
        self, app: App, raw: type[C], description: ClassDescription, options: FunctionOptions
    ) -> None:
        self._restore(app, raw, description, options)

    def _restore(self, app: App, raw: Any, description: ClassDescription, options: FunctionOptions) -> None:
        self._app = app
        self._skylift_raw = raw
        self._description = description
        self._options = options
        self._made: OrderedDict[str, tuple[ClassCode, Definition]] = OrderedDict()
        self.__name__ = description.name
        self.__doc__ = getattr(raw, "__doc__", None)
        self.__module__ = getattr(raw, "__module__", "")
        self.__wrapped__ = raw

    def __call__(self, *args: Any, **kwargs: Any) -> Obj:
        """An instance with these parameters. Raises `InvalidError` naming the one that is wrong."""
        return Obj(self, self._description.values(args, kwargs))

    def with_options(
        self,
        *,
        gpu: str | Sequence[str] | None = None,
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        env: Mapping[str, str | None] | None = None,
        secrets: Sequence[Any] | None = None,
        volumes: Mapping[Any, Any] | None = None,
        retries: int | Retries | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
        timeout: float | None = None,
        region: str | Sequence[str] | None = None,
        zone: str | None = None,
        cloud: str | None = None,
    ) -> Cls[C]:
        """The same class with some parameters of ``@app.cls()`` changed; it has containers of its own."""
        given = {name: value for name, value in locals().items() if name != "self"}
        return Cls(self._app, self._skylift_raw, self._description, check_options(given, self._options))

    @staticmethod
    def from_name(app_name: str, name: str, *, version: int | None = None) -> NoReturn:
        """Not built yet. Raises `InvalidError`."""
        raise InvalidError("Cls.from_name is not built yet: apps cannot be deployed yet")

    def __getattr__(self, name: str) -> Any:
        if name in _NOT_BUILT:
            raise InvalidError(f"Cls.{name} is not built yet")
        description = self.__dict__.get("_description")
        if description is None or name.startswith("__"):
            raise AttributeError(f"'Cls' object has no attribute {name!r}")
        instance = f"{description.name}(…)" if description.parameters else f"{description.name}()"
        if name in description.methods:
            raise _NotOnTheClassError(
                f"{description.name}.{name} is called on an instance: write {instance}.{name}"
            )
        if name in _CALLS:
            method = next(iter(description.methods))
            raise _NotOnTheClassError(
                f"{description.name} is a class and has no {name}; its methods have: write "
                f"{instance}.{method}.{name}(…)"
            )
        raise AttributeError(f"{description.name} has no attribute {name!r}{description.nearest(name)}")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        raise InvalidError(
            f"{self.__name__} is decorated with @app.cls() and cannot be subclassed; put what the classes "
            "share into a class without the decorator"
        )

    def __repr__(self) -> str:
        return f"<skylift.Cls {self.__name__} of app {self._app.name or '(unnamed)'}>"

    # --- handles in closures, arguments and results ----------------------------------------------

    @property
    def _skylift_travels(self) -> type | None:
        """The class whose code goes along when this handle is pickled."""
        raw = self._skylift_raw
        return raw if isinstance(raw, type) and self._code({}).reference() is None else None

    @property
    def _skylift_image(self) -> object:
        """What goes along as its image: the same object as long as that is the same."""
        return self._image()._latest()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "app": self._app,
            "raw": self._code({}).reference() or self._skylift_raw,
            "description": self._description,
            "options": self._options,
            "image": self._image(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        from dataclasses import replace

        options = replace(state["options"], image=state["image"])
        self._restore(state["app"], state["raw"], state["description"], options)

    # --- for Obj ---------------------------------------------------------------------------------

    def _image(self) -> Image:
        return self._options.image or self._app._default_image()

    def _code(self, parameters: dict[str, Any]) -> ClassCode:
        options = self._options
        return ClassCode(
            self._skylift_raw, self._description, parameters, options.serializer, options.by_value
        )

    def _definition(self, parameters: dict[str, Any]) -> Definition:
        """That of all instances with these parameters; they share their containers."""
        key = blake3(msgspec.msgpack.encode(sorted(parameters.items()))).hexdigest(16) if parameters else ""
        kept = self._made.get(key)
        if kept is None:
            code = self._code(parameters)
            kept = (code, Definition(self._app._label, self.__name__, self._options, code, False, key))
            self._made[key] = kept
            while len(self._made) > _KEPT_INSTANCES:
                self._made.popitem(last=False)
        return kept[1]


class Obj:
    """An instance of an ``@app.cls()`` class: its methods are called like functions.

    Its parameters can be read. What else the class has is looked up in an instance of this process, which is
    made, and whose ``enter`` hooks run, when it is first needed: by ``.local`` too.
    """

    _skylift_handle = True

    def __init__(self, cls: Cls[Any], parameters: dict[str, Any]) -> None:
        self.__setstate__({"cls": cls, "parameters": parameters})

    def __getstate__(self) -> dict[str, Any]:
        return {"cls": self._cls, "parameters": self._parameters}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._cls: Cls[Any] = state["cls"]
        self._parameters: dict[str, Any] = state["parameters"]
        self._methods: dict[str, Method] = {}
        self._here = _LocalInstance(self._cls, self._parameters)

    def __getattr__(self, name: str) -> Any:
        cls = self.__dict__.get("_cls")
        if cls is None or name.startswith("_"):
            raise AttributeError(name)
        description: ClassDescription = cls._description
        if name in description.methods:
            method = self._methods.get(name)
            if method is None:
                method = self._methods[name] = Method(self, name)
            return method
        if name in self._parameters:
            return self._parameters[name]
        if not hasattr(cls._skylift_raw, name) and not self._here.has(name):
            raise AttributeError(
                f"{description.name} has no method or parameter {name!r}{description.nearest(name)}"
            )
        return getattr(self._here.get(), name)

    def __dir__(self) -> list[str]:
        return [*self._cls._description.methods, *self._parameters]

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r:.40}" for name, value in self._parameters.items())
        return f"<skylift.Obj {self._cls.__name__}({given})>"

    @property
    def _skylift_travels(self) -> type | None:
        return self._cls._skylift_travels

    @property
    def _skylift_image(self) -> object:
        return self._cls._skylift_image


class _LocalInstance:
    """The instance of this process, made when it is first needed."""

    def __init__(self, cls: Cls[Any], parameters: dict[str, Any]) -> None:
        self._cls = cls
        self._parameters = parameters
        self._instance: Any = None
        self._entered = 0
        self._lock = threading.RLock()

    def has(self, name: str) -> bool:
        """Whether the instance is there and has such an attribute."""
        return self._instance is not None and hasattr(self._instance, name)

    def get(self) -> Any:
        """The instance, entered. Raises what its hooks raise; the next time goes on with that hook."""
        description = self._cls._description
        hooks = (*description.enter_snap, *description.enter)
        with self._lock:
            if self._instance is None:
                raw = self._cls._skylift_raw
                made = raw.__new__(raw)
                for name, value in self._parameters.items():
                    setattr(made, name, value)
                made.__init__()
                self._instance = made
            while self._entered < len(hooks):
                value = getattr(self._instance, hooks[self._entered])()
                if inspect.isawaitable(value):
                    _wait_for(value)
                self._entered += 1
            return self._instance


class Method(Function[..., Any]):
    """A method of an instance: a `Function` whose calls go to the containers that have the instance."""

    def __init__(self, instance: Obj, method: str) -> None:
        cls = instance._cls
        self.__setstate__(
            {
                "instance": instance,
                "method": method,
                "app": cls._app,
                "name": f"{cls.__name__}.{method}",
                "is_generator": cls._description.methods[method],
            }
        )
        raw = getattr(cls._skylift_raw, method)
        self.__doc__ = getattr(raw, "__doc__", None)
        self.__module__ = cls.__module__
        self.__wrapped__ = self._like()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "instance": self._instance,
            "method": self._method,
            "app": self._app,
            "name": self._name,
            "is_generator": self._is_generator,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._instance: Obj = state["instance"]
        self._method: str = state["method"]
        self._app = state["app"]
        self._name = self.__name__ = state["name"]
        self._is_generator = state["is_generator"]

    def local(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the method here, on an instance of this process whose ``enter`` hooks have run."""
        return getattr(self._instance._here.get(), self._method)(*args, **kwargs)

    def with_options(self, **changes: Any) -> NoReturn:
        """Raises `InvalidError`: the methods of an instance share its containers."""
        name = self._instance._cls.__name__
        raise InvalidError(
            f"{self._name}.with_options(): the methods of an instance share its containers; write "
            f"{name}.with_options(…)(…).{self._method}"
        )

    def __repr__(self) -> str:
        return f"<skylift.Method {self._name} of app {self._app.name or '(unnamed)'}>"

    @property
    def _skylift_travels(self) -> type | None:
        return self._instance._skylift_travels

    def _like(self) -> Any:
        raw = getattr(self._instance._cls._skylift_raw, self._method, None)
        # As a bound method, tools show it without self.
        return types.MethodType(raw, self._instance) if isinstance(raw, types.FunctionType) else None

    def _dump(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        raw = getattr(self._instance._cls._skylift_raw, self._method)
        # Positions stay as they are: the method's name has the place of self.
        return dumps_call((self._method, *args), kwargs, self._name, raw)

    def _defined_by(self) -> Definition:
        return self._instance._cls._definition(self._instance._parameters)

    def _image(self) -> Image:
        return self._instance._cls._image()


def _wait_for(awaitable: Awaitable[Any]) -> None:
    async def waiting() -> None:
        await awaitable

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(waiting())
        return
    # A notebook's loop runs in this very thread.
    failures: list[BaseException] = []

    def elsewhere() -> None:
        try:
            asyncio.run(waiting())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
