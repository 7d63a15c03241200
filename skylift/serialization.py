"""Pickles of arguments, and values from the pickles that come back."""

from __future__ import annotations

import inspect
import pickle
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

from skylift.exceptions import DeserializationError, SerializationError
from skylift.wire import WARN_SIZE

PROTOCOL = 5
_PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None)})
_MAX_DEPTH = 4


def dumps(value: Any) -> bytes:
    """The pickle of any value; functions and classes of the notebook or script go by value.

    Raises whatever pickling raises; `explain` turns that into an error that people can act on.
    """
    import cloudpickle

    data: bytes = cloudpickle.dumps(value, protocol=PROTOCOL)
    return data


def dumps_call(args: tuple[Any, ...], kwargs: dict[str, Any], name: str, raw: Any = None) -> bytes:
    """The pickle of one call's arguments. `name` is the function's, `raw` the function itself, if known.

    Warns when it is over 100 MB. Raises `SerializationError` naming the argument that cannot travel.
    """
    if not kwargs and all(type(arg) in _PLAIN for arg in args):
        data = pickle.dumps((args, kwargs), PROTOCOL)
    else:
        try:
            data = dumps((args, kwargs))
        except SerializationError:
            raise
        except Exception as error:
            raise _explain_arguments(args, kwargs, name, raw, error) from None
    if len(data) > WARN_SIZE:
        largest = max(_named_arguments(args, kwargs, raw), key=lambda named: size_of(named[1]))[0]
        warn_large(f"argument {largest!r} of {name}()", len(data))
    return data


def loads(data: bytes, what: str) -> Any:
    """The value of a pickle that came from a container. `what` says what it is: ``the result of train()``.

    Raises `DeserializationError` when it cannot be loaded here, naming the package that lacks.
    """
    try:
        return pickle.loads(data)
    except ModuleNotFoundError as error:
        raise DeserializationError(
            f"{what} cannot be loaded here: there is no module {error.name!r}. "
            f"Install it here, or return a value that does not need it"
        ) from error
    except Exception as error:
        raise DeserializationError(
            f"{what} cannot be loaded here: {type(error).__name__}: {error}"
        ) from error


def explain(value: Any, error: BaseException) -> str:
    """Why `value` cannot travel, with the part of it that is at fault: ``.client.lock is a _thread.lock``."""
    path, culprit, reason = _find_culprit(value, error)
    kind = type_name(culprit)
    subject = f"its part {path}, a {kind}," if path else f"a {kind}"
    return f"{subject} cannot be pickled ({one_line(reason)})"


def type_name(value: Any) -> str:
    """A value's type as people write it: ``int``, ``torch.Tensor``."""
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ in ("builtins", "__main__")
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def one_line(error: BaseException) -> str:
    """An error's text on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def size_of(value: Any) -> int:
    """About how many bytes the pickle of a value takes."""
    nbytes = getattr(value, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    if isinstance(value, (bytes, bytearray, str)):
        return len(value)
    try:
        return len(dumps(value))
    except Exception:
        return 0


def warn_large(what: str, size: int) -> None:
    """Warns, at the user's line that called us, of a payload that takes long to send."""
    depth, frame = 1, sys._getframe()
    package = __name__.partition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame = frame.f_back
        depth += 1
    warnings.warn(
        f"{what} takes {size / 1e6:,.0f} MB to send. It goes once, and again only when it has changed; "
        "data that the function loads by itself need not travel",
        UserWarning,
        stacklevel=depth,
    )


def _explain_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], name: str, raw: Any, error: BaseException
) -> SerializationError:
    for label, value in _named_arguments(args, kwargs, raw):
        try:
            dumps(value)
        except SerializationError as refused:  # noqa: PERF203
            return refused
        except Exception as reason:
            return SerializationError(
                f"argument {label!r} of {name}() cannot travel to a container: {explain(value, reason)}. "
                "Pass what is needed to make it, and make it inside the function"
            )
    return SerializationError(f"the arguments of {name}() cannot travel to a container: {one_line(error)}")


def _named_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], raw: Any) -> Iterator[tuple[str, Any]]:
    names: list[str] = []
    if isinstance(raw, types.FunctionType):
        names = [
            parameter.name
            for parameter in inspect.signature(raw).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
    for position, value in enumerate(args):
        yield (names[position] if position < len(names) else f"#{position + 1}"), value
    yield from kwargs.items()


def _find_culprit(value: Any, error: BaseException) -> tuple[str, Any, BaseException]:
    path = ""
    for _ in range(_MAX_DEPTH):
        for step, part in _parts(value):
            try:
                dumps(part)
            except Exception as reason:  # noqa: PERF203
                path, value, error = path + step, part, reason
                break
        else:
            break
    return path, value, error


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif not isinstance(value, (type, types.ModuleType, types.FunctionType)):
        state = getattr(value, "__dict__", None)
        if isinstance(state, dict):
            yield from ((f".{name}", item) for name, item in list(state.items()))
