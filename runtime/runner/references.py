"""What a session's names are worth to the notebook: their pickles, or references to what stays here."""

from __future__ import annotations

import importlib
import io
import os
import reprlib
import sys
import types
from typing import Any

import cloudpickle  # type: ignore[import-untyped,unused-ignore]

from .pickling import PROTOCOL, find_unpicklable, one_line, type_name

_REPR_LIMIT = 200
_GENERATORS = (types.GeneratorType, types.AsyncGeneratorType, types.CoroutineType)


class NotSent(Exception):  # noqa: N818
    """A value stays in the session. `why` is as in docs/protocol.md."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class References:
    """The values that the notebook holds references to, by their ids. Equal ids mean the same object."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._ids: dict[int, str] = {}
        self._prefix = f"rf-{os.urandom(5).hex()}"
        self._count = 0

    def __contains__(self, ref_id: str) -> bool:
        return ref_id in self._values

    def __getitem__(self, ref_id: str) -> Any:
        return self._values[ref_id]

    def drop(self, ref_id: str) -> None:
        """The notebook holds this one no more."""
        value = self._values.pop(ref_id, None)
        self._ids.pop(id(value), None)

    def describe(self, value: Any, why: str) -> dict[str, Any]:
        """A reference to a value, which is kept until it is dropped."""
        ref_id = self._ids.get(id(value))
        if ref_id is None:
            self._count += 1
            ref_id = f"{self._prefix}-{self._count}"
            self._ids[id(value)] = ref_id
            self._values[ref_id] = value
        return {"id": ref_id, **described(value), "why": why}


def described(value: Any) -> dict[str, Any]:
    """What people want to know of a value: type, module, shape, dtype, device, nbytes, repr."""
    cls = type(value)
    facts: dict[str, Any] = {"type": cls.__qualname__, "module": cls.__module__}
    shape = _attribute(value, "shape")
    if shape is not None and not callable(shape):
        try:
            facts["shape"] = [int(length) for length in shape]
        except Exception:
            del shape
    for name in ("dtype", "device"):
        fact = _attribute(value, name)
        if fact is not None and not callable(fact):
            facts[name] = str(fact)
    nbytes = size_of(value)
    if nbytes is not None:
        facts["nbytes"] = nbytes
    facts["repr"] = _short_repr(value)
    return facts


def _attribute(value: Any, name: str) -> Any:
    """An attribute, unless it is a class's own or raises when it is looked at."""
    if isinstance(value, (type, types.ModuleType)):
        return None
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def size_of(value: Any) -> int | None:
    """Bytes that a value takes where it can tell at once; None where it cannot."""
    if isinstance(value, (bytes, bytearray, str)):
        return len(value)
    nbytes = _attribute(value, "nbytes")
    if isinstance(nbytes, int):
        return nbytes
    usage = _attribute(value, "memory_usage")
    if callable(usage):
        try:
            return int(sum(usage(deep=False))) if hasattr(usage(deep=False), "__iter__") else int(usage())
        except Exception:
            return None
    return None


def _short_repr(value: Any) -> str:
    shortener = reprlib.Repr()
    shortener.maxother = shortener.maxstring = _REPR_LIMIT
    try:
        text = shortener.repr(value)
    except Exception as error:
        text = f"<{type_name(value)}; its repr raises {type(error).__name__}>"
    return text if len(text) <= _REPR_LIMIT else text[: _REPR_LIMIT - 1] + "…"


# --- pickles -------------------------------------------------------------------------------------


def pickle_within(value: Any, limit: int) -> bytes:
    """The pickle of a value, of at most `limit` bytes. Raises `NotSent` saying why it stays here."""
    if isinstance(value, _GENERATORS):
        raise NotSent("generator")
    if (size_of(value) or 0) > limit:
        raise NotSent("size")
    buffer = _BoundedBuffer(limit)
    try:
        SessionPickler(buffer, keep_on_device=True).dump(value)
    except NotSent:
        raise
    except Exception as error:
        raise NotSent(f"unpicklable: {why_not(value, error)}") from None
    return buffer.getvalue()


def pickle_whole(value: Any) -> bytes:
    """The pickle of a value, however large; what lies on a GPU comes as if it lay in memory."""
    buffer = io.BytesIO()
    SessionPickler(buffer, keep_on_device=False).dump(value)
    return buffer.getvalue()


def why_not(value: Any, error: BaseException) -> str:
    """Why a value cannot be pickled, in one line that names the part of it that cannot."""
    path, part = find_unpicklable(value, pickle_whole, tries=50)
    where = "" if part is value else f"{path} is a {type_name(part)}: "
    return where + one_line(error, 200)


class _BoundedBuffer(io.BytesIO):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self._room = limit

    def write(self, data: Any, /) -> int:
        count = super().write(data)
        self._room -= count
        if self._room < 0:
            raise NotSent("size")
        return count


class _Namespace:
    """Pickles as the namespace of the other end's cells."""

    def __reduce__(self) -> Any:
        return vars, (_MAIN,)


class _Main:
    def __reduce__(self) -> Any:
        return importlib.import_module, ("__main__",)


_NAMESPACE = _Namespace()
_MAIN = _Main()


class SessionPickler(cloudpickle.Pickler):  # type: ignore[misc,unused-ignore]
    """Pickles for the notebook, whose ``__main__`` corresponds to this one.

    A function of the cells is pickled with the other end's cells as its globals, and without the values that
    it reads there. `keep_on_device`: raise `NotSent` for a tensor on a GPU, instead of copying it to memory.
    """

    def __init__(self, file: io.BytesIO, *, keep_on_device: bool) -> None:
        super().__init__(file, protocol=PROTOCOL)
        self._keep_on_device = keep_on_device

    def reducer_override(self, value: Any) -> Any:
        if _attribute(value, "is_cuda") is True and callable(_attribute(value, "cpu")):
            if self._keep_on_device:
                raise NotSent("device")
            return _in_memory(value).__reduce_ex__(PROTOCOL)
        reduced = super().reducer_override(value)
        if (
            isinstance(value, types.FunctionType)
            and isinstance(reduced, tuple)
            and value.__globals__ is vars(sys.modules["__main__"])
        ):
            make, (code, _globals, *others), (state, slots), *rest = reduced
            return (make, (code, _NAMESPACE, *others), (state, {**slots, "__globals__": {}}), *rest)
        return reduced


def _in_memory(tensor: Any) -> Any:
    detached = tensor.detach() if hasattr(tensor, "detach") else tensor
    return detached.cpu()
