"""Containers made by runc: namespaces, cgroups, seccomp and an overlay as the root."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skylift.runtime.runc.isolation import RuncIsolation

__all__ = ["RuncIsolation"]


def __getattr__(name: str) -> object:
    # Not before it is asked for: what finds and speaks to CRIU uses this folder, and is used by it.
    if name == "RuncIsolation":
        from skylift.runtime.runc.isolation import RuncIsolation

        return RuncIsolation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
