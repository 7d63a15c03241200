"""What marks the parts of a class for ``@app.cls()``: `enter`, `exit`, `method` and `parameter`.

A mark is an attribute of the function, of plain values, so that the class can be unpickled without Skylift.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from skylift.exceptions import InvalidError

F = TypeVar("F", bound=Callable[..., Any])

MARK = "_skylift_mark"
_NO_DEFAULT: Any = type("NoDefault", (), {"__repr__": lambda self: "no default"})()

Mark: TypeAlias = tuple[str, bool]
"""``("enter", snap)``, ``("exit", False)`` or ``("method", is_generator)``."""


class Parameter:
    """What `parameter` leaves in the class until ``@app.cls()`` looks at it."""

    def __init__(self, default: Any, init: bool) -> None:
        self.default = default
        self.init = init

    @property
    def has_default(self) -> bool:
        """Whether a default was given."""
        return self.default is not _NO_DEFAULT


def enter(forgotten: object = None, /, *, snap: bool = False) -> Callable[[F], F]:
    """Makes a method of an ``@app.cls()`` class one that runs once in each container, before its first call.

    With `snap`, before the container's template is frozen: containers that are forked from the template, or
    restored from its snapshot, find it done. So what it makes is in every container alike: no connections,
    no secrets, no GPU. Hooks run in the order in which they are defined, those with `snap` first. A hook may
    be a coroutine function.
    """
    _check_parentheses("enter", forgotten)
    if not isinstance(snap, bool):
        raise InvalidError(f"@skylift.enter(snap={snap!r}): True or False")
    return lambda function: _marked(function, "enter", snap)


def exit(forgotten: object = None, /) -> Callable[[F], F]:  # noqa: A001 (its public name)
    """Makes a method of an ``@app.cls()`` class one that runs when its container ends, for 5 seconds at most.

    Exit hooks run in the order in which they are defined, if the enter hooks have run. A container that is
    killed (out of memory, a machine that is lost) runs none.
    """
    _check_parentheses("exit", forgotten)
    return lambda function: _marked(function, "exit", False)


def method(forgotten: object = None, /, *, is_generator: bool | None = None) -> Callable[[F], F]:
    """Makes a method of an ``@app.cls()`` class one that can be called from elsewhere.

    ``Model().predict.remote(x)`` and so on, as with a function. `is_generator`: whether it is used with
    ``remote_gen``; None looks at the function.
    """
    _check_parentheses("method", forgotten)

    def decorate(function: Any) -> Any:
        generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        return _marked(function, "method", generator if is_generator is None else bool(is_generator))

    return decorate


def parameter(*, default: Any = _NO_DEFAULT, init: bool = True) -> Any:
    """A parameter of an ``@app.cls()`` class: ``size: int = skylift.parameter(default=3)``.

    Its annotation is ``str``, ``int``, ``bool`` or ``bytes``. ``Model(size=4)`` sets it; containers of
    instances with different parameters are different ones. With ``init=False`` it cannot be set there, and is
    an attribute with a type and perhaps a default.
    """
    if not isinstance(init, bool):
        raise InvalidError(f"skylift.parameter(init={init!r}): True or False")
    return Parameter(default, init)


def mark_of(value: Any) -> Mark | None:
    """What `value` was marked as, if it was."""
    mark: Mark | None = getattr(value, MARK, None) if inspect.isfunction(value) else None
    return mark


def _check_parentheses(name: str, forgotten: object) -> None:
    if forgotten is not None:
        raise InvalidError(f"@skylift.{name} needs parentheses: write @skylift.{name}()")


def _marked(function: Any, kind: str, detail: bool) -> Any:
    from skylift.function import Function

    name = getattr(function, "__name__", type(function).__name__)
    if isinstance(function, Function):
        raise InvalidError(
            f"{name} is decorated with both @app.function() and @skylift.{kind}(): leave out "
            "@app.function(), and decorate its class with @app.cls()"
        )
    if isinstance(function, (staticmethod, classmethod)):
        raise InvalidError(
            f"@skylift.{kind}() is for methods with self, and {function.__func__.__name__} is a "
            f"{type(function).__name__}"
        )
    if not inspect.isfunction(function):
        raise InvalidError(f"@skylift.{kind}() is for methods, not for a {type(function).__name__}")
    former = mark_of(function)
    if former is not None:
        raise InvalidError(f"{name} is decorated with both @skylift.{former[0]}() and @skylift.{kind}()")
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise InvalidError(f"{name} is a method and needs a first parameter: def {name}(self)")
    if kind != "method":
        _check_hook(name, kind, parameters[1:], function)
    setattr(function, MARK, (kind, detail))
    return function


def _check_hook(name: str, kind: str, parameters: list[inspect.Parameter], function: Any) -> None:
    required = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if required:
        raise InvalidError(
            f"@skylift.{kind}(): {name} is called without arguments, and requires {', '.join(required)}"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidError(f"@skylift.{kind}(): {name} is a generator; nobody would iterate over it")
