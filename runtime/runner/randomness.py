"""New randomness for a process that was forked or restored: two of them must not draw the same numbers."""

from __future__ import annotations

import os
import sys
from typing import Any


def reseed() -> None:
    """Seed every source of randomness that is loaded here anew, from the kernel.

    ``secrets``, ``uuid.uuid4`` and ``random.SystemRandom`` ask the kernel each time. OpenSSL notices by
    itself that it was forked, but not that it was restored.
    """
    _each("random", lambda module: module.seed())
    _each("numpy.random", lambda module: module.seed(list(_words())))
    _each("torch", lambda module: module.manual_seed(int.from_bytes(os.urandom(8), "little") >> 1))
    _each("ssl", lambda module: module.RAND_add(os.urandom(48), 48.0))
    _each("tensorflow", lambda module: module.random.set_seed(int.from_bytes(os.urandom(4), "little")))
    _each("uuid", _forget_sequence)


def _each(name: str, seed: Any) -> None:
    module = sys.modules.get(name)
    if module is not None:
        try:
            seed(module)
        except Exception as error:
            # It may be half imported or another module of that name; but nobody should believe it was seeded.
            os.write(2, f"skylift: the randomness of {name} was not renewed: {error!r}\n".encode())


def _words() -> memoryview:
    """Sixteen numbers of 32 bits."""
    return memoryview(os.urandom(64)).cast("I")


def _forget_sequence(uuid: Any) -> None:
    """What ``uuid1`` keeps so as not to repeat itself within a process."""
    uuid._last_timestamp = None
    uuid._node = None
