"""What a function captures: the globals, closure cells, defaults and annotations that travel with it.

Used to find out whether a function's pickle can be used again, and to name the variable that cannot travel.
"""

from __future__ import annotations

import dis
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_ATOMS = frozenset({int, float, complex, str, bytes, bool, type(None), type(Ellipsis), range})
_MISSING: Any = type("Missing", (), {"__repr__": lambda self: "<not defined>"})()


@dataclass(frozen=True)
class Capture:
    """One value that travels with a function."""

    name: str
    """``x``, ``default of x`` or ``annotation of x``, for people."""
    value: Any
    owner: types.FunctionType | type
    """The function that reads it: the decorated one, or one that this one captures; or the class that has
    it."""
    same: Callable[[], bool]
    """Whether the name still has this very value."""

    @property
    def owner_name(self) -> str:
        """``train()``, or ``class Model``."""
        owner = self.owner
        return f"class {owner.__qualname__}" if isinstance(owner, type) else f"{owner.__qualname__}()"


def captures(function: types.FunctionType | type) -> list[Capture]:
    """What `function` itself captures, or a class has in it. A name without a value is in the list too (see
    `is_missing`)."""
    if isinstance(function, type):
        return _captures_of_class(function)
    found: list[Capture] = []
    namespace = function.__globals__
    for name in _global_names(function.__code__):
        value = namespace.get(name, _MISSING)
        found.append(Capture(name, value, function, _same_global(namespace, name, value)))
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        value = _contents(cell)
        found.append(Capture(name, value, function, _same_cell(cell, value)))
    # Defaults and annotations are replaced as a whole where they change at all.
    defaults, kwdefaults = function.__defaults__, function.__kwdefaults__
    parameters = function.__code__.co_varnames[: function.__code__.co_argcount]
    for name, value in zip(reversed(parameters), reversed(defaults or ()), strict=False):
        found.append(Capture(f"default of {name}", value, function, _same_defaults(function, defaults)))
    for name, value in (kwdefaults or {}).items():
        found.append(
            Capture(f"default of {name}", value, function, _same_item(kwdefaults or {}, name, value))
        )
    for name, value in _annotations(function).items():
        found.append(Capture(f"annotation of {name}", value, function, _always))
    for name, value in function.__dict__.items():
        found.append(Capture(f".{name}", value, function, _same_item(function.__dict__, name, value)))
    return found


def all_captures(function: types.FunctionType | type) -> Iterator[Capture]:
    """What `function` captures, and what the functions that travel with it capture, each function once.

    It may be a class: then its methods, and its bases that travel too, are what is looked at.
    """
    seen: set[int] = set()
    stack: list[types.FunctionType | type] = [function]
    while stack:
        current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, type):
            stack += [base for base in current.__bases__ if not is_importable(base)]
        for capture in captures(current):
            if capture.name == "__class__" and id(capture.value) in seen:
                continue  # What super() reads.
            yield capture
            inner = travelling_function(capture.value)
            if inner is not None:
                stack.append(inner)


def travelling_function(value: Any) -> types.FunctionType | type | None:
    """The function in `value` whose code travels: one of the notebook's, bare or decorated; else None.

    Of a decorated class it is the class.
    """
    if is_handle(value):
        travels: types.FunctionType | type | None = value._skylift_travels
        return travels
    if isinstance(value, types.FunctionType) and not is_importable(value):
        return value
    return None


def is_handle(value: Any) -> bool:
    """Whether `value` is a Function, an App or the like, which pickles as what it stands for."""
    return getattr(type(value), "_skylift_handle", False) is True


def is_missing(value: Any) -> bool:
    """Whether a capture's name has no value (it is a builtin, or not defined yet)."""
    return value is _MISSING


def is_importable(value: Any) -> bool:
    """Whether a module, class or function is found by importing it, so that it travels as its name."""
    if isinstance(value, types.ModuleType):
        return value.__name__ in sys.modules and value.__name__ != "__main__" and _has_origin(value)
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    if module is None or module.__name__ == "__main__" or not _has_origin(module):
        return False
    found: Any = module
    for part in getattr(value, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is value


def is_stable(value: Any) -> bool:
    """Whether `value` cannot change, and so has the same pickle next time.

    A function counts as stable: what it captures is looked at by itself.
    """
    kind = type(value)
    if kind in _ATOMS or value is _MISSING:
        return True
    if kind is tuple or kind is frozenset:
        return all(is_stable(item) for item in value)
    if is_handle(value) or travelling_function(value) is not None:
        return True
    if isinstance(value, (types.ModuleType, type, types.FunctionType, types.BuiltinFunctionType)):
        return is_importable(value)
    return kind is re.Pattern


def location(function: types.FunctionType | type) -> str:
    """Where a function is defined, for people: ``Cell In[3], line 4`` or ``train.py, line 4``."""
    if isinstance(function, type):
        inner = next((value for value in vars(function).values() if inspect.isfunction(value)), None)
        return location(inner) if inner is not None else f"module {function.__module__}"
    return place(function.__code__.co_filename, function.__code__.co_firstlineno)


def place(filename: str, line: int) -> str:
    """A file's line, for people; a cell's as IPython shows it."""
    from skylift.context import ipython

    shell = ipython()
    if shell is not None and hasattr(shell.compile, "format_code_name"):
        label = shell.compile.format_code_name(filename)
        if label:
            kind, name = label
            return f"{kind} {name}, line {line}"
    return f"{filename}, line {line}"


@lru_cache(maxsize=1024)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME"):
            names[instruction.argval] = None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(dict.fromkeys(_global_names(constant)))
    return tuple(names)


_OF_EVERY_CLASS = frozenset(
    ["__dict__", "__weakref__", "__annotations__", "__annotations_cache__", "__annotate_func__", "_abc_impl"]
)


def _captures_of_class(cls: type) -> list[Capture]:
    found: list[Capture] = []
    namespace: Mapping[str, Any] = vars(cls)
    for name, value in namespace.items():
        if name in _OF_EVERY_CLASS:
            continue
        same = _same_item(namespace, name, value)
        found += [Capture(f".{name}", inner, cls, same) for inner in _functions_in(value)]
    annotations = _annotations(cls).items()
    return found + [Capture(f"annotation of {name}", value, cls, _always) for name, value in annotations]


def _functions_in(value: Any) -> tuple[Any, ...]:
    """What a class's attribute is made of: the function of a staticmethod, those of a property."""
    if isinstance(value, (staticmethod, classmethod)):
        return (value.__func__,)
    if type(value) is property:
        return (value.fget, value.fset, value.fdel)
    return (value,)


def _annotations(function: types.FunctionType | type) -> dict[str, Any]:
    try:
        if isinstance(function, type):
            return inspect.get_annotations(function)
        return function.__annotations__
    except Exception:  # evaluated lazily from 3.14 on, and free to fail
        return {}


def _has_origin(module: types.ModuleType) -> bool:
    return (
        getattr(module, "__file__", None) is not None
        or module.__name__ in sys.builtin_module_names
        or getattr(module, "__path__", None) is not None
        or getattr(getattr(module, "__spec__", None), "origin", None) == "frozen"
    )


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return _MISSING


def _same_global(namespace: dict[str, Any], name: str, value: Any) -> Callable[[], bool]:
    return lambda: namespace.get(name, _MISSING) is value


def _same_cell(cell: types.CellType, value: Any) -> Callable[[], bool]:
    return lambda: _contents(cell) is value


def _same_defaults(function: types.FunctionType, defaults: Any) -> Callable[[], bool]:
    return lambda: function.__defaults__ is defaults


def _same_item(mapping: Mapping[str, Any], key: str, value: Any) -> Callable[[], bool]:
    return lambda: mapping.get(key, _MISSING) is value


def _always() -> bool:
    return True
