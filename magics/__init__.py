"""The magics: ``%%gpu`` above a cell, ``%gpu`` and ``%skylift``. Loaded with ``%load_ext skylift``."""

from __future__ import annotations

from typing import Any

__all__ = ["load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(ipython: Any) -> None:
    """IPython calls this for ``%load_ext skylift.magics``."""
    from skylift.magics import extension

    extension.load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """IPython calls this for ``%unload_ext skylift.magics``."""
    from skylift.magics import extension

    extension.unload(ipython)
