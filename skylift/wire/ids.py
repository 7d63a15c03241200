"""Identifiers of calls, containers, clients, hosts; and of the machine."""

from __future__ import annotations

import platform
import re
import secrets
import time
from pathlib import Path

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """A new identifier such as ``fc-01jd3k…``: sortable by time (48 bits of milliseconds), then random."""
    number = (int(time.time() * 1000) << 60) | secrets.randbits(60)
    digits = [_ALPHABET[(number >> shift) & 31] for shift in range(105, -1, -5)]
    return f"{prefix}-{''.join(digits)}"


_ID = re.compile(r"[a-z]{2}-[0-9a-z]{8,64}")


def is_id(text: str, prefix: str) -> bool:
    """Whether ``text`` is a well-formed identifier with that prefix (they become file names and keys)."""
    return text.startswith(prefix + "-") and _ID.fullmatch(text) is not None


def machine_id() -> str:
    """Names this machine since its last boot: equal for two processes only where they share its files."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()
