"""The modules that a function's code imports, for templates of its containers to have imported already.

They are the modules among what it captures, those that captured classes, functions and instances come from,
and those that its ``import`` statements name; and the same of the functions and classes that travel with it.
A handle (a `Function`, a `Cls`) is not followed: what it stands for has containers of its own.
"""

from __future__ import annotations

import dis
import importlib.util
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from importlib.machinery import ModuleSpec, PathFinder
from itertools import islice
from typing import Any

from skylift.captures import captures, is_handle, is_importable, is_missing

_MAX_DEPTH = 3
_MAX_ITEMS = 32
_PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None)})
_NOT_WANTED = sys.stdlib_module_names | {"__main__", "__mp_main__", "skylift", "IPython"}


def imported_modules(raw: Any, *, by_name: bool = False) -> frozenset[str]:
    """The modules that a function or class imports: ``{"numpy", "sklearn.linear_model"}``.

    Without those of the standard library, of Skylift and of IPython, and without those that cannot be found
    here. Imports nothing. `by_name`: its own module is imported to find it.
    """
    search = _Search()
    if by_name:
        search.names.add(raw.__module__)
    if isinstance(raw, (types.FunctionType, type)):
        search.travelling(raw)
    else:
        search.value(raw, 0)
    return known_modules(search.names)


def known_modules(names: Iterable[str]) -> frozenset[str]:
    """Of the names of modules, those that a template may import, cut to what is public of them."""
    return frozenset(name for name in worth_importing(names) if _can_be_imported(name))


def worth_importing(names: Iterable[str]) -> frozenset[str]:
    """The same, with those that cannot be found here."""
    return frozenset(name for name in map(_public, names) if name.partition(".")[0] not in _NOT_WANTED)


class _Search:
    def __init__(self) -> None:
        self.names: set[str] = set()
        self._seen: set[int] = set()

    def value(self, value: Any, depth: int) -> None:
        if type(value) in _PLAIN or is_handle(value) or is_missing(value):
            return
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, types.ModuleType):
            self.names.add(value.__name__)
        elif isinstance(value, (type, types.FunctionType)):
            if is_importable(value):
                self.names.add(value.__module__)
            else:
                self.travelling(value)
        else:
            self._instance(value, depth)

    def travelling(self, value: types.FunctionType | type) -> None:
        """A function or class whose code travels."""
        self._seen.add(id(value))
        if isinstance(value, type):
            for base in value.__bases__:
                self.value(base, 0)
        else:
            self._statements(value.__code__, value.__globals__)
        for capture in captures(value):
            self.value(capture.value, 0)
            if isinstance(value, types.FunctionType) and isinstance(capture.value, types.ModuleType):
                self.names.update(_submodules(capture.value.__name__, value.__code__))

    def _instance(self, value: Any, depth: int) -> None:
        self.value(type(value), depth)
        if isinstance(value, types.BuiltinFunctionType):
            self.names.add(value.__module__ or "builtins")
        if depth < _MAX_DEPTH:
            for part in islice(_parts(value), _MAX_ITEMS):
                self.value(part, depth + 1)

    def _statements(self, code: types.CodeType, namespace: Mapping[str, Any]) -> None:
        for level, name, members in _imports(code):
            absolute = name
            if level:
                try:
                    absolute = importlib.util.resolve_name(
                        "." * level + name, namespace.get("__package__") or ""
                    )
                except ImportError:
                    continue
            self.names.add(absolute)
            # ``from sklearn import linear_model``: what is no module is dropped in the end.
            self.names.update(f"{absolute}.{member}" for member in members)


def _parts(value: Any) -> Iterator[Any]:
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        yield from value
    elif kind is dict:
        yield from value.values()
    elif kind is partial:
        yield value.func
        yield from value.args
        yield from value.keywords.values()
    elif kind is types.MethodType:
        yield value.__func__
        yield value.__self__
    elif not is_importable(kind):
        yield from getattr(value, "__dict__", {}).values()


@lru_cache(maxsize=1024)
def _imports(code: types.CodeType) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    """The import statements in the code and the functions in it: level, module, what is imported from it."""
    found: list[tuple[int, str, tuple[str, ...]]] = []
    arguments: list[Any] = [None, None]
    for instruction in dis.get_instructions(code):
        if instruction.opname == "EXTENDED_ARG":
            continue
        if instruction.opname == "IMPORT_NAME":
            level, members = arguments[-2:]
            names = tuple(name for name in members or () if name != "*")
            found.append((level if isinstance(level, int) else 0, instruction.argval, names))
        arguments.append(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found += _imports(constant)
    return tuple(found)


def _submodules(module: str, code: types.CodeType) -> Iterator[str]:
    """``torch.nn`` where the code has ``torch.nn``, as long as that has been imported here."""
    for name in _attributes(code):
        if f"{module}.{name}" in sys.modules:
            yield f"{module}.{name}"


@lru_cache(maxsize=1024)
def _attributes(code: types.CodeType) -> frozenset[str]:
    inner = [_attributes(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return frozenset(code.co_names).union(*inner)


def _public(name: str) -> str:
    """``sklearn.linear_model`` for ``sklearn.linear_model._base``."""
    first, *rest = name.split(".")
    public = [first]
    for part in rest:
        if part.startswith("_"):
            break
        public.append(part)
    return ".".join(public)


def _can_be_imported(name: str) -> bool:
    """Whether there is such a module. Imports nothing, not even the package that it is in."""
    if name in sys.modules:
        return is_importable(sys.modules[name])
    first, *rest = name.split(".")
    try:
        spec: ModuleSpec | None = importlib.util.find_spec(first)
        path = first
        for part in rest:
            if spec is None or spec.submodule_search_locations is None:
                return False
            path = f"{path}.{part}"
            spec = PathFinder.find_spec(path, spec.submodule_search_locations)
    except Exception:  # a finder of the user's, or a module without a spec
        return False
    return spec is not None
