"""New randomness for a process that was forked or restored: two of them must not draw the same numbers."""

from __future__ import annotations

import os
import sys
from typing import Any


def reseed() -> None:
    """Seed every source of randomness that is loaded here anew, from the kernel.

    ``secrets``, ``uuid.uuid4`` and ``random.SystemRandom`` ask the kernel each time. OpenSSL notices that it
    was forked by its pid, which two containers can have in common; it does not notice that it was restored.
    """
    _each("random", lambda module: module.seed())
    _each("numpy.random", lambda module: module.seed(list(_words())))
    _each("torch", lambda module: module.manual_seed(int.from_bytes(os.urandom(8), "little") >> 1))
    _each("ssl", lambda module: module.RAND_add(os.urandom(48), 48.0))
    _each("tensorflow", lambda module: module.random.set_seed(int.from_bytes(os.urandom(4), "little")))
    _each("uuid", _renew_node)
    _each("tempfile", lambda module: setattr(module, "_name_sequence", None))


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


def _renew_node(uuid: Any) -> None:
    """``uuid1`` is unique by its machine and what it keeps in a process, of which a copy is here."""
    for name in [each for each in vars(uuid) if each.startswith("_last_timestamp")]:
        setattr(uuid, name, None)
    uuid._generate_time_safe = None  # the C library's, with its own copy
    uuid._node = int.from_bytes(os.urandom(6), "big") | 1 << 40  # the bit that says it is random
