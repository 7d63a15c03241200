"""``with image.imports():`` notes the modules that are imported in it, and lets those be missing here."""

from __future__ import annotations

import builtins
import pkgutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn

from skylift.preload import known_modules

_lock = threading.Lock()
_open_blocks = 0
_installed = False
_original: Callable[..., Any] = builtins.__import__


class _Blocks(threading.local):
    """The blocks that are open in this thread, the innermost last."""

    def __init__(self) -> None:
        self.open: list[Imports] = []


_blocks = _Blocks()


class Imports:
    """The block. `note` is given names of modules, such as ``["torch"]``, by each statement in it."""

    def __init__(self, note: Callable[[list[str]], None]) -> None:
        self._note = note
        self._namespace: Mapping[str, Any] | None = None

    def __enter__(self) -> None:
        self._namespace = sys._getframe(1).f_globals
        _blocks.open.append(self)
        _hook()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> bool:
        _unhook()
        _blocks.open.remove(self)
        return isinstance(error, ImportError)

    def _import(
        self,
        name: str,
        namespace: Mapping[str, Any] | None,
        names: Mapping[str, Any] | None,
        members: Sequence[str] | None,
        level: int,
    ) -> Any:
        if namespace is not self._namespace or level:
            # What a module that is imported here imports in turn.
            return _original(name, namespace, names, members or (), level)
        # Of ``from x import y`` it can be said only where x is whether y is a module.
        self._note([name, *known_modules(f"{name}.{member}" for member in members or () if member != "*")])
        try:
            return _original(name, namespace, names, members or (), level)
        except ImportError:
            if members:
                if "*" in members:
                    raise
                return MissingModule(name)
            package = name.partition(".")[0]
            return sys.modules.get(package) or MissingModule(package)


class MissingModule:
    """Stands for a module, or something in it, that is not installed here. In the image it is what it is.

    It can be named in functions, which find the module where they run. Any use here raises ImportError.
    """

    def __init__(self, path: str) -> None:
        self.__dict__["_path"] = path

    def __getattr__(self, name: str) -> MissingModule:
        if name.startswith("__"):
            raise AttributeError(name)
        return MissingModule(f"{self._path}.{name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return pkgutil.resolve_name, (self._path,)

    def __repr__(self) -> str:
        return f"<{self._path}: not installed here>"

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        module = str(self._path).partition(".")[0]
        raise ImportError(
            f"{module} is not installed here, where {self._path} is used; it was imported in "
            "`with image.imports():`, so use it only in functions that run in that image",
            name=module,
        )

    __call__ = __iter__ = __len__ = __getitem__ = __setattr__ = __mro_entries__ = __enter__ = _refuse


def _hook() -> None:
    global _open_blocks, _installed, _original
    with _lock:
        if not _installed:
            _original = builtins.__import__
            builtins.__import__ = _import
            _installed = True
        _open_blocks += 1


def _unhook() -> None:
    global _open_blocks, _installed
    with _lock:
        _open_blocks -= 1
        # Somebody who has put another function there meanwhile calls ours; then it stays, and does nothing.
        if not _open_blocks and builtins.__import__ is _import:
            builtins.__import__ = _original
            _installed = False


def _import(
    name: str,
    globals: Mapping[str, Any] | None = None,  # noqa: A002 (as in the builtin)
    locals: Mapping[str, Any] | None = None,  # noqa: A002
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    if _blocks.open:
        return _blocks.open[-1]._import(name, globals, locals, fromlist, level)
    return _original(name, globals, locals, fromlist or (), level)
