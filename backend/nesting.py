"""Calls made by code in containers: who waits for whom, and what such code may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from skylift.backend.calls import Call
from skylift.backend.deadlocks import Deadlock, find_deadlocks
from skylift.wire import Cancel, ClientMessage, Define, FunctionSpec, Hello, Problem, Refused, StopSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from skylift.backend.control import ClientPort
    from skylift.backend.dispatch import Dispatcher
    from skylift.backend.endings import Endings
    from skylift.backend.registry import Client, Registry
    from skylift.backend.streams import Streams
    from skylift.backend.tokens import TokenBook

DEADLOCK_SECONDS = 10.0
"""How long calls wait for each other before one of them is told so: it may be waiting with a timeout."""

BREAK_SECONDS = 1.0
"""Between two deadlocks that are broken: the end of one call may let all the others go on."""

SCOPE = "It may call functions, read and cancel calls, and use the volumes of its user."
"""What the token of a container is good for."""


class Nesting:
    """Knows the clients that are code in containers."""

    def __init__(
        self,
        registry: Registry,
        streams: Streams,
        dispatcher: Dispatcher,
        endings: Endings,
        tokens: TokenBook,
        connect: Callable[[ClientPort, Hello], None],
        drop: Callable[[Client, str], None],
    ) -> None:
        """`connect` takes in a client, `drop` forgets one and cancels its calls, with a reason."""
        self.registry = registry
        self.streams = streams
        self.dispatcher = dispatcher
        self.endings = endings
        self.tokens = tokens
        self._connect = connect
        self._drop = drop
        self._early: dict[str, list[tuple[ClientPort, Hello]]] = {}
        """Connections from containers of which no host has told yet, by container."""
        self._stuck: dict[str, float] = {}
        """Calls that are in a deadlock, and since when."""
        self._next_break = 0.0

    # --- clients in containers ---------------------------------------------------------------------

    def keep_waiting(self, port: ClientPort, hello: Hello) -> bool:
        """Whether a client has to wait for its welcome: after a restart of the gateway until the host has
        told of its container, on which it depends what the client may do."""
        if not port.container_id or port.container_id in self.registry.containers:
            return False
        self._early.setdefault(port.container_id, []).append((port, hello))
        return True

    def disconnected(self, port: ClientPort) -> None:
        """A connection is gone."""
        for waiting in self._early.values():
            waiting[:] = [each for each in waiting if each[0] is not port]

    def container_known(self, container_id: str) -> None:
        """A container is there: started, or told of by its host."""
        if container_id in self._early:
            # Once all is known that the host tells now.
            self.registry.loop.call_soon(self._let_in, container_id)

    def _let_in(self, container_id: str) -> None:
        for port, hello in self._early.pop(container_id, ()):
            self._connect(port, hello)

    def entered(self, client: Client, container_id: str) -> None:
        """A client in a container has connected."""
        client.container_id = container_id
        clients = self.registry.inside.setdefault(container_id, [])
        if client not in clients:
            clients.append(client)

    def left(self, client: Client) -> None:
        """A client is gone."""
        clients = self.registry.inside.get(client.container_id, [])
        if client in clients:
            clients.remove(client)
            if not clients:
                del self.registry.inside[client.container_id]
            container = self.registry.containers.get(client.container_id)
            if container is not None:
                container.awaits = ()

    def container_gone(self, container_id: str) -> None:
        """A container has ended: its token is worth nothing, and what its code waited for is cancelled."""
        self.tokens.revoke(container_id)
        for port, _ in self._early.pop(container_id, ()):
            port.close(1008, "its container has ended")
        for client in list(self.registry.inside.get(container_id, ())):
            self._drop(client, "the container that waited for it has ended")

    def caller(self, client: Client) -> Call | None:
        """The call that runs where the client is: what the client submits is submitted by it."""
        container = self.registry.containers.get(client.container_id)
        return container.call if container is not None else None

    # --- what they may do ----------------------------------------------------------------------------

    def forbidden(self, client: Client, message: ClientMessage) -> Problem | None:
        """Why code in a container may not say that; None where it may."""
        if isinstance(message, Define):
            what = self._beyond(client, message.spec)
        elif isinstance(message, StopSession):
            what = f"stop sessions. {SCOPE}"
        elif isinstance(message, Cancel) and message.mode == "terminate":
            what = f"end containers (terminate_containers=True). {SCOPE}"
        else:
            what = ""
        if not what:
            return None
        return Problem(error="PermissionDeniedError", message=f"Code in a container cannot {what}")

    def _beyond(self, client: Client, spec: FunctionSpec) -> str:
        """What it would get by calling such a function, and does not have; "" for nothing."""
        if spec.session:
            return f"run cells in sessions. {SCOPE}"
        container = self.registry.containers.get(client.container_id)
        if container is None:
            return f"call {spec.app}.{spec.name}: its container has ended."
        own = container.pool.spec
        if own.block_network and not spec.block_network:
            return (
                f"call {spec.app}.{spec.name}, which has a network, from {container.pool.label}, which has "
                f"none (block_network=True). Define {spec.name} with block_network=True too."
            )
        seen = {mount.path for mount in own.image.mounts}
        more = [mount.path for mount in spec.image.mounts if mount.path not in seen]
        if more:
            return (
                f"call {spec.app}.{spec.name}, which sees {more[0]}: {container.pool.label} does not see "
                f"that. Define both in the same environment, or call {spec.name} from the notebook."
            )
        return ""

    # --- for decisions -----------------------------------------------------------------------------

    def refresh(self) -> None:
        """Bring up to date what containers wait for, and how deep calls are in calls."""
        inside = self.registry.inside
        waiting = []
        for container_id, clients in inside.items():
            container = self.registry.containers.get(container_id)
            if container is None:
                continue
            awaited = {
                attachment.call: None
                for client in clients
                for attachment in client.attachments.values()
                if not attachment.call.over
            }
            container.awaits = tuple(awaited) if container.call is not None else ()
            if container.awaits:
                waiting.append(container)
        # Mostly there is nothing to change. Calls that wait for each other get deeper each time.
        for _ in waiting:
            changed = False
            for container in waiting:
                assert container.call is not None
                depth = container.call.depth + 1
                for work in container.awaits:
                    if work.depth < depth and work.pool is not None:
                        work.pool.deepen(work, depth)
                        changed = True
            if not changed:
                break

    def break_deadlocks(self, now: float) -> None:
        """Tell a call that it waits in vain, once it has for `DEADLOCK_SECONDS`."""
        found = find_deadlocks(self.registry.scheduler) if self.registry.inside else []
        before = self._stuck
        self._stuck = {each.work.call_id: before.get(each.work.call_id, now) for each in found}
        if not found:
            return
        due = max(min(self._stuck.values()) + DEADLOCK_SECONDS, self._next_break)
        if now >= due:
            self._next_break = due = now + BREAK_SECONDS
            self._break(
                next(each for each in found if now - self._stuck[each.work.call_id] >= DEADLOCK_SECONDS)
            )
        self.dispatcher.think_later(due - now, now)

    def _break(self, deadlock: Deadlock) -> None:
        call = cast("Call", deadlock.work)
        kind = "ResourceExhaustedError" if call.units else "InvalidError"
        problem = Problem(error=kind, message=deadlock.message)
        if call.units and not call.log_consumes:
            self.endings.fail(call, problem)
            return
        # What was spawned goes on waiting, and runs when there is room; nobody in a container waits for it.
        for container_id in deadlock.waiting:
            for client in self.registry.inside.get(container_id, ()):
                if call.call_id in client.attachments:
                    self.streams.detach(client, call.call_id)
                    if client.port is not None:
                        client.port.send(Refused(call_id=call.call_id, problem=problem))
