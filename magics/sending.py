"""What goes to a session before a cell runs: the values of the names that it reads, pickled.

A function of the notebook goes without its globals. It is bound to the session's namespace instead, and
the globals that it reads go as names of their own: so it sees there what it would see here, their current
values.
"""

from __future__ import annotations

import dis
import io
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle  # type: ignore[import-untyped,unused-ignore]

from skylift.exceptions import SerializationError
from skylift.serialization import explain
from skylift.session import Pickled, RemoteRef


@dataclass(frozen=True)
class Reader:
    """Who reads a name: for errors."""

    cell: str
    """``"In[3]"``."""
    function: str = ""
    """The function of the notebook that captured it, or "" for the cell itself."""

    def __str__(self) -> str:
        if self.function:
            return f"The function {self.function}, which Cell {self.cell} uses,"
        return f"Cell {self.cell}"


def captured_values(
    reads: Iterable[str],
    maybe_reads: Iterable[str],
    namespace: dict[str, Any],
    hidden: Mapping[str, Any],
    cell: str,
) -> dict[str, Pickled | RemoteRef]:
    """The values of the names that the notebook has among `reads` and `maybe_reads`, and of what the
    functions in them read in turn.

    `hidden` are IPython's own names (``In``, ``get_ipython``, …): the session has its own of these. Raises
    SerializationError for a value of `reads` that cannot be pickled; of `maybe_reads` such a value is left
    out.
    """
    optional = set(maybe_reads)
    pending = {name: Reader(cell) for name in sorted({*reads, *optional})}
    captured: dict[str, Pickled | RemoteRef] = {}
    while pending:
        name, reader = pending.popitem()
        if name in captured or name not in namespace:
            continue
        value = namespace[name]
        if name.startswith("__") or (name in hidden and hidden[name] is value):
            continue
        if isinstance(value, RemoteRef):
            captured[name] = value
            continue
        try:
            captured[name], functions = pickle_for_session(value, namespace)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if name in optional:
                continue
            raise _cannot_travel(name, value, reader, error) from None
        for global_name, function in functions.items():
            if global_name not in captured:
                pending.setdefault(global_name, Reader(cell, function))
    return dict(sorted(captured.items()))


def pickle_for_session(value: Any, namespace: dict[str, Any]) -> tuple[Pickled, dict[str, str]]:
    """The pickle of a value, and the names that functions in it read from `namespace`, each with the name of
    such a function."""
    buffer = io.BytesIO()
    pickler = _SessionPickler(buffer, namespace)
    pickler.dump(value)
    return Pickled(buffer.getvalue()), pickler.global_names


class _Namespace:
    """Stands for the notebook's namespace in a pickle, and becomes the session's."""

    def __reduce__(self) -> tuple[Any, ...]:
        return vars, (sys.modules["__main__"],)


class _SessionPickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, namespace: dict[str, Any]) -> None:
        super().__init__(file)
        self.global_names: dict[str, str] = {}
        self._namespace = namespace
        # cloudpickle looks here for what a function's globals shall be where it is unpickled.
        self.globals_ref[id(namespace)] = _Namespace()

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if (
            isinstance(obj, types.FunctionType)
            and obj.__globals__ is self._namespace
            and isinstance(reduced, tuple)
        ):
            for name in global_names(obj.__code__):
                self.global_names.setdefault(name, obj.__qualname__)
            slots = reduced[2][1]
            slots["__globals__"] = {}
        return reduced


def global_names(code: types.CodeType) -> set[str]:
    """The globals that a function's code, and the functions inside it, read."""
    names: set[str] = set()
    for inner in _code_objects(code):
        names.update(
            instruction.argval
            for instruction in dis.get_instructions(inner)
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
        )
    return names


def _code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code_objects(constant)


def _cannot_travel(name: str, value: Any, reader: Reader, error: BaseException) -> SerializationError:
    if isinstance(error, SerializationError):
        # A handle inside the value, which says itself what to do.
        return SerializationError(f"{name!r} cannot travel to the session: {error} ({reader} reads it)")
    return SerializationError(
        f"{name!r} cannot travel to the session: {explain(value, error)}. {reader} reads it: make it inside "
        "a %%gpu cell, where it can stay, or pass what is needed to make it"
    )
