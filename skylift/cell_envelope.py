"""What goes to a session: the envelope of docs/protocol.md, a JSON header with pickles behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from skylift.exceptions import SerializationError
from skylift.remote_ref import RemoteRef
from skylift.serialization import dumps, explain


class Pickled:
    """A value that is pickled already: for `Session.run_cell` and `Session.put`, in the place of the value.

    The magics pickle by themselves, because a function of the notebook goes with its globals bound to the
    session's namespace (docs/protocol.md), and what it reads from there goes as names of their own.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


def pickled(values: Mapping[str, Any]) -> dict[str, Pickled | RemoteRef]:
    """Every value as it travels. Raises `SerializationError` naming the variable that cannot."""
    travelling: dict[str, Pickled | RemoteRef] = {}
    for name, value in values.items():
        if isinstance(value, (Pickled, RemoteRef)):
            travelling[name] = value
            continue
        try:
            travelling[name] = Pickled(dumps(value))
        except SerializationError:
            raise
        except Exception as error:
            raise SerializationError(
                f"{name!r} cannot travel to the session: {explain(value, error)}"
            ) from None
    return travelling


def envelope(header: Mapping[str, Any], send: Mapping[str, Pickled | RemoteRef] | None = None) -> bytes:
    """The bytes of an operation. `send` goes into the header and behind it."""
    described: dict[str, Any] = dict(header)
    pickles: list[bytes] = []
    if send is not None:
        entries: dict[str, dict[str, Any]] = {}
        for name, value in send.items():
            if isinstance(value, RemoteRef):
                entries[name] = {"ref": value.ref_id}
            else:
                entries[name] = {"length": len(value.data)}
                pickles.append(value.data)
        described["send"] = entries
    encoded = json.dumps(described).encode()
    return b"".join([len(encoded).to_bytes(4, "big"), encoded, *pickles])
