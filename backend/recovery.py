"""Calls from before: those that the log has from an earlier gateway, and those that only a host knows.

After a start nothing that may have run already is run before the hosts have said what they have, or
`HOSTS_SECONDS` have passed. A call that no host has goes back to its queue where it certainly had not
begun, and fails else, saying so.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

from sqlalchemy import RowMapping

from skylift.backend.calls import LOST_ARGS, Call, Function
from skylift.backend.database import DatabaseError
from skylift.backend.log_reader import LogReader, StoredFunction
from skylift.backend.maps import MapInputs
from skylift.backend.pools import Pool
from skylift.backend.problems import lost_with_gateway
from skylift.backend.registry import Client
from skylift.wire import ClientMessage, FunctionSpec, ImageSpec, Payload, Problem, Refused, Submit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from skylift.backend.call_log import CallLog
    from skylift.backend.control import ClientPort
    from skylift.backend.dispatch import Dispatcher
    from skylift.backend.endings import Endings
    from skylift.backend.pools import Container
    from skylift.backend.registry import Registry

HOSTS_SECONDS = 10.0
"""How long a new gateway waits for hosts to say what they run."""

log = logging.getLogger(__name__)


class Recovery:
    """Takes up calls that this gateway did not take in itself."""

    def __init__(
        self,
        registry: Registry,
        call_log: CallLog,
        reader: LogReader,
        dispatcher: Dispatcher,
        endings: Endings,
    ) -> None:
        self.registry = registry
        self.log = call_log
        self.reader = reader
        self.dispatcher = dispatcher
        self.endings = endings
        self.deliver: Callable[[Client, ClientMessage], None]
        self.not_found: Callable[[Client, ClientMessage], None]
        self.pending: dict[str, list[tuple[Client, ClientPort | None, ClientMessage]]] = {}
        """Messages about calls that are being looked up in the log, and the connections that they came on."""
        self._absent: set[str] = set()
        self._spoken = asyncio.Event()
        """The hosts have said what they have, or have had the time to."""
        self._missing: dict[str, Call] = {}
        """Calls from the log that no host has spoken of yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._unasked: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- at the start --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what was not over. Raises `DatabaseError`."""
        self.registry.recovering = True
        for row in await self.reader.unfinished():
            call = await self._restored(row)
            call.held = True
            call.taken_up = True
            self.registry.add(call)
            self._missing[call.call_id] = call
        self._timer = self.registry.loop.call_later(HOSTS_SECONDS, self.hosts_reported)
        self._await_clients()

    def stop(self) -> None:
        """Look nothing up any more."""
        for timer in (self._timer, self._unasked):
            if timer is not None:
                timer.cancel()
        for task in self._tasks:
            task.cancel()

    def _await_clients(self) -> None:
        if self._unasked is not None:
            self._unasked.cancel()
        grace = self.registry.settings.gateway.client_grace
        self._unasked = self.registry.loop.call_later(grace, self.cancel_unasked)

    def cancel_unasked(self) -> None:
        """Cancel calls of an earlier gateway that wait for a client which had the time to ask for them and
        has not: it is gone, or knows already how they ended (then the log lost that)."""
        for call in list(self.registry.calls.values()):
            if not call.taken_up or call.log_consumes or call.attachments:
                continue
            client = self.registry.clients.get(call.client_id)
            if client is not None and client.gone is not None:
                # It was here and is away again: its own grace runs.
                continue
            self.endings.cancel(call, "cancel", "no client asked for it after the gateway was restarted")

    async def _restored(self, row: RowMapping) -> Call:
        stored = await self.reader.function(row["function_id"])
        call = self._call_of(row, stored)
        tail = await self.reader.tail(call.call_id)
        call.next_seq, call.total = tail
        call.logged_seq, call.logged_total = tail
        if call.inputs is not None:
            call.inputs.done = await self.reader.done(call.call_id)
        return call

    def _call_of(self, row: RowMapping, stored: StoredFunction | None) -> Call:
        function = self.registry.functions.get(row["function_id"])
        if function is None:
            if stored is not None:
                code = Payload(data=stored.code, blob=stored.code_blob, size=len(stored.code))
                function = Function(stored.function_id, stored.spec, code, stored.user, saved=True)
                self.registry.functions[stored.function_id] = function
            else:
                function = Function(
                    row["function_id"], _unknown_spec(row), Payload(), row["user"], saved=True
                )
        call = Call(
            row["call_id"],
            user=row["user"],
            client_id=row["client_id"],
            notebook=row["notebook"],
            function=function,
            pool=self.registry.pool_for(function.spec, row["user"]),
            kind=row["kind"],
            args=Payload(data=row["args"] or b"", blob=row["args_blob"], size=row["args_size"]),
            durable=row["durable"],
            detached=row["detached"],
            window=row["window"],
            summary=row["summary"],
            cell=row["cell"],
            since=monotonic(),
        )
        call.answered = True
        call.unclaimed = not row["user"]
        call.state = row["state"]
        call.end_logged = call.over
        call.error = row["error"]
        call.queued = row["queued"]
        call.started = row["started"]
        call.first_output = row["first_output"]
        call.ended = row["ended"]
        call.container_id = row["container_id"]
        call.host_id = row["host_id"]
        call.gpu = row["gpu"]
        call.price = row["price"]
        call.cost = row["cost"]
        call.peak_memory = row["peak_memory"]
        call.attempts = row["attempts"]
        call.output_bytes = row["output_bytes"]
        call.next_seq = call.logged_seq = row["events"]
        call.visible = True
        if row["args"] is None and not row["args_blob"] and not call.over and call.inputs is None:
            call.args = LOST_ARGS
        if call.inputs is not None:
            call.inputs.received = row["inputs"]
            call.inputs.total = row["inputs_total"]
        return call

    # --- hosts have spoken -----------------------------------------------------------------------------

    def reported(self, call: Call) -> None:
        """A host has this call."""
        self._missing.pop(call.call_id, None)
        call.held = False

    def hosts_reported(self) -> None:
        """The hosts have said what they have (or had the time to): the rest is to be run, or is lost."""
        if not self.registry.recovering:
            return
        self.registry.recovering = False
        self._spoken.set()
        if self._timer is not None:
            self._timer.cancel()
        missing, self._missing = self._missing, {}
        for call in missing.values():
            self._take_up(call)
        for call in list(self.registry.calls.values()):
            if call.held and call.unreported is None:
                self._release(call)

    def _take_up(self, call: Call) -> None:
        """See to a call that no host has: end it where it cannot be run, or may have begun."""
        if call.over:
            return
        inputs = call.inputs
        never_arrived = call.container_id in self.registry.containers
        why = ""
        if inputs is not None and call.log_consumes:
            why = "those of its inputs that had no result were in the gateway's memory"
        elif inputs is not None and inputs.finished:
            self.endings.map_progressed(call)
        elif call.state == "running" and (inputs is not None or not never_arrived):
            why = "the host that ran it does not have it any more: it was restarted, too"
        elif call.args is LOST_ARGS:
            why = "its arguments were in the gateway's memory"
        if why:
            self.endings.fail(call, lost_with_gateway(call.function.spec.name, why))

    def _release(self, call: Call) -> None:
        call.held = False
        call.state = "queued"
        call.since = monotonic()
        if call.inputs is not None:
            call.units = call.inputs.waiting
        if call.units:
            call.pool.push(call)
            self.dispatcher.work_came(call.pool)
        self.log.changed(call)

    # --- calls that only a host knows --------------------------------------------------------------------

    def unclaimed(self, call_id: str, container: Container | None, inputs: tuple[int, ...]) -> Call:
        """A call that a host reports and the log lacks: its row was lost with the last gateway's memory. Kept
        until its client asks for it, for `client_grace`. Where its container is gone, so is whose it was:
        it is the user's who knows its id."""
        pool = container.pool if container is not None else Pool("", _unknown_spec({}), "")
        call = Call(
            call_id,
            user=pool.user,
            client_id="",
            notebook=container.notebook if container is not None else "",
            function=Function("", pool.spec, Payload(), pool.user, saved=True),
            pool=pool,
            kind="map" if inputs else "cell" if pool.session else "call",
            args=LOST_ARGS,
            durable=False,
            detached=False,
            window=0,
            summary="",
            cell="",
            since=monotonic(),
        )
        call.unclaimed = True
        call.taken_up = True
        call.answered = True
        call.visible = True
        call.units = 0
        self.registry.add(call)
        self._await_clients()
        return call

    def claim(self, call: Call, client: Client, submit: Submit, function: Function) -> None:
        """The client of an unclaimed call has submitted it again."""
        if not call.pool.user:
            call.pool.calls -= 0 if call.over else 1
            call.pool = self.registry.pool_for(function.spec, client.user)
            call.pool.calls += 0 if call.over else 1
        call.function = function
        call.kind = submit.kind
        call.window = submit.window
        call.durable = submit.durable
        call.detached = submit.detached
        call.summary = submit.summary
        call.cell = submit.cell
        if submit.kind == "map" and not call.over:
            self.become_map(call)
        if not call.over:
            self.registry.queued_bytes += len(submit.args.data) - len(call.args.data)
            call.args = submit.args
        self.log.function(function)
        self.adopt(call, client)

    def become_map(self, call: Call) -> None:
        """An unclaimed call turns out to be a map: its host had no input of it when it spoke of it."""
        if call.inputs is not None:
            return
        call.inputs = MapInputs()
        call.kind = "map"
        container, call.container = call.container, None
        if container is not None and container.call is call:
            self.dispatcher.release(container)
            if container.phase == "busy":
                self.dispatcher.container_idle(container, monotonic())

    def adopt(self, call: Call, client: Client) -> None:
        """A client asks for a call: it is its, where it was nobody's."""
        if not call.unclaimed:
            return
        call.unclaimed = False
        call.user = call.user or client.user
        call.client_id = client.client_id
        call.notebook = client.notebook
        self.log.changed(call)

    # --- calls that are only in the log --------------------------------------------------------------------

    def waits(self, client: Client, message: ClientMessage) -> bool:
        """Keep a message whose call is being looked up; it is delivered after that."""
        messages = self.pending.get(getattr(message, "call_id", ""))
        if messages is None:
            return False
        messages.append((client, client.port, message))
        return True

    def absent(self, client: Client, submit: Submit) -> bool:
        """Whether the log certainly lacks a call that is submitted again. If that is not known yet, the
        message is delivered again when it is."""
        if submit.call_id in self._absent:
            self._absent.discard(submit.call_id)
            return True
        self.look_up(client, submit.call_id, submit)
        return False

    def look_up(self, client: Client, call_id: str, message: ClientMessage) -> None:
        """Look for a call in the log, and deliver `message` again then."""
        self.pending[call_id] = [(client, client.port, message)]
        task = self.registry.loop.create_task(self._look_up(call_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_up(self, call_id: str) -> None:
        problem: Problem | None = None
        try:
            if self.registry.find(call_id) is None:
                row = await self.reader.call(call_id)
                if row is not None and self.registry.find(call_id) is None:
                    stored = await self.reader.function(row["function_id"])
                    self.registry.keep_recent(self._call_of(row, stored))
            if self.registry.find(call_id) is None and not isinstance(self.pending[call_id][0][2], Submit):
                # Its row may have been lost, and a host may have it all the same.
                await self._spoken.wait()
        except DatabaseError as error:
            problem = Problem(error="InternalFailure", message=str(error))
        messages = self.pending.pop(call_id)
        found = self.registry.find(call_id) is not None
        for client, port, message in messages:
            if client.port is None or client.port is not port:
                # It was said on a connection that is gone; what still matters was said again on the next one.
                continue
            if problem is not None:
                client.port.send(Refused(call_id=call_id, problem=problem))
            elif found or self.registry.find(call_id) is not None:
                self.deliver(client, message)
            elif isinstance(message, Submit):
                self._absent.add(call_id)
                self.deliver(client, message)
                self._absent.discard(call_id)
            else:
                self.not_found(client, message)


def _unknown_spec(row: Mapping[Any, Any]) -> FunctionSpec:
    """What is left of a function whose spec the log lacks or cannot read."""
    image = ImageSpec(kind="environment", machine="", python="", python_version="", mounts=(), sys_path=())
    return FunctionSpec(
        app=row.get("app", ""), name=row.get("function", ""), image=image, session=row.get("session", "")
    )
