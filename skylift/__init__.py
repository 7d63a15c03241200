"""GPUs by the notebook cell, and by the function.

::

    import skylift

    app = skylift.App("training")

    @app.function(gpu="H100")
    def train(lr): ...

    train.remote(0.1)          # in a notebook; in a script, within ``with app.run():``

Names are imported when they are first used, so that ``import skylift`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skylift import exceptions as exception
    from skylift.app import App as App
    from skylift.bucket_mount import CloudBucketMount as CloudBucketMount
    from skylift.class_decorators import enter as enter
    from skylift.class_decorators import exit as exit  # noqa: A004 (its public name)
    from skylift.class_decorators import method as method
    from skylift.class_decorators import parameter as parameter
    from skylift.cls import Cls as Cls
    from skylift.context import current_function_call_id as current_function_call_id
    from skylift.context import current_input_id as current_input_id
    from skylift.context import enable_output as enable_output
    from skylift.context import interact as interact
    from skylift.context import is_local as is_local
    from skylift.exceptions import Error as Error
    from skylift.file_patterns import FilePatternMatcher as FilePatternMatcher
    from skylift.function import Function as Function
    from skylift.function_call import FunctionCall as FunctionCall
    from skylift.image import Image as Image
    from skylift.retries import Retries as Retries
    from skylift.volume import Volume as Volume

__version__ = "0.1.0"

_HOME = {
    "App": "app",
    "CloudBucketMount": "bucket_mount",
    "Cls": "cls",
    "Error": "exceptions",
    "FilePatternMatcher": "file_patterns",
    "Function": "function",
    "FunctionCall": "function_call",
    "Image": "image",
    "Retries": "retries",
    "Volume": "volume",
    "current_function_call_id": "context",
    "current_input_id": "context",
    "enable_output": "context",
    "enter": "class_decorators",
    "exit": "class_decorators",
    "interact": "context",
    "is_local": "context",
    "method": "class_decorators",
    "parameter": "class_decorators",
}
_MODULES = {"exceptions": "exceptions", "exception": "exceptions"}
_NOT_BUILT = frozenset(
    """
    Cron Dict Period Queue Sandbox Secret
    asgi_app batched concurrent fastapi_endpoint forward web_server wsgi_app
    """.split()  # noqa: SIM905
)

__all__ = [*_HOME, "exception", "exceptions"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        found = getattr(importlib.import_module(f"skylift.{_HOME[name]}"), name)
    elif name in _MODULES:
        found = importlib.import_module(f"skylift.{_MODULES[name]}")
    elif name in _NOT_BUILT:
        from skylift.not_built import NotBuilt

        found = NotBuilt(name)
    else:
        raise AttributeError(f"module 'skylift' has no attribute {name!r}")
    globals()[name] = found
    return found


def load_ipython_extension(ipython: Any) -> None:
    """IPython calls this for ``%load_ext skylift``: registers ``%%gpu``, ``%gpu`` and ``%skylift``."""
    from skylift.magics import load_ipython_extension as load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """IPython calls this for ``%unload_ext skylift``."""
    from skylift.magics import unload_ipython_extension as unload

    unload(ipython)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
