"""Which functions' `min_containers` are kept: those that a client has defined and is there for."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skylift.backend.calls import Function
    from skylift.backend.dispatch import Dispatcher
    from skylift.backend.registry import Client, Registry


class WarmPools:
    """Tells the scheduler which pools are needed, whether anything has been called or not."""

    def __init__(self, registry: Registry, dispatcher: Dispatcher) -> None:
        self.registry = registry
        self.dispatcher = dispatcher

    def defined(self, client: Client, function: Function) -> None:
        """A client has defined a function; an earlier one of the same name is not needed for it any more.

        Code in a container does not count: what it keeps warm would keep it warm.
        """
        spec = function.spec
        if client.container_id or spec.session:
            return
        name = spec.app, spec.name
        before = client.keeps.pop(name, "")
        if spec.min_containers:
            pool = self.registry.pool_for(spec, client.user)
            client.keeps[name] = pool.pool_id
            pool.definers.add(client.client_id)
            pool.needed = True
            self.dispatcher.think()
        if before and before != client.keeps.get(name):
            self._let_go(client, before)

    def left(self, client: Client) -> None:
        """A client is not there any more, or has to define its functions anew."""
        keeps, client.keeps = client.keeps, {}
        for key in keeps.values():
            self._let_go(client, key)

    def _let_go(self, client: Client, key: str) -> None:
        pool = self.registry.pools.get(key)
        if pool is None:
            return
        pool.definers.discard(client.client_id)
        if not pool.definers:
            pool.needed = False
            pool.left = monotonic()
            self.registry.drop_pool_if_unused(pool)
            self.dispatcher.think()
