"""What clients say: definitions, submissions, inputs, cancellations."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from skylift.backend.calls import Call, Function
from skylift.backend.problems import lost_with_gateway
from skylift.lazyfs.store import StoreError
from skylift.wire import (
    DEFAULT_WINDOW,
    INLINE_LIMIT,
    MAX_OUTSTANDING_INPUTS,
    Accepted,
    Attach,
    BuildImage,
    Cancel,
    CancelBuild,
    ClientMessage,
    Consumed,
    Define,
    Detach,
    Inputs,
    Payload,
    Problem,
    Refused,
    StopSession,
    Submit,
    is_id,
)

if TYPE_CHECKING:
    from skylift.backend.builds import Builds
    from skylift.backend.call_log import CallLog
    from skylift.backend.dispatch import Dispatcher
    from skylift.backend.endings import Endings
    from skylift.backend.nesting import Nesting
    from skylift.backend.recovery import Recovery
    from skylift.backend.registry import Client, Registry
    from skylift.backend.sessions import Sessions
    from skylift.backend.status import StatusUpdates
    from skylift.backend.streams import Streams
    from skylift.backend.warm import WarmPools

MAX_WINDOW = 64 * 1024 * 1024


class ClientCalls:
    """Carries out what clients ask for. Whatever is wrong with a message is answered with `Refused`."""

    def __init__(
        self,
        registry: Registry,
        call_log: CallLog,
        streams: Streams,
        status: StatusUpdates,
        dispatcher: Dispatcher,
        endings: Endings,
        sessions: Sessions,
        recovery: Recovery,
        nesting: Nesting,
        warm: WarmPools,
        builds: Builds,
    ) -> None:
        self.registry = registry
        self.log = call_log
        self.streams = streams
        self.status = status
        self.dispatcher = dispatcher
        self.endings = endings
        self.sessions = sessions
        self.recovery = recovery
        self.nesting = nesting
        self.warm = warm
        self.builds = builds

    def message(self, client: Client, message: ClientMessage) -> None:
        """Carry out a message."""
        if self.recovery.pending and self.recovery.waits(client, message):
            return
        if client.container_id:
            problem = self.nesting.forbidden(client, message)
            if problem is not None:
                ids = {name: getattr(message, name, "") for name in ("call_id", "function_id")}
                self.refuse(client, problem, **ids)
                return
        if isinstance(message, Submit):
            self.submit(client, message)
        elif isinstance(message, Consumed):
            self.streams.consumed(client, message.call_id, message.total)
        elif isinstance(message, Inputs):
            self.inputs(client, message)
        elif isinstance(message, Define):
            self.define(client, message)
        elif isinstance(message, Attach):
            self.attach(client, message)
        elif isinstance(message, Detach):
            self.detach(client, message)
        elif isinstance(message, Cancel):
            self.cancel(client, message)
        elif isinstance(message, StopSession):
            if not self.sessions.stop(message.session, client.user):
                text = f"There is no session {message.session} that is up."
                self.refuse(client, Problem(error="NotFoundError", message=text))
        elif isinstance(message, BuildImage):
            self.builds.ask(client, message)
        elif isinstance(message, CancelBuild):
            self.builds.cancel(client, message)
        else:
            text = f"A client cannot send {type(message).__name__} now."
            self.refuse(client, Problem(error="InvalidError", message=text))

    def refuse(self, client: Client, problem: Problem, call_id: str = "", function_id: str = "") -> None:
        """Say why something is not done."""
        if client.port is not None:
            client.port.send(Refused(call_id=call_id, function_id=function_id, problem=problem))

    # --- functions -----------------------------------------------------------------------------------

    def define(self, client: Client, message: Define) -> None:
        """A function is defined."""
        key = message.function_id
        problem = None
        if not is_id(key, "fu"):
            problem = Problem(error="InvalidError", message=f"{key!r} is not the id of a function (fu-…).")
        else:
            problem = self._bad_payload(message.code, f"The code of {message.spec.app}.{message.spec.name}")
        known = self.registry.functions.get(key)
        if known is not None and (known.code != message.code or known.spec != message.spec):
            problem = Problem(
                error="ConflictError",
                message=f"The id {key} stands for another function: an id is the hash of code and spec.",
            )
        if problem is not None:
            self.refuse(client, problem, function_id=key)
            return
        if known is None or known.user != client.user:
            known = Function(key, message.spec, message.code, client.user)
            self.registry.functions[key] = known
        client.functions[key] = known
        self.warm.defined(client, known)

    # --- submissions ---------------------------------------------------------------------------------

    def submit(self, client: Client, message: Submit) -> None:
        """A call is submitted, perhaps not for the first time."""
        registry = self.registry
        known = registry.find(message.call_id)
        if known is not None:
            self._submitted_again(client, message, known)
            return
        function = client.functions.get(message.function_id)
        problem = self._problem_with(message, function, in_gateway=client.in_gateway)
        if problem is not None or function is None:
            assert problem is not None
            self.refuse(client, problem, message.call_id)
            return
        if message.resubmitted and not self.recovery.absent(client, message):
            return
        spec = function.spec
        pool = function.pool
        if spec.session:
            found = self.sessions.pool(spec, client.user, client.notebook)
            if isinstance(found, Problem):
                self.refuse(client, found, message.call_id)
                return
            pool = found
        elif pool is None or registry.pools.get(pool.pool_id) is not pool:
            pool = function.pool = registry.pool_for(spec, client.user)
        caller = self.nesting.caller(client) if client.container_id else None
        now = monotonic()
        call = Call(
            message.call_id,
            user=client.user,
            client_id=client.client_id,
            notebook=caller.notebook if caller is not None else client.notebook,
            function=function,
            pool=pool,
            kind=message.kind,
            args=message.args,
            durable=message.durable,
            detached=message.detached,
            window=min(max(message.window, 1), MAX_WINDOW),
            summary=message.summary,
            cell=message.cell,
            since=now,
        )
        registry.add(call)
        if caller is not None:
            self.log.nested(call, caller)
            if not call.log_consumes:
                call.depth = caller.depth + 1
                self.dispatcher.waiting_began()
        if not message.durable:
            if not message.detached:
                self.streams.attach_new(client, call)
            self._queue(call, message.resubmitted, now)
            self._accept(client, call)
        else:
            self._queue_durable(client, call, message.resubmitted)

    def _accept(self, client: Client, call: Call) -> None:
        self.log.function(call.function)
        if call.inputs is not None:
            # A map outlives a restart of the gateway by its row (its inputs come again from the client): so
            # nothing of it runs before that is in the log. Where the log cannot be written, it runs all the
            # same.
            self.log.database.attempt().add_done_callback(lambda _: self._map_is_logged(client, call))
        elif call.detached:
            self._say_accepted(client, call.call_id)

    def _map_is_logged(self, client: Client, call: Call) -> None:
        self._say_accepted(client, call.call_id)
        if call.held and not self.registry.recovering and not call.over:
            call.held = False
            assert call.inputs is not None
            call.pool.add_units(call, call.inputs.waiting - call.units, monotonic())
            self.dispatcher.work_came(call.pool)

    def _say_accepted(self, client: Client, call_id: str) -> None:
        if client.port is not None:
            client.port.send(Accepted(call_id=call_id))

    def _queue(self, call: Call, resubmitted: bool, now: float) -> None:
        self.status.submitted(call, now)
        if call.inputs is not None or (resubmitted and self.registry.recovering):
            call.held = True
        elif call.units:
            call.pool.push(call)
            self.dispatcher.work_came(call.pool)
        self.log.changed(call)

    def _queue_durable(self, client: Client, call: Call, resubmitted: bool) -> None:
        def on_disk(problem: Problem | None) -> None:
            if problem is not None:
                if not call.over:
                    self.registry.forget(call)
                    self.registry.drop_pool_if_unused(call.pool)
                    self.refuse(client, problem, call.call_id)
                return
            call.function.saved = True
            self._say_accepted(client, call.call_id)
            if call.over:
                return
            if call.cancelled is not None:
                self.endings.cancel(call, call.cancelled, "")
                return
            now = monotonic()
            call.since = now
            self._queue(call, resubmitted, now)

        self.log.durable(call, on_disk)

    def _submitted_again(self, client: Client, message: Submit, call: Call) -> None:
        if call.unclaimed:
            function = client.functions.get(message.function_id)
            if function is None or (call.user and call.user != client.user):
                self.refuse(client, _unknown_function(message.function_id), message.call_id)
                return
            self.recovery.claim(call, client, message, function)
        elif call.user != client.user:
            self.refuse(client, _unknown_call(message.call_id), message.call_id)
            return
        if client.port is not None:
            client.port.send(Accepted(call_id=call.call_id))
        if call.call_id not in client.attachments and not call.log_consumes:
            self.streams.attach(client, call, 0, call.window, 0)

    def _problem_with(
        self, message: Submit, function: Function | None, *, in_gateway: bool
    ) -> Problem | None:
        if function is None:
            return _unknown_function(message.function_id)
        if not is_id(message.call_id, "fc"):
            return Problem(
                error="InvalidError", message=f"{message.call_id!r} is not the id of a call (fc-…)."
            )
        spec = function.spec
        if message.kind == "kernel" and not in_gateway:
            return Problem(
                error="InvalidError",
                message="Only the gateway starts kernels: ask its Jupyter API, at /jupyter, for one.",
            )
        if (message.kind == "cell") != bool(spec.session):
            return Problem(
                error="InvalidError",
                message=f"A call of kind {message.kind!r} cannot run in "
                + (f"session {spec.session}." if spec.session else f"{spec.app}.{spec.name}."),
            )
        limits = self.registry.settings.gateway
        if len(self.registry.calls) >= limits.max_queued_calls:
            return Problem(
                error="ResourceExhaustedError",
                message=f"The gateway holds {len(self.registry.calls):,} unfinished calls, "
                "its limit. Wait for some of them, use map for many inputs, or raise max_queued_calls in "
                "[gateway] of config.toml.",
            )
        if self.registry.queued_bytes + len(message.args.data) > limits.max_queued_bytes:
            return Problem(
                error="ResourceExhaustedError",
                message=f"The gateway holds {self.registry.queued_bytes:,} bytes of arguments of unfinished "
                "calls, which is its limit. Wait for some of them, or raise max_queued_bytes in [gateway] of "
                "config.toml.",
            )
        database = self.log.database
        if database.congested:
            return database.problem or Problem(
                error="ResourceExhaustedError",
                message=f"The gateway cannot write its log as fast as it fills ({database.backlog:,} bytes "
                "wait). Try again in a moment.",
            )
        args = message.args
        if args.size <= INLINE_LIMIT and not args.blob and len(args.data) <= INLINE_LIMIT:
            return None
        return self._bad_payload(args, f"The arguments of {spec.app}.{spec.name}")

    def _bad_payload(self, payload: Payload, what: str) -> Problem | None:
        if not payload.blob:
            if len(payload.data) <= INLINE_LIMIT:
                return None
            return Problem(
                error="InvalidError",
                message=f"{what} are {len(payload.data):,} bytes; what is over {INLINE_LIMIT:,} bytes must "
                "go to the store first.",
            )
        try:
            if self.registry.store.has(payload.blob):
                return None
        except (ValueError, StoreError, OSError) as error:
            return Problem(error="InvalidError", message=f"{what} cannot be read from the store: {error}")
        return Problem(
            error="NotFoundError",
            message=f"{what} are not in the store: it has no blob {payload.blob} ({payload.size:,} bytes). "
            "Send it again.",
        )

    # --- inputs of maps ------------------------------------------------------------------------------

    def inputs(self, client: Client, message: Inputs) -> None:
        """Inputs of a map have come."""
        call = self._own_call(client, message.call_id, message)
        if call is None or call.over or call.cancelled is not None:
            return
        if call.unclaimed:
            self.recovery.become_map(call)
        if not call.function.function_id:
            name = call.function.spec.name or call.call_id
            self.endings.fail(call, lost_with_gateway(name, "its function was in the gateway's memory"))
            return
        inputs = call.inputs
        if inputs is None:
            text = f"{message.call_id} is no map: it takes no inputs."
            self.refuse(client, Problem(error="InvalidError", message=text), message.call_id)
            return
        for number, item in enumerate(message.items, message.start):
            if item.blob or len(item.data) > INLINE_LIMIT:
                name = call.function.spec.name
                problem = self._bad_payload(item, f"The arguments of input {number} of {name}")
                if problem is not None:
                    self.refuse(client, problem, message.call_id)
                    return
        fresh = inputs.receive(message.start, message.items, message.total)
        if inputs.waiting + len(inputs.out) > 2 * MAX_OUTSTANDING_INPUTS:
            text = (
                f"{message.call_id} has {inputs.waiting + len(inputs.out):,} inputs without result at the "
                f"gateway; a client may send {MAX_OUTSTANDING_INPUTS:,} ahead."
            )
            self.endings.fail(call, Problem(error="InvalidError", message=text))
            return
        if inputs.finished:
            self.endings.map_progressed(call)
        elif fresh:
            if call.held:
                return
            call.pool.add_units(call, fresh, monotonic())
            self.dispatcher.work_came(call.pool)

    # --- watching and ending -------------------------------------------------------------------------

    def attach(self, client: Client, message: Attach) -> None:
        """A client wants a call's events."""
        call = self._own_call(client, message.call_id, message)
        if call is None:
            return
        self.recovery.adopt(call, client)
        window = min(max(message.window, 1), MAX_WINDOW) if message.window else DEFAULT_WINDOW
        self.streams.attach(client, call, message.seq, window, message.total)
        if client.container_id:
            self.dispatcher.waiting_began()
        if call.visible:
            self.status.changed(call)

    def detach(self, client: Client, message: Detach) -> None:
        """A client wants no more of a call's events."""
        call = self._own_call(client, message.call_id, message)
        if call is None:
            return
        self.streams.detach(client, call.call_id)
        if call.over or call.log_consumes:
            return
        if message.keep:
            call.detached = True
            self.log.changed(call)
            self.streams.refresh_window(call)
        elif not call.attachments:
            self.endings.cancel(call, "cancel", "its client let go of it")

    def cancel(self, client: Client, message: Cancel) -> None:
        """A client wants a call to end."""
        call = self._own_call(client, message.call_id, message)
        if call is not None:
            self.endings.cancel(call, message.mode, message.reason)

    def _own_call(self, client: Client, call_id: str, message: ClientMessage) -> Call | None:
        call = self.registry.find(call_id)
        if call is None:
            # It may be in the log; the message comes again when that is known.
            self.recovery.look_up(client, call_id, message)
            return None
        if call.user != client.user and (call.user or not call.unclaimed):
            self.refuse(client, _unknown_call(call_id), call_id)
            return None
        return call

    def not_found(self, client: Client, message: ClientMessage) -> None:
        """The log does not have the call that a message is about."""
        call_id = getattr(message, "call_id", "")
        self.refuse(client, _unknown_call(call_id), call_id)


def _unknown_call(call_id: str) -> Problem:
    return Problem(
        error="NotFoundError",
        message=f"There is no call {call_id}: it is older than what the gateway keeps, or never reached it.",
    )


def _unknown_function(function_id: str) -> Problem:
    return Problem(
        error="NotFoundError", message=f"The function {function_id} was not defined on this connection."
    )
