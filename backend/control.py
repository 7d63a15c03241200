"""The control plane: what the gateway's links and REST handlers speak to.

Its parts are modules of this package, each with one concern; they share the `Registry` of what there is now:

====================  =============================================================================
`client_calls`        what clients ask for
`host_calls`          what hosts report while they run calls
`host_links`          hosts that come, go and come back
`recovery`            calls from before this gateway was started
`streams`             events on their way to clients and the log; windows
`dispatch`            carries out what `scheduler` decides
`endings`             how calls end
`sessions`            containers that notebooks keep; `sleeping`: those of them that sleep
`warm`                functions of which containers are kept
`nesting`             calls that code in containers makes; `deadlocks` finds those that cannot end
`status`              status lines
`builds`              images that are built, and those that are there
`live_feed`           what changes, for those who watch; `usage_history`: what containers used
`call_log`            what is written to the database; `log_reader` and `reports` read it
====================  =============================================================================
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Sequence
from time import monotonic
from typing import Protocol

from skylift.backend.builds import Builds
from skylift.backend.call_log import CallLog
from skylift.backend.client_calls import ClientCalls
from skylift.backend.collector import Collector
from skylift.backend.database import Database
from skylift.backend.dispatch import Dispatcher
from skylift.backend.endings import Endings
from skylift.backend.engines.base import Engine
from skylift.backend.host_calls import HostCalls
from skylift.backend.host_links import HostLinks
from skylift.backend.keeper import Keeper
from skylift.backend.live_feed import LiveFeed
from skylift.backend.live_watches import WatchRequest
from skylift.backend.log_reader import LogReader
from skylift.backend.nesting import Nesting
from skylift.backend.recovery import Recovery
from skylift.backend.registry import Client, Registry
from skylift.backend.reports import Reports
from skylift.backend.sessions import Sessions
from skylift.backend.settings import Settings
from skylift.backend.sleeping import SleepingSessions
from skylift.backend.status import StatusUpdates
from skylift.backend.streams import Streams
from skylift.backend.tokens import TokenBook
from skylift.backend.usage_history import UsageHistory
from skylift.backend.views import (
    CallDetail,
    CallFilter,
    CallGraph,
    CallPage,
    CallUsage,
    ContainerView,
    HostView,
    OutputPage,
    SessionView,
    Slept,
    Spend,
    SpendBy,
    TemplateView,
    Woken,
)
from skylift.backend.warm import WarmPools
from skylift.lazyfs.names import LocalNames, Names
from skylift.lazyfs.store import Store
from skylift.wire import (
    PROTOCOL,
    CancelMode,
    ClientMessage,
    GatewayMessage,
    Hello,
    HostCommand,
    HostHello,
    HostMessage,
    Problem,
    Refused,
    Shutdown,
    Welcome,
    machine_id,
    new_id,
)

VERSION = importlib.metadata.version("skylift")
"""Of this gateway."""


class ClientPort(Protocol):
    """A client's connection, as the gateway's WebSocket handler offers it. `send` never blocks or raises."""

    client_id: str
    user: str
    container_id: str
    """Of code in a container: which; else ""."""

    def send(self, message: GatewayMessage) -> None:
        """Encode and send a message."""

    def send_encoded(self, frame: bytes) -> None:
        """Send a message that is encoded already."""

    def close(self, code: int, reason: str) -> None:
        """Close the connection."""


class HostPort(Protocol):
    """A host's link, as the gateway's socket server offers it. `send` never blocks or raises."""

    def send(self, message: HostCommand) -> None:
        """Encode and send a message."""

    def close(self, reason: str) -> None:
        """Close the link; the host dials again."""


class ControlPlane:
    """Takes in what clients and hosts say, and decides. All methods are called on one event loop."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        store: Store,
        engines: Sequence[Engine],
        names: Names | None = None,
    ) -> None:
        """`names` are those beside the store; None: those in the home folder."""
        self.gateway_id = new_id("gw")
        self.settings = settings
        self.database = database
        self.engines = list(engines)
        self.registry = registry = Registry(settings, store)
        self.tokens = TokenBook(settings.home, database)
        self._log = CallLog(database)
        self._reader = LogReader(database)
        self._streams = Streams(registry, database, self._log, self._reader)
        self._status = StatusUpdates(registry)
        self._endings = Endings(registry, self._log, self._streams, self._status)
        self._dispatcher = Dispatcher(
            registry, self._log, self._status, self.engines, self._endings.fail, self.tokens
        )
        self._endings.dispatcher = self._dispatcher
        self._nesting = Nesting(
            registry,
            self._streams,
            self._dispatcher,
            self._endings,
            self.tokens,
            self.client_connected,
            self._drop_client,
        )
        self._dispatcher.nesting = self._nesting
        self._tokens_due: asyncio.TimerHandle | None = None
        self._recovery = Recovery(registry, self._log, self._reader, self._dispatcher, self._endings)
        self._sleeping = SleepingSessions(
            registry, self._log, self._reader, self._dispatcher, self._endings, self.tokens
        )
        self._dispatcher.fail_waking = self._sleeping.fail_waking
        self._sessions = Sessions(registry, self._log, self._dispatcher, self._endings, self._sleeping)
        self._warm = WarmPools(registry, self._dispatcher)
        names = names or LocalNames(settings.home / "names")
        self._builds = Builds(registry, names, self.engines)
        self.collector = Collector(registry, database, names)
        """Of what nothing in the store needs any more."""
        self._client_calls = ClientCalls(
            registry,
            self._log,
            self._streams,
            self._status,
            self._dispatcher,
            self._endings,
            self._sessions,
            self._recovery,
            self._nesting,
            self._warm,
            self._builds,
        )
        self._usage = UsageHistory(registry, self._log, self._reader)
        self._host_calls = HostCalls(
            registry,
            self._log,
            self._streams,
            self._status,
            self._dispatcher,
            self._endings,
            self._sleeping,
            self._builds,
            self._usage,
        )
        self._sleeping.host_calls = self._host_calls
        self._host_links = HostLinks(
            registry,
            self._log,
            self._reader,
            self._streams,
            self._dispatcher,
            self._endings,
            self._host_calls,
            self._recovery,
            self._sleeping,
            self._builds,
            self.tokens,
            self.gateway_id,
        )
        self._reports = Reports(registry, self._reader, self.engines)
        self.live = LiveFeed(
            registry,
            self._reports,
            self._log,
            self._status,
            self._dispatcher,
            self._host_calls,
            self._usage,
        )
        """What changes, for those who watch. Whoever has the volumes adds the source of their list."""
        self._watch_lists()
        self._host_calls.become_map = self._recovery.become_map
        self._recovery.deliver = self._client_calls.message
        self._recovery.not_found = self._client_calls.not_found
        self._keeper = Keeper(registry, self._log, self._reader)

    def _watch_lists(self) -> None:
        sources = self.live.sources

        async def sessions(user: str, request: WatchRequest) -> tuple[SessionView, ...]:
            return self.sessions(user)

        async def containers(user: str, request: WatchRequest) -> tuple[ContainerView, ...]:
            return await self.containers(user, True, 1000)

        async def templates(user: str, request: WatchRequest) -> tuple[TemplateView, ...]:
            return self.templates()

        async def hosts(user: str, request: WatchRequest) -> tuple[HostView, ...]:
            return self.hosts()

        async def spend(user: str, request: WatchRequest) -> tuple[Spend]:
            return (await self.spend(user, request.by, request.days),)

        sources.update(
            sessions=sessions, containers=containers, templates=templates, hosts=hosts, spend=spend
        )

    async def start(self) -> None:
        """Open the database, take up what was unfinished, start the engines.

        Call it before listening. Raises `DatabaseError` when the database cannot be opened, and OSError
        when a token file cannot be made.
        """
        self.registry.loop = asyncio.get_running_loop()
        await self.database.open()
        await self.tokens.open()
        await self._sleeping.open()
        await self._recovery.start()
        self._sessions.notebooks = await self._reader.session_notebooks()
        self._keeper.start()
        self.collector.start()
        self._tokens_due = self.registry.loop.call_later(
            self.settings.gateway.host_grace, self._forget_tokens
        )
        for engine in self.engines:
            await engine.start(self._dispatcher.think)

    async def stop(self, end_hosts: bool) -> None:
        """Write what is still to be written, stop the engines and close the database. With `end_hosts`, hosts
        and their containers end too; without, they go on and wait for the next gateway."""
        self._dispatcher.stop()
        self._builds.stop()
        self._sleeping.stop()
        self._recovery.stop()
        self._status.stop()
        self._keeper.stop()
        self.live.stop()
        self._usage.stop()
        self.collector.stop()
        self._host_links.stop()
        if self._tokens_due is not None:
            self._tokens_due.cancel()
        for client in self.registry.clients.values():
            if client.gone is not None:
                client.gone.cancel()
        if end_hosts:
            for host in self.registry.hosts.values():
                if host.port is not None:
                    host.port.send(Shutdown())
        for engine in self.engines:
            await engine.stop(end_hosts)
        await self._streams.stop()
        await self.database.close()

    def authenticate(self, token: str) -> str | None:
        """The user whose token this is, or None."""
        return self.tokens.authenticate(token)

    def container_of(self, token: str) -> str:
        """The container whose code shows this token; "" for a user's own."""
        return self.tokens.container_of(token)

    def _forget_tokens(self) -> None:
        """What has a token from before this gateway and was not reported by a host is gone."""
        for container_id in self.tokens.containers() - self.registry.containers.keys():
            self._nesting.container_gone(container_id)

    # --- clients ---------------------------------------------------------------------------------

    def client_connected(self, port: ClientPort, hello: Hello, *, in_gateway: bool = False) -> None:
        """A client with a valid token and our protocol number is there. Sends `Welcome`, at once or, to code
        in a container, when the container is known. `in_gateway`: it is the gateway's own, which alone may
        start kernels."""
        registry = self.registry
        if self._nesting.keep_waiting(port, hello):
            return
        client = registry.clients.get(hello.client_id)
        if client is not None and client.user != port.user:
            text = "This client id belongs to another user."
            port.send(Refused(problem=Problem(error="PermissionDeniedError", message=text)))
            return
        if client is None:
            client = registry.clients[hello.client_id] = Client(hello.client_id, port.user, hello.notebook)
        elif client.port is not None:
            self.client_disconnected(client.port)
        if client.gone is not None:
            client.gone.cancel()
            client.gone = None
        client.port = port
        client.in_gateway = in_gateway
        client.notebook = hello.notebook or client.notebook
        registry.ports[id(port)] = client
        if port.container_id:
            self._nesting.entered(client, port.container_id)
        machines = {machine_id(), *(host.facts.machine for host in registry.hosts.values())}
        port.send(Welcome(gateway_id=self.gateway_id, version=VERSION, machines=tuple(sorted(machines))))

    def client_message(self, port: ClientPort, message: ClientMessage) -> None:
        """Never raises for bad input: answers `Refused`."""
        client = self.registry.ports.get(id(port))
        if client is not None:
            self._client_calls.message(client, message)

    def client_disconnected(self, port: ClientPort) -> None:
        """The connection is gone; its calls wait for `client_grace` seconds for it to come back."""
        self._nesting.disconnected(port)
        client = self.registry.ports.pop(id(port), None)
        if client is None or client.port is not port:
            return
        client.port = None
        client.functions.clear()
        self._warm.left(client)
        self._streams.detach_all(client)
        client.gone = self.registry.loop.call_later(
            self.settings.gateway.client_grace, self._client_gone, client
        )

    def _client_gone(self, client: Client) -> None:
        grace = self.settings.gateway.client_grace
        self._drop_client(client, f"its client was gone for {grace:g} s")

    def _drop_client(self, client: Client, why: str) -> None:
        if client.gone is not None:
            client.gone.cancel()
            client.gone = None
        port, client.port = client.port, None
        if port is not None:
            self.registry.ports.pop(id(port), None)
            client.functions.clear()
            self._warm.left(client)
            self._streams.detach_all(client)
            port.close(1008, why)
        self._nesting.left(client)
        self._builds.left(client)
        self.registry.clients.pop(client.client_id, None)
        for call in list(self.registry.calls.values()):
            if call.client_id != client.client_id or call.log_consumes or call.over:
                continue
            if call.attachments:
                # Somebody else follows it: it is theirs now.
                call.client_id = call.attachments[0].client.client_id
            else:
                self._endings.cancel(call, "cancel", why)

    # --- hosts -----------------------------------------------------------------------------------

    def host_connected(self, port: HostPort, hello: HostHello) -> None:
        """A host has said hello. Sends `HostWelcome`, at once or when its calls have been looked up.

        Raises `PermissionError` on a wrong token or protocol.
        """
        if not self.tokens.is_host(hello.token):
            raise PermissionError("the host's token is wrong: it is in host-token of the gateway's folder")
        if hello.protocol != PROTOCOL:
            raise PermissionError(
                f"the host speaks protocol {hello.protocol} and this one {PROTOCOL}: upgrade the older"
            )
        self._host_links.connected(port, hello)

    def host_message(self, port: HostPort, message: HostMessage, frame: bytes = b"") -> None:
        """A message of a host that has said hello.

        `frame`: the bytes that an `Events` message was decoded from; it is the same on the client's link, so
        with it the message need not be encoded again.
        """
        self._host_links.message(port, message, frame)

    def host_disconnected(self, port: HostPort) -> None:
        """The link is gone; its calls wait for `host_grace` seconds for it to come back."""
        self._host_links.disconnected(port)

    # --- REST: what there is, for one user -------------------------------------------------------

    async def calls(self, user: str, which: CallFilter, before: str = "", limit: int = 100) -> CallPage:
        """Calls, newest first. `before`: `CallPage.next` of the page before. `limit`: 1 to 1000."""
        return await self._reports.calls(user, which, before, limit)

    async def call(self, user: str, call_id: str) -> CallDetail | None:
        """One call, or None where the user has no such call."""
        return await self._reports.call(user, call_id)

    async def graph(self, user: str, call_id: str) -> CallGraph | None:
        """A call and what its code called, and so on; None where the user has no such call."""
        return await self._reports.graph(user, call_id)

    async def output(
        self, user: str, call_id: str, from_seq: int = 0, limit: int = 1000
    ) -> OutputPage | None:
        """A call's output from an event on, or None where the user has no such call."""
        return await self._reports.output(user, call_id, from_seq, limit)

    async def usage(self, user: str, call_id: str) -> CallUsage | None:
        """What a call has used, or None where the user has no such call."""
        return await self._usage.of_call(user, call_id)

    async def containers(
        self, user: str, running: bool = True, limit: int = 100
    ) -> tuple[ContainerView, ...]:
        """Containers, newest first; with `running` only those that are up."""
        return await self._reports.containers(user, running, limit)

    def sessions(self, user: str) -> tuple[SessionView, ...]:
        """Sessions that are up, waited for, or asleep."""
        return self._reports.live.sessions(user, self._sessions.notebooks)

    def hosts(self) -> tuple[HostView, ...]:
        """The machines, their GPUs and who uses them."""
        return self._reports.live.hosts()

    def templates(self) -> tuple[TemplateView, ...]:
        """The templates that the machines have now."""
        return self._reports.live.templates()

    async def spend(self, user: str, by: SpendBy = "day", days: int = 30) -> Spend:
        """What containers cost in the last days, today included."""
        self._keeper.charge()
        return await self._reports.spend(user, by, days)

    # --- REST: what can be done ------------------------------------------------------------------

    async def blob_asked_for(self, blob: str) -> None:
        """Somebody asks whether the store has a blob, and will count on it."""
        await self.collector.mention(blob)

    def cancel_call(self, user: str, call_id: str, mode: CancelMode = "cancel", reason: str = "") -> bool:
        """Cancel a call as `Cancel` does. False where the user has no such unfinished call."""
        call = self.registry.calls.get(call_id)
        if call is None or call.user != user:
            return False
        self._endings.cancel(call, mode, reason)
        return True

    def stop_session(self, user: str, session_id: str) -> bool:
        """End a session, also one that sleeps. False where the user has no such session."""
        return self._sessions.stop(session_id, user)

    async def sleep_session(self, user: str, session_id: str) -> Slept | Problem | None:
        """Put an idle session to sleep, and wait until it is, but no longer than `sleeping.WAIT_SECONDS`. A
        `Problem` says why it is not, or is not yet. None where the user has no such session."""
        return await self._sleeping.sleep(user, session_id)

    async def wake_session(self, user: str, session_id: str) -> Woken | Problem | None:
        """Wake a session that sleeps, and wait until it is up; as `sleep_session`."""
        return await self._sleeping.wake(user, session_id)

    def stop_container(self, user: str, container_id: str) -> bool:
        """End a container: its calls fail. False where the user has no such container."""
        container = self.registry.containers.get(container_id)
        if container is None or container.pool.user != user:
            return False
        self._dispatcher.stop_container(container, "it was stopped", monotonic())
        return True
