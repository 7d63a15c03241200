"""Which modules of code that is to run elsewhere are not installed: they have to go along."""

from __future__ import annotations

import importlib.util
import os
import pickletools
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from skylift.captures import is_handle
from skylift.environment import installed_folders

_LARGEST = 8 * 1024 * 1024
"""Bytes. A larger pickle is mostly data, and is not looked through."""

_NOT_TRAVELLING = frozenset({"cloudpickle", "__main__", "__mp_main__", "builtins"})
SDK = "skylift"
"""Goes along wherever code names it, installed or not: images do not have it."""


def named_in(pickled: bytes) -> frozenset[str]:
    """The modules that a pickle names."""
    if len(pickled) > _LARGEST:
        return frozenset()
    found: set[str] = set()
    # STACK_GLOBAL takes the last two of the stack, which are strings, or come from the memo.
    pushed: list[str] = ["", ""]
    memo: dict[int, str] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        kind = opcode.name
        if kind == "GLOBAL":
            found.add(str(argument).partition(" ")[0])
        elif kind == "STACK_GLOBAL":
            found.add(pushed[-2])
        elif kind == "MEMOIZE":
            memo[len(memo)] = pushed[-1]
            continue
        elif kind in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(argument or 0)] = pushed[-1]
            continue
        text = argument if "UNICODE" in kind else memo.get(argument or 0) if "GET" in kind else None
        pushed = [pushed[-1], text if isinstance(text, str) else ""]
    return frozenset(found - {""})


def in_notebook() -> frozenset[str]:
    """The modules of what the notebook or script has in its variables."""
    main = sys.modules["__main__"]
    names = frozenset(name for name in _referred(main) if name.partition(".")[0] != SDK)
    return names | {SDK} if any(is_handle(value) for value in list(vars(main).values())) else names


def local_modules(names: Iterable[str]) -> tuple[str, ...]:
    """Of these modules, and of those that they import, the ones that are not installed: the names of their
    top-level packages, sorted."""
    found: set[str] = set()
    todo = [name.partition(".")[0] for name in names]
    while todo:
        name = todo.pop()
        if name == SDK:
            found.add(name)
        if name in found or not _is_local(name):
            continue
        found.add(name)
        for loaded in list(sys.modules):
            if loaded == name or loaded.startswith(name + "."):
                module = sys.modules.get(loaded)
                if isinstance(module, types.ModuleType):
                    todo += [referred.partition(".")[0] for referred in _referred(module)]
    return tuple(sorted(found))


def _referred(module: types.ModuleType) -> Iterator[str]:
    for value in list(vars(module).values()):
        if isinstance(value, types.ModuleType):
            yield value.__name__
        else:
            name = (
                getattr(value, "__module__", None) if isinstance(value, (type, types.FunctionType)) else None
            )
            if isinstance(name, str):
                yield name


def _is_local(name: str) -> bool:
    if not name.isidentifier() or name in _NOT_TRAVELLING or name in sys.stdlib_module_names:
        return False
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: a module that was made by hand
        return False
    if spec is None:
        return False
    places = list(spec.submodule_search_locations or ()) or [spec.origin or ""]
    found = all(place.endswith(".py") or os.path.isdir(place) for place in places)
    return found and not any(_installed(place) for place in places)


def _installed(place: str) -> bool:
    real = os.path.realpath(place)
    return any(Path(real).is_relative_to(folder) for folder in _installed_folders())


@lru_cache(maxsize=1)
def _installed_folders() -> tuple[str, ...]:
    standard = sysconfig.get_paths()
    folders = {
        *installed_folders(),
        *(standard[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    }
    return tuple(os.path.realpath(folder) for folder in folders)
