"""Containers made by runc: namespaces, cgroups, seccomp and an overlay as the root."""

from __future__ import annotations

from skylift.runtime.runc.isolation import RuncIsolation

__all__ = ["RuncIsolation"]
