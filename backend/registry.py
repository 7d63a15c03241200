"""What the control plane knows right now: its parts share one `Registry`."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, cast
from weakref import WeakValueDictionary

from skylift.backend.calls import Call, Function
from skylift.backend.pools import Container, Host, Pool, pool_id
from skylift.backend.scheduler_state import SchedulerState
from skylift.wire import Payload

if TYPE_CHECKING:
    from skylift.backend.control import ClientPort
    from skylift.backend.settings import Settings
    from skylift.backend.sleeping import Sleeping
    from skylift.backend.streams import Attachment
    from skylift.lazyfs.store import Store
    from skylift.wire import FunctionSpec

RECENT_CALLS = 256
"""Calls that are over and still in memory, for clients that ask for them right then."""


EMPTY = Payload()


class Client:
    """A client: one kernel or script, across its connections."""

    __slots__ = (
        "attachments",
        "client_id",
        "container_id",
        "functions",
        "gone",
        "in_gateway",
        "keeps",
        "notebook",
        "port",
        "user",
    )

    def __init__(self, client_id: str, user: str, notebook: str) -> None:
        self.client_id = client_id
        self.user = user
        self.notebook = notebook
        self.container_id = ""
        """Where it is code in a container: which."""
        self.in_gateway = False
        """It is a part of the gateway itself."""
        self.port: ClientPort | None = None
        self.functions: dict[str, Function] = {}
        """What it has defined on this connection."""
        self.keeps: dict[tuple[str, str], str] = {}
        """Of these, by app and name, those whose `min_containers` are kept for it: their pools."""
        self.attachments: dict[str, Attachment] = {}
        """By call."""
        self.gone: asyncio.TimerHandle | None = None
        """When it counts as gone for good."""


class Registry:
    """Clients, calls, pools, containers and hosts."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.loop: asyncio.AbstractEventLoop
        self.scheduler = SchedulerState()
        self.clients: dict[str, Client] = {}
        self.functions: WeakValueDictionary[str, Function] = WeakValueDictionary()
        """Those that a connection has defined or a call uses."""
        self.ports: dict[int, Client] = {}
        """By the id of its connection's port."""
        self.inside: dict[str, list[Client]] = {}
        """Those that are code in containers, by container."""
        self.calls: dict[str, Call] = {}
        """Those that are not over."""
        self.recent: OrderedDict[str, Call] = OrderedDict()
        """Those that were over last."""
        self.containers: dict[str, Container] = {}
        self.sleeping: dict[str, Sleeping] = {}
        """Sessions that sleep, by pool."""
        self.links: dict[int, Host] = {}
        """Hosts by the id of their link's port."""
        self.queued_bytes = 0
        """Of arguments of calls that are not over."""
        self.recovering = False
        """A gateway that has just started: what the hosts run is not known yet."""

    @property
    def pools(self) -> dict[str, Pool]:
        """By id."""
        return cast("dict[str, Pool]", self.scheduler.pools)

    @property
    def hosts(self) -> dict[str, Host]:
        """By id, with those whose link is lost."""
        return cast("dict[str, Host]", self.scheduler.hosts)

    def find(self, call_id: str) -> Call | None:
        """A call in memory."""
        return self.calls.get(call_id) or self.recent.get(call_id)

    def pool_for(self, spec: FunctionSpec, user: str) -> Pool:
        """The pool for such a function, made where there is none."""
        key = pool_id(spec, user)
        pool = self.pools.get(key)
        if pool is None:
            pool = self.pools[key] = Pool(key, spec, user)
            if pool.session:
                self.note_sleep(key)
        return pool

    def note_sleep(self, key: str) -> None:
        """Whether a session sleeps, and where, may have changed: note it at its pool, where it has one."""
        pool, entry = self.pools.get(key), self.sleeping.get(key)
        if pool is not None:
            pool.asleep = entry is not None
            pool.hosts = frozenset(entry.hosts) if entry is not None else None

    def drop_pool_if_unused(self, pool: Pool) -> None:
        """Forget a pool without containers and calls that none is to be started for."""
        if pool.containers or pool.calls or pool.definers or pool.waking is not None:
            return
        if self.pools.get(pool.pool_id) is pool:
            del self.pools[pool.pool_id]

    def add(self, call: Call) -> None:
        """Take in a call."""
        self.calls[call.call_id] = call
        call.pool.calls += 1
        self.queued_bytes += len(call.args.data)

    def over(self, call: Call) -> None:
        """Let go of a call that is over, but for a while."""
        self.forget(call)
        call.args = EMPTY
        self.keep_recent(call)

    def forget(self, call: Call) -> None:
        """Count a call as not being there."""
        if self.calls.pop(call.call_id, None) is not None:
            call.pool.calls -= 1
            self.queued_bytes -= len(call.args.data)

    def keep_recent(self, call: Call) -> None:
        """Keep a call that is over in memory for a while."""
        self.recent[call.call_id] = call
        if len(self.recent) > RECENT_CALLS:
            self.recent.popitem(last=False)
