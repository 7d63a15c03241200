"""What ``@app.cls()`` finds in a class: its methods, its hooks and its parameters."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skylift.class_decorators import Parameter, mark_of
from skylift.exceptions import InvalidError

_TYPES: dict[str, type] = {"str": str, "int": int, "bool": bool, "bytes": bytes}
_RECORD = "_skylift_parameters"


@dataclass(frozen=True)
class ParameterDescription:
    """One parameter of a class."""

    name: str
    type: str
    """``"str"``, ``"int"``, ``"bool"`` or ``"bytes"``."""
    has_default: bool
    default: Any
    init: bool
    """Whether the constructor takes it."""


@dataclass(frozen=True)
class ClassDescription:
    """What is known of a class without looking at it again; plain values, which travel in its handles."""

    name: str
    methods: Mapping[str, bool]
    """Whether each is a generator."""
    enter_snap: tuple[str, ...]
    enter: tuple[str, ...]
    exit: tuple[str, ...]
    parameters: tuple[ParameterDescription, ...]

    def values(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of an instance, checked. Raises `InvalidError` naming the one that is wrong."""
        known = {each.name: each for each in self.parameters if each.init}
        if args:
            how = f"{self.name}({', '.join(f'{name}=…' for name in known)})" if known else f"{self.name}()"
            raise InvalidError(f"{self.name}(…): parameters are given by name; write {how}")
        for name in given:
            if name not in known:
                raise InvalidError(self._unknown(name, list(known)))
        values: dict[str, Any] = {}
        for name, each in known.items():
            if name in given:
                values[name] = _checked(given[name], each.type, f"{self.name}({name}={given[name]!r:.80})")
            elif each.has_default:
                values[name] = each.default
            else:
                raise InvalidError(f"{self.name}(): give {name}=…, a parameter of type {each.type}")
        return values

    def nearest(self, name: str) -> str:
        """``"; did you mean 'predict'?"``, or ``""``."""
        near = difflib.get_close_matches(name, self.methods, n=1)
        return f"; did you mean {near[0]!r}?" if near else ""

    def _unknown(self, name: str, known: list[str]) -> str:
        if not known:
            return (
                f"{self.name}({name}=…): the class has no parameters; declare one in it: "
                f"{name}: int = skylift.parameter()"
            )
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{self.name}({name}=…): unknown parameter; {hint}Known: {', '.join(known)}"


def describe_class(cls: type, name: str) -> ClassDescription:
    """Looks at a class, and takes the `parameter` declarations out of it (their defaults take their place).

    Raises `InvalidError` for what cannot be run in a container.
    """
    from skylift.function import Function

    marks: dict[str, tuple[str, bool]] = {}
    for each in _user_classes(cls):
        for attribute, value in vars(each).items():
            if isinstance(value, Function):
                raise InvalidError(
                    f"{each.__name__}.{attribute} is decorated with @app.function(), which is for functions "
                    "outside of classes; use @skylift.method()"
                )
            # What a subclass defines anew counts as it is there; its place in the order stays.
            marks.setdefault(attribute, ("", False))
            marks[attribute] = mark_of(value) or ("", False)
    methods = {each: detail for each, (kind, detail) in marks.items() if kind == "method"}
    if not methods:
        raise InvalidError(
            f"@app.cls(): {name} has no method that could be called; decorate one with @skylift.method()"
        )
    _check_constructor(cls, name)
    return ClassDescription(
        name=name,
        methods=methods,
        enter_snap=tuple(each for each, mark in marks.items() if mark == ("enter", True)),
        enter=tuple(each for each, mark in marks.items() if mark == ("enter", False)),
        exit=tuple(each for each, mark in marks.items() if mark[0] == "exit"),
        parameters=_parameters(cls, methods),
    )


def _user_classes(cls: type) -> list[type]:
    """The class and its bases, the bases first."""
    return [each for each in reversed(cls.__mro__) if each is not object]


def _check_constructor(cls: type, name: str) -> None:
    constructor: Any = getattr(cls, "__init__")  # noqa: B009 (mypy has reasons against the other way)
    if constructor is object.__init__:
        return
    try:
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
    except (TypeError, ValueError):
        return
    takes = [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    if takes:
        raise InvalidError(
            f"@app.cls(): {name}.__init__ takes {', '.join(takes)}. Instances are made in containers, from "
            f"parameters that the class declares: {takes[0]}: int = skylift.parameter()"
        )


def _parameters(cls: type, methods: Mapping[str, bool]) -> tuple[ParameterDescription, ...]:
    found: dict[str, ParameterDescription] = {}
    for each in _user_classes(cls):
        _take_out(each)
        for attribute in vars(each):
            found.pop(attribute, None)
        for record in vars(each).get(_RECORD, ()):
            described = ParameterDescription(*record)
            found[described.name] = described
    for name in found:
        if name in methods or name.startswith("__"):
            raise InvalidError(f"{cls.__name__}.{name}: a parameter needs another name")
    return tuple(found.values())


def _take_out(cls: type) -> None:
    """Replaces the declarations of `cls` itself by their defaults, and notes them for its subclasses."""
    declared = {name: value for name, value in vars(cls).items() if isinstance(value, Parameter)}
    if not declared:
        return
    annotations = _annotations(cls)
    records = []
    for name, value in declared.items():
        kind = _type_name(f"{cls.__name__}.{name}", name, annotations.get(name))
        default = None
        if value.has_default:
            default = _checked(value.default, kind, f"{cls.__name__}.{name}: default={value.default!r:.80}")
        elif not value.init:
            default = None
        records.append((name, kind, value.has_default, default, value.init))
    for name, _kind, has_default, default, _init in records:
        if has_default:
            setattr(cls, name, default)
        else:
            delattr(cls, name)
    setattr(cls, _RECORD, tuple(records))


def _annotations(cls: type) -> dict[str, Any]:
    try:
        return inspect.get_annotations(cls)
    except NameError:  # evaluated lazily from 3.14 on
        import annotationlib  # type: ignore[import-not-found,unused-ignore]

        found: dict[str, Any] = annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
        return found


def _type_name(what: str, name: str, annotation: Any) -> str:
    if annotation is None:
        raise InvalidError(
            f"{what}: a parameter needs an annotation with its type: {name}: int = skylift.parameter(…)"
        )
    for kind, its_type in _TYPES.items():
        if annotation is its_type or annotation == kind:
            return kind
    shown = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", repr(annotation))
    raise InvalidError(f"{what}: a parameter is a {', '.join(_TYPES)}, not a {shown}")


def _checked(value: Any, kind: str, what: str) -> Any:
    if type(value) is not _TYPES[kind]:
        raise InvalidError(f"{what}: its type is {kind}, and this is of type {type(value).__name__}")
    return value
