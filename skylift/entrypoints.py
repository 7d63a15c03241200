"""``skylift run file.py::name``: runs a script's local entrypoint here, with its app running."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, get_type_hints

from skylift.app import App
from skylift.context import enable_output
from skylift.exceptions import InvalidError, NotFoundError
from skylift.function import Function

_SIMPLE = {str: str, int: int, float: float}


def run_entrypoint(target: str, arguments: Sequence[str]) -> None:
    """Runs ``file.py`` or ``file.py::name``, with what the command line says for the function's parameters.

    The name is that of a local entrypoint, or of a function of the app, which then runs remotely. Raises
    `NotFoundError` and `InvalidError`, and whatever the function raises.
    """
    path, _, name = target.partition("::")
    module = _load(path)
    app, function = _find(module, path, name)
    kwargs = _parse(function, f"skylift run {target}", arguments)
    with enable_output(), app.run():
        if isinstance(function, Function):
            result = function.remote(**kwargs)
            if result is not None:
                print(result)
        else:
            outcome = function(**kwargs)
            if inspect.iscoroutine(outcome):
                import asyncio

                asyncio.run(outcome)


def _load(path: str) -> ModuleType:
    if not os.path.isfile(path):
        raise NotFoundError(f"there is no file {path}")
    folder, file = os.path.split(os.path.abspath(path))
    name = file.removesuffix(".py")
    sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not name.isidentifier():
        raise InvalidError(f"{path} is no Python file that can be imported")
    module = importlib.util.module_from_spec(spec)
    # Containers import it by this name: its folder is on their path too.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _find(module: ModuleType, path: str, name: str) -> tuple[App, Callable[..., Any]]:
    apps = list(dict.fromkeys(value for value in vars(module).values() if isinstance(value, App)))
    if not apps:
        raise NotFoundError(f"{path} has no skylift.App")
    found: dict[str, tuple[App, Callable[..., Any]]] = {}
    for app in apps:
        found |= {key: (app, function) for key, function in app.registered_functions.items()}
    entrypoints = {
        key: (app, function) for app in apps for key, function in app.registered_entrypoints.items()
    }
    found |= entrypoints
    if not name:
        candidates = entrypoints or found
        if len(candidates) != 1:
            raise InvalidError(f"{path}: say which to run: {', '.join(f'{path}::{key}' for key in found)}")
        return next(iter(candidates.values()))
    if name not in found:
        raise NotFoundError(f"{path} has no {name!r}; it has {', '.join(found) or 'nothing to run'}")
    return found[name]


def _parse(function: Callable[..., Any], program: str, arguments: Sequence[str]) -> dict[str, Any]:
    raw = function._skylift_raw if isinstance(function, Function) else function
    hints = get_type_hints(raw)
    parser = argparse.ArgumentParser(prog=program, description=inspect.getdoc(raw), allow_abbrev=False)
    for parameter in inspect.signature(raw).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InvalidError(f"{program}: *{parameter.name} cannot be given on a command line")
        kind = hints.get(parameter.name, str)
        required = parameter.default is parameter.empty
        options: dict[str, Any] = {"required": required, "dest": parameter.name}
        if not required:
            options["default"] = parameter.default
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif kind in _SIMPLE:
            options["type"] = _SIMPLE[kind]
        else:
            raise InvalidError(
                f"{program}: the parameter {parameter.name} is a {kind!r}; on a command line there are str, "
                "int, float and bool"
            )
        parser.add_argument(f"--{parameter.name.replace('_', '-')}", **options)
    return vars(parser.parse_args(list(arguments)))
