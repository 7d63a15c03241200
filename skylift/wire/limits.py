"""The sizes that all sides agree on."""

from __future__ import annotations

PROTOCOL = 1
"""Version of the client link and the host link. A peer with another number is refused by name."""

INLINE_LIMIT = 256 * 1024
"""Bytes. A larger payload travels through the store, by hash, once."""

WARN_SIZE = 100 * 1024 * 1024
"""Bytes. A larger payload makes the SDK warn, naming the variable."""

MAX_FRAME = 16 * 1024 * 1024
"""Bytes. A larger frame closes the connection with a reason."""

EVENT_OVERHEAD = 64
"""Bytes that each event counts beyond its data, so that a flood of empty events is bounded too."""

DEFAULT_WINDOW = 1024 * 1024
"""Bytes that a producer may be ahead of its consumer."""

MAX_OUTSTANDING_INPUTS = 2048
"""Inputs of one map that may be without a result at the gateway at once."""

MAX_BLOB = 64 * 1024**3
"""Bytes of one payload in the store. A larger upload is refused before it is read."""
