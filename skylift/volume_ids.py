"""Which volume a name means now, remembered for a while: calls do not ask each time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from skylift.volume_access import VolumeInfo, find_volume

if TYPE_CHECKING:
    from skylift.http import Http

KNOWN_SECONDS = 30.0
"""Another process may delete a volume and make one of the same name."""

_known: dict[tuple[int, str], tuple[float, VolumeInfo]] = {}
_lock = threading.Lock()


def known_volume(http: Http, name: str, create: bool) -> VolumeInfo:
    """The volume of that name on that gateway. Blocks. Raises `NotFoundError` unless `create`."""
    key = (id(http), name)
    now = time.monotonic()
    with _lock:
        found = _known.get(key)
    if found is not None and now - found[0] < KNOWN_SECONDS:
        return found[1]
    info = find_volume(http, name, create)
    with _lock:
        if len(_known) > 1000:
            _known.clear()
        _known[key] = (now, info)
    return info


def forget_volume(name: str) -> None:
    """Ask again for what has that name."""
    with _lock:
        for key in [key for key in _known if key[1] == name]:
            del _known[key]
