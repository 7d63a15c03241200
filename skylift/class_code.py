"""How an instance of a class travels: as a plain dict that the runner makes it from."""

from __future__ import annotations

import io
import re
import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from blake3 import blake3

from skylift.by_reference import ByReference
from skylift.class_description import ClassDescription
from skylift.function_code import FunctionCode
from skylift.options import Serializer
from skylift.serialization import PROTOCOL

_TRACKER = re.compile("[0-9a-f]{32}")
_KERNEL = re.compile(r"ipykernel_\d+")


class ClassCode(FunctionCode):
    """As `FunctionCode`, for an instance of a class. See `skylift.runtime.runner.service` for the dict."""

    def __init__(
        self,
        raw: type,
        description: ClassDescription,
        parameters: dict[str, Any],
        serializer: Serializer = "cloudpickle",
        by_value: bool = False,
    ) -> None:
        super().__init__(raw, description.name, serializer, by_value)
        self._description = description
        self._parameters = parameters
        self._template = ""

    def _travels(self, raw: Callable[..., Any] | ByReference) -> dict[str, Any]:
        described = self._description
        code = {
            "__skylift_class__": 1,
            "cls": raw,
            "parameters": self._parameters,
            "enter_snap": list(described.enter_snap),
            "enter": list(described.enter),
            "exit": list(described.exit),
            "methods": list(described.methods),
            "template": "",
        }
        code["template"] = self._template = self._template_of(code) if described.enter_snap else ""
        return code

    def _by_value(self) -> bytes:
        file = io.BytesIO()
        pickler = _picklers()[0](file, self.raw)
        pickler.dump(self._travels(self.raw))
        data = file.getvalue()
        # A cell that is run again with the same class makes the same code, and so keeps the instance.
        if pickler.tracker:
            tracker = pickler.tracker.encode()
            data = data.replace(tracker, blake3(data.replace(tracker, b"")).hexdigest(16).encode())
        return data

    def template_code(self) -> str:
        """Of what was pickled last, a hash that the same class has in another kernel too; "" without
        ``enter(snap=True)``.

        Sets of strings among what the class captures are in another order there; a template is then made
        anew.
        """
        return self._template

    def _template_of(self, code: dict[str, Any]) -> str:
        if self._serializer == "dill":
            import dill

            return blake3(dill.dumps(code, protocol=PROTOCOL, recurse=True)).hexdigest(16)
        file = io.BytesIO()
        _picklers()[1](file).dump(code)
        return blake3(file.getvalue()).hexdigest(16)


@lru_cache(maxsize=1)
def _picklers() -> tuple[Any, Any]:
    import cloudpickle

    class ClassPickler(cloudpickle.Pickler):  # type: ignore[misc]
        """Notes the identity that cloudpickle gives the class in this process."""

        def __init__(self, file: io.BytesIO, cls: type) -> None:
            super().__init__(file, protocol=PROTOCOL)
            self.tracker = ""
            self._cls = cls

        def reducer_override(self, value: Any) -> Any:
            reduced = super().reducer_override(value)
            if value is self._cls and isinstance(reduced, tuple):
                self.tracker = next((part for part in reduced[1] if _is_tracker(part)), "")
            return reduced

    class TemplatePickler(cloudpickle.Pickler):  # type: ignore[misc]
        """Leaves out what differs from kernel to kernel. Its pickles are only for hashing."""

        def __init__(self, file: io.BytesIO) -> None:
            super().__init__(file, protocol=PROTOCOL)

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, types.CodeType):
                return tuple, (_code_parts(value),)
            reduced = super().reducer_override(value)
            if isinstance(value, type) and isinstance(reduced, tuple):
                kept = tuple(part for part in reduced[1] if not _is_tracker(part))
                return (reduced[0], kept, *reduced[2:])
            return reduced

    return ClassPickler, TemplatePickler


def _is_tracker(part: Any) -> bool:
    return isinstance(part, str) and _TRACKER.fullmatch(part) is not None


def _in_order(constant: Any) -> Any:
    """A set that is written in the code has another order in each process."""
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant


def _code_parts(code: types.CodeType) -> tuple[Any, ...]:
    return (
        code.co_code,
        tuple(map(_in_order, code.co_consts)),
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_flags,
        code.co_argcount,
        code.co_kwonlyargcount,
        code.co_posonlyargcount,
        code.co_name,
        code.co_firstlineno,
        tuple(code.co_lines()),
        _KERNEL.sub("ipykernel", code.co_filename),
    )
