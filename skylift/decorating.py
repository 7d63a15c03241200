"""Checks of what ``@app.function()`` and ``@app.cls()`` are put above; each error names it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from skylift.class_decorators import mark_of
from skylift.cls import Cls
from skylift.exceptions import InvalidError
from skylift.function import Function


def check_function(raw: Any) -> None:
    """Raises `InvalidError` for what cannot be a function of an app."""
    if isinstance(raw, Function):
        raise InvalidError(f"{raw.__name__} is decorated with @app.function() already")
    if isinstance(raw, (type, Cls)):
        raise InvalidError(f"@app.function() is for functions, and {raw.__name__} is a class; use @app.cls()")
    if isinstance(raw, (staticmethod, classmethod)) or not callable(raw) or not hasattr(raw, "__qualname__"):
        raise InvalidError(f"@app.function() is for functions, not for a {type(raw).__name__}")
    mark = mark_of(raw)
    if mark is not None:
        raise InvalidError(
            f"{raw.__name__} is decorated with @skylift.{mark[0]}(), which is for methods of classes; leave "
            "out @app.function(), and decorate the class with @app.cls()"
        )
    if "." in raw.__qualname__.rpartition("<locals>.")[2] and next(iter(_parameter_names(raw)), "") == "self":
        raise InvalidError(
            f"{raw.__qualname__} is a method, and @app.function() is for functions outside of classes; use "
            "@skylift.method(), and @app.cls() for the class"
        )


def check_class(raw: Any) -> None:
    """Raises `InvalidError` for what cannot be a class of an app."""
    if isinstance(raw, Cls):
        raise InvalidError(f"{raw.__name__} is decorated with @app.cls() already")
    if not isinstance(raw, type):
        kind = "function" if isinstance(raw, Function) or inspect.isfunction(raw) else type(raw).__name__
        hint = "; use @app.function()" if kind == "function" else ""
        raise InvalidError(f"@app.cls() is for classes, not for a {kind}{hint}")


def check_name(name: object, kind: str, example: str) -> None:
    """Raises `InvalidError` for a `name` that is no text."""
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise InvalidError(f'name={name!r}: a {kind}\'s name is text, such as "{example}"')


def _parameter_names(raw: Any) -> tuple[str, ...]:
    code = getattr(raw, "__code__", None)
    return code.co_varnames[: code.co_argcount] if code is not None else ()


def is_generator_function(raw: Callable[..., Any]) -> bool:
    """Whether calling it gives items to iterate over."""
    return inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw)


def check_schedulable(raw: Callable[..., Any], name: str) -> None:
    """Raises `InvalidError` for a function that has required parameters."""
    required = [
        parameter.name
        for parameter in inspect.signature(raw).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if required:
        raise InvalidError(
            f"schedule= of {name}: a scheduled function is called without arguments, and this one requires "
            f"{', '.join(required)}"
        )
