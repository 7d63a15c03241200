"""Engines: how hosts are found and started."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import msgspec


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine is doing, for people."""

    name: str
    detail: str
    """``"host process 4711 on this machine"``."""
    problem: str = ""
    """Why it has no host to offer and will not have one by itself; "" while it has or is starting one."""


class Engine(ABC):
    """How hosts are found and started.

    A host dials the gateway by itself and proves itself with the host token; an engine only sees to it that
    host processes exist. The control plane calls every method from its event loop.
    """

    name: str

    @abstractmethod
    async def start(self, changed: Callable[[], None]) -> None:
        """See to it that hosts run, from now on; a host that ends by itself is started again.

        Called once by `ControlPlane.start`. Returns when the hosts have been started, which is before they
        have dialled in. Calls `changed` on the event loop whenever `describe` would say something else. A
        host that cannot be started is no exception here but `EngineStatus.problem`.
        """

    @abstractmethod
    async def stop(self, end_hosts: bool) -> None:
        """Stop looking after hosts. With `end_hosts`, return when their processes are gone.

        Called once by `ControlPlane.stop`, after the hosts were sent `Shutdown` where they are to end.
        Without `end_hosts` they run on, for the next gateway to find.
        """

    @abstractmethod
    def describe(self) -> EngineStatus:
        """How it is doing. Called often: it must be cheap."""
