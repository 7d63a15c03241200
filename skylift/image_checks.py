"""Whether code from this Python can run in an image; found out before the call."""

from __future__ import annotations

import sys

from skylift.exceptions import InvalidError, VersionError
from skylift.wire import ImageSpec


def check_python(version: str, what: str, by_value: bool) -> None:
    """Raises `VersionError` where the image's Python has another minor version than this one and code is to
    travel as itself. `version` is ``"3.11"`` or ``"3.11.7"``; "" is not known yet."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    there = ".".join(version.split(".")[:2])
    if not there or there == here or not by_value:
        return
    raise VersionError(
        f"{what}: this is Python {here} and its image has Python {there}: code that is sent from one cannot "
        f"run in the other. Use Image.debian_slim(python_version={here!r}), or add_python={here!r} with "
        f"Image.from_registry; or run this notebook under Python {there}"
    )


def check_built(spec: ImageSpec, what: str, by_value: bool) -> None:
    """As `check_python`, of what was built. Raises `InvalidError` where it has no Python at all."""
    if spec.kind == "layers" and not spec.python:
        raise InvalidError(
            f"{what}: its image has no Python, so no code can run in it. Say add_python="
            f"'{sys.version_info[0]}.{sys.version_info[1]}' where it begins with Image.from_registry"
        )
    check_python(spec.python_version, what, by_value)
