"""Values to bytes and back, and what to tell people when that fails."""

from __future__ import annotations

import contextlib
import pickle
import platform
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

PROTOCOL = 5


class RunnerError(Exception):
    """An error of ours that fails a call. `name`: its class in `skylift.exceptions`."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def import_cloudpickle() -> None:
    """Imports cloudpickle where there is one, at a time when nothing can interrupt that halfway."""
    if "cloudpickle" not in sys.modules:
        with contextlib.suppress(ImportError):
            import cloudpickle  # noqa: F401


def by_value(value: Any) -> bytes:
    """The pickle of a value, with what cannot be imported at the other end by value. Raises whatever pickling
    raises."""
    import cloudpickle  # type: ignore[import-untyped,unused-ignore]

    data: bytes = cloudpickle.dumps(value, protocol=PROTOCOL)
    return data


def dumps(value: Any) -> bytes:
    """The pickle of a value: by the C pickler where that is enough, which is far quicker."""
    try:
        return pickle.dumps(value, PROTOCOL)
    except Exception:
        return by_value(value)


def dumps_result(value: Any, function: str, what: str = "returned") -> bytes:
    """The pickle of what `function` returned (or yielded). Raises `RunnerError` naming the function and the
    value."""
    try:
        return dumps(value)
    except Exception as error:
        raise RunnerError("SerializationError", unpicklable_message(value, function, what, error)) from error


def unpicklable_message(value: Any, function: str, what: str, error: BaseException) -> str:
    """Names the part of a value that cannot be pickled."""
    path, part = find_unpicklable(value, by_value)
    subject = f"{function} {what} a value of type {type_name(value)}"
    if part is not value:
        subject += f" with {path} of type {type_name(part)}"
    hint = "Return plain data, arrays or a path in a volume instead."
    if isinstance(part, Iterator):
        hint = "To send its items as they come, make the function a generator and call it with remote_gen()."
    return f"{subject}, which cannot be sent: {one_line(error)}. {hint}"


def find_unpicklable(value: Any, pickler: Callable[[Any], bytes], tries: int = 200) -> tuple[str, Any]:
    """The innermost part of a value that cannot be pickled, and the path to it (``value["model"].lock``)."""
    path, part = "value", value
    for _ in range(8):
        for step, child in _parts(part):
            tries -= 1
            if tries < 0:
                return path, part
            try:
                pickler(child)
            except Exception:
                path, part = path + step, child
                break
        else:
            return path, part
    return path, part


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"[{key!r:.40}]", item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, type):
        for name, item in vars(value).items():
            yield f".{name}", item


def type_name(value: Any) -> str:
    """``"torch.Tensor"``; without the module where it says nothing."""
    cls = type(value)
    if cls.__module__ in ("builtins", "__main__"):
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def one_line(error: BaseException, limit: int = 300) -> str:
    """The exception in one line, such as ``"ValueError: no such column"``."""
    try:
        message = " ".join(str(error).split())
    except Exception:
        message = "(its text cannot be made)"
    name = type(error).__qualname__
    line = f"{name}: {message}" if message else name
    return line if len(line) <= limit else line[: limit - 1] + "…"


def loads(data: bytes | memoryview, what: str) -> Any:
    """The value of a pickle. Raises `RunnerError` (DeserializationError) saying what is missing here; `what`
    names the value: ``"the arguments of train"``."""
    try:
        return pickle.loads(data)
    except Exception as error:
        raise RunnerError(
            "DeserializationError", f"{what} cannot be unpickled in the container: {_why(error)}"
        ) from error


_NO_ATTRIBUTE = re.compile(r"Can't get attribute '(?P<name>[^']+)' on <module '(?P<module>[^']+)'")


def _why(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"there is no module {error.name!r} in the container. Install its package in the image, or keep "
            "your own module beside the notebook, so that it travels with it."
        )
    if isinstance(error, AttributeError) and (found := _NO_ATTRIBUTE.search(str(error))):
        name, module = found["name"], found["module"]
        if module == "__main__":
            return (
                f"{name!r} is looked up in __main__ and is not there. Define it in the notebook or script "
                "that makes the call."
            )
        version = _version(module)
        return (
            f"module {module!r}{version} has no {name!r} in the container, which has another version of it "
            "than the notebook: install the same one in both."
        )
    text = one_line(error)
    if "code" in text and isinstance(error, (TypeError, ValueError, SystemError)):
        return (
            f"{text}. It was probably pickled by another Python version than the container's "
            f"{platform.python_version()}: use the same minor version in both."
        )
    return f"{text}."


def _version(module: str) -> str:
    version = getattr(sys.modules.get(module.partition(".")[0]), "__version__", None)
    return f" ({version})" if isinstance(version, str) else ""
