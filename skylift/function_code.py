"""The pickle of a function's code, with what it captures, made anew only when that may have changed."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

from skylift.by_reference import ByReference
from skylift.captures import (
    Capture,
    all_captures,
    is_handle,
    is_missing,
    is_stable,
    location,
    travelling_function,
)
from skylift.exceptions import SerializationError
from skylift.options import Serializer
from skylift.preload import imported_modules
from skylift.serialization import PROTOCOL, dumps, explain, one_line, size_of, warn_large
from skylift.wire import WARN_SIZE


class FunctionCode:
    """How one function travels.

    A function of the notebook or script goes by value, with the values that it captures at the time of the
    call. One of an importable module goes as its name, unless `by_value` says otherwise.
    """

    def __init__(
        self,
        raw: Callable[..., Any],
        name: str,
        serializer: Serializer = "cloudpickle",
        by_value: bool = False,
    ) -> None:
        self.raw = raw
        self.name = name
        self._serializer = serializer
        self._always_by_value = by_value
        self._pickled: bytes | None = None
        self._unchanged: tuple[Callable[[], bool], ...] = ()
        self._warned = False

    def pickled(self) -> bytes:
        """The pickle; the same object as last time if it is known to be the same.

        Raises `SerializationError` naming the captured variable that cannot travel.
        """
        kept = self._pickled
        if kept is not None and all(unchanged() for unchanged in self._unchanged):
            return kept
        data = self._pickle()
        stable = self._stability()
        if stable is None:
            self._pickled = None
        else:
            self._unchanged = stable
            self._pickled = data
        return data

    def _pickle(self) -> bytes:
        reference = self.reference()
        if reference is not None:
            return pickle.dumps(self._travels(reference), PROTOCOL)
        try:
            data = _dill(self._travels(self.raw)) if self._serializer == "dill" else self._by_value()
        except SerializationError:
            raise
        except Exception as error:
            raise self._explain(error) from None
        if len(data) > WARN_SIZE and not self._warned:
            self._warned = True
            self._warn(len(data))
        return data

    def _travels(self, raw: Callable[..., Any] | ByReference) -> Any:
        """What is pickled; `raw` is the function or how to find it."""
        return raw

    def _by_value(self) -> bytes:
        return dumps(self.raw)

    def template_code(self) -> str:
        """See `FunctionSpec.template_code`. Of what was pickled last."""
        return ""

    def preload(self) -> frozenset[str]:
        """The modules that it imports. See `skylift.preload`."""
        return imported_modules(self.raw, by_name=self.reference() is not None)

    def reference(self) -> ByReference | None:
        """The function's name, if that is how it travels."""
        if self._always_by_value:
            return None
        module_name, qualname = self.raw.__module__, self.raw.__qualname__
        module = sys.modules.get(module_name or "")
        if (
            module is None
            or module_name in ("__main__", "__mp_main__")
            or getattr(module, "__file__", None) is None
        ):
            return None
        found: Any = module
        for part in qualname.split("."):
            found = getattr(found, part, None)
        if getattr(found, "_skylift_raw", found) is not self.raw:
            return None
        return ByReference(module_name, qualname)

    def _stability(self) -> tuple[Callable[[], bool], ...] | None:
        """What to look at to know that the pickle is still right; None if looking is not enough."""
        if not isinstance(self.raw, (types.FunctionType, type)):
            return None
        if self.reference() is not None:
            return ()
        checks: list[Callable[[], bool]] = []
        owners: dict[int, types.FunctionType | type] = {id(self.raw): self.raw}
        for capture in all_captures(self.raw):
            if not is_stable(capture.value):
                return None
            checks.append(capture.same)
            if is_handle(capture.value):
                checks.append(_same_image(capture.value))
            owners[id(capture.owner)] = capture.owner
        checks.extend(_same_code(owner) for owner in owners.values())
        return tuple(checks)

    def _explain(self, error: Exception) -> SerializationError:
        if isinstance(self.raw, (types.FunctionType, type)):
            for capture in all_captures(self.raw):
                if is_missing(capture.value) or travelling_function(capture.value) is not None:
                    continue
                try:
                    dumps(capture.value)
                except SerializationError as refused:
                    return _captured(capture, str(refused))
                except Exception as reason:
                    return _captured(capture, explain(capture.value, reason))
        return SerializationError(f"{self.name}() cannot travel to a container: {one_line(error)}")

    def _warn(self, size: int) -> None:
        if not isinstance(self.raw, (types.FunctionType, type)):
            return
        candidates = [
            capture
            for capture in all_captures(self.raw)
            if not is_missing(capture.value) and travelling_function(capture.value) is None
        ]
        if candidates:
            largest = max(candidates, key=lambda capture: size_of(capture.value))
            warn_large(f"{largest.name!r}, which {largest.owner_name.rpartition('.')[2]} captures,", size)


def _captured(capture: Capture, why: str) -> SerializationError:
    return SerializationError(
        f"{capture.name!r}, which {capture.owner_name} captures ({location(capture.owner)}), "
        f"cannot travel to a container: {why}. Make it inside the function, or pass what is needed to make "
        "it as an argument"
    )


def _same_code(function: types.FunctionType | type) -> Callable[[], bool]:
    if isinstance(function, type):
        names = tuple(vars(function))
        return lambda: tuple(vars(function)) == names
    code = function.__code__
    return lambda: function.__code__ is code


def _same_image(handle: Any) -> Callable[[], bool]:
    """For a function's handle, in which its image travels: packages and local modules may change."""
    image = getattr(handle, "_skylift_image", None)
    return lambda: getattr(handle, "_skylift_image", None) is image


def _dill(raw: Any) -> bytes:
    import dill

    # The container loads code with plain pickle, which must find dill's own loader in it.
    return pickle.dumps(_Dilled(dill.dumps(raw, protocol=PROTOCOL, recurse=True)), PROTOCOL)


class _Dilled:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        import dill

        return dill.loads, (self._data,)
