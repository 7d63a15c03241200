"""The gateway, put together of its parts; started and stopped in the one order that loses nothing."""

from __future__ import annotations

import asyncio
import logging

from skylift.backend.control import ControlPlane
from skylift.backend.database import Database
from skylift.backend.engines.local import LocalEngine
from skylift.backend.settings import Settings
from skylift.kernel_gateway.home import GatewayHome
from skylift.kernel_gateway.host_socket import HostServer
from skylift.kernel_gateway.outbox import Outbox
from skylift.kernel_gateway.server import GatewayApplication, GatewayServer
from skylift.lazyfs.open_store import open_store
from skylift.lazyfs.remembered_sizes import RememberedSizes
from skylift.lazyfs.store import LocalStore

STORE_CACHE = "gateway-cache"
"""In front of a store that is far away; the host has its own."""

DATABASE_FILE = "skylift.db"

log = logging.getLogger(__name__)


class Gateway:
    """One gateway on one machine's folder, which the caller has locked."""

    def __init__(self, home: GatewayHome, settings: Settings) -> None:
        """Call it on the event loop. Raises OSError where the store's folder cannot be made, and `StoreError`
        where its URL names none."""
        self._home = home
        self._settings = settings
        outbox = Outbox(asyncio.get_running_loop())
        store, names = open_store(settings.host.store, home.folder, cache=home.folder / STORE_CACHE)
        if not isinstance(store, LocalStore):
            store = RememberedSizes(store)  # the control plane asks on the event loop
        self._database = Database(home.folder / DATABASE_FILE, backlog_limit=settings.gateway.log_backlog)
        self.control = ControlPlane(settings, self._database, store, [LocalEngine(settings)], names)
        self._hosts = HostServer(home.folder, self.control, outbox)
        self._application = GatewayApplication(self.control, store, settings.gateway, home, outbox, names)
        self._application.feed_volumes()
        self._server = GatewayServer(self._application)

    async def start(self, host: str, port: int) -> str:
        """Take up what an earlier gateway left, listen, and announce it; returns the URL.

        Raises `DatabaseError`, `ListenError` and OSError.
        """
        url = self._server.bind(host, port, self._home.last_port())
        await self.control.start()
        try:
            await self._hosts.listen()
        except BaseException:
            await self.stop(end_hosts=False)
            raise
        self._server.serve()
        self._application.jupyter.start()
        self._home.remember_port(int(url.rpartition(":")[2]))
        self._home.announce(url, self.control.gateway_id)
        log.info("Gateway %s listens on %s.", self.control.gateway_id, url)
        return url

    async def stop(self, end_hosts: bool) -> None:
        """Let clients and hosts go, and write what is still to be written. With `end_hosts` hosts and their
        containers end; without, they go on, and the next gateway takes them up."""
        self._home.withdraw()
        self._server.stop_listening()
        self._application.clients.close_all("the gateway stops")
        self._application.live.close_all("the gateway stops")
        await self._application.jupyter.close(end_kernels=end_hosts)
        await self.control.stop(end_hosts)
        await self._hosts.close()
        await self._server.close()
