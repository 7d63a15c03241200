"""What code in a container knows of it, so that what it calls runs in containers like it."""

from __future__ import annotations

import os
from functools import lru_cache

import msgspec

from skylift.wire import FunctionSpec


@lru_cache(maxsize=1)
def container_spec() -> FunctionSpec | None:
    """What this container was made of; None outside of one, or where its host does not say."""
    runner = os.environ.get("SKYLIFT_SOCKET")
    if not runner:
        return None
    try:
        with open(os.path.join(os.path.dirname(runner), "spec.json"), "rb") as file:
            return msgspec.json.decode(file.read(), type=FunctionSpec)
    except (OSError, msgspec.DecodeError):
        return None
