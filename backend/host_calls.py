"""What hosts say while they run calls: events, containers that came and went, samples."""

from __future__ import annotations

import logging
import time
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from skylift.backend.calls import Call
from skylift.backend.pools import Container, Host, Pool
from skylift.backend.streams import events_from
from skylift.wire import (
    BuildEnded,
    BuildOutput,
    CallLost,
    CallStarted,
    ContainerChanged,
    Events,
    HostMessage,
    Persisted,
    Problem,
    Returned,
    SessionSlept,
    TemplatesChanged,
    UsageReport,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from skylift.backend.builds import Builds
    from skylift.backend.call_log import CallLog
    from skylift.backend.dispatch import Dispatcher
    from skylift.backend.endings import Endings
    from skylift.backend.registry import Registry
    from skylift.backend.sleeping import SleepingSessions
    from skylift.backend.status import StatusUpdates
    from skylift.backend.streams import Streams
    from skylift.backend.usage_history import UsageHistory

MAX_START_FAILURES = 3
"""In a row; then what waits for the container fails."""

START_RETRY = 0.5
"""Seconds before a start that failed is tried again, doubled each time."""

WARM_RETRY = 60.0
"""Seconds before a container is tried again that nothing waits for, after so many failures."""

HOPELESS = frozenset({"InvalidError", "NotFoundError", "PermissionDeniedError", "VersionError"})
"""Errors of a start that come again however often it is tried."""

LAST_WORDS = 5.0
"""Seconds that a host has to say what became of a call after its container has exited."""

log = logging.getLogger(__name__)


class HostCalls:
    """Takes in what a host says."""

    def __init__(
        self,
        registry: Registry,
        call_log: CallLog,
        streams: Streams,
        status: StatusUpdates,
        dispatcher: Dispatcher,
        endings: Endings,
        sleeping: SleepingSessions,
        builds: Builds,
        history: UsageHistory,
    ) -> None:
        self.registry = registry
        self.log = call_log
        self.streams = streams
        self.status = status
        self.dispatcher = dispatcher
        self.endings = endings
        self.sleeping = sleeping
        self.builds = builds
        self.history = history
        self.on_templates: Callable[[], None] | None = None
        """Told that a host has other templates, while somebody watches."""
        self.become_map: Callable[[Call], None]

    def message(self, host: Host, message: HostMessage, frame: bytes) -> None:
        """Take in a message; `frame` is its bytes, or empty."""
        if isinstance(message, Events):
            self.events(host, message, frame)
        elif isinstance(message, UsageReport):
            self.usage(message)
        elif isinstance(message, CallStarted):
            self.started(message)
        elif isinstance(message, ContainerChanged):
            self.container_changed(host, message)
        elif isinstance(message, SessionSlept):
            self.sleeping.slept(host, message)
        elif isinstance(message, TemplatesChanged):
            host.templates = message.templates
            if self.on_templates is not None:
                self.on_templates()
        elif isinstance(message, BuildOutput):
            self.builds.output(host, message)
        elif isinstance(message, BuildEnded):
            self.builds.ended(host, message)
        elif isinstance(message, Returned):
            call = self.registry.calls.get(message.call_id)
            if call is not None:
                self._inputs_returned(call, message.inputs)
        elif isinstance(message, CallLost):
            call = self.registry.calls.get(message.call_id)
            if call is not None and call.inputs is None:
                container = call.container
                self.endings.lost_before_it_began(call, message.reason)
                if container is not None:
                    self.registry.loop.call_later(LAST_WORDS, self._free_if_without_call, container)

    # --- events --------------------------------------------------------------------------------------

    def events(self, host: Host, message: Events, frame: bytes) -> None:
        """The next events of a call."""
        call = self.registry.calls.get(message.call_id)
        if call is None:
            self._late(host, message)
            return
        if message.seq != call.next_seq:
            after = message.seq + message.count
            if message.seq > call.next_seq:
                self._gap(host, call, message)
                return
            if after < call.next_seq or (after == call.next_seq and message.end is None):
                return
            message = events_from(message, call.next_seq, self.streams.blob_size)
            frame = b""
        end = message.end
        if end is None:
            if not call.first_output and message.count:
                self._first_output(call)
            self.streams.accept(call, message, frame)
            if message.done:
                self._inputs_done(call, message.done)
            if call.unreported is not None:
                self.settle_unreported(call)
        else:
            # The state first: whoever is sent the end may look at the call.
            call.state = end.state
            self.streams.accept(call, message, frame)
            self.endings.finish(call, end, monotonic())

    def _first_output(self, call: Call) -> None:
        call.first_output = time.time()
        if not call.started:
            call.started = call.first_output
        self.log.changed(call)

    def _late(self, host: Host, message: Events) -> None:
        """Events of a call that is over here, or unknown: the host need not keep them, unless the log does
        not have its end yet; then that is said when it has."""
        call = self.registry.recent.get(message.call_id)
        if host.port is not None and (call is None or call.end_logged):
            after = message.seq + message.count
            host.port.send(Persisted(call_id=message.call_id, seq=after, end=message.end is not None))

    def _gap(self, host: Host, call: Call, message: Events) -> None:
        log.error(
            "Host %s sent event %d of %s, and %d was due: its link is made anew",
            host.name,
            message.seq,
            call.call_id,
            call.next_seq,
        )
        if host.port is not None:
            host.port.close(f"event {call.next_seq} of {call.call_id} was due, not {message.seq}")

    def started(self, message: CallStarted) -> None:
        """A call has begun, and lasts for longer than a blink."""
        call = self.registry.calls.get(message.call_id)
        if call is not None and not call.started:
            call.started = message.time
            call.sockets = message.sockets
            self.log.changed(call)
            self.status.changed(call)

    # --- maps ----------------------------------------------------------------------------------------

    def _inputs_done(self, call: Call, indexes: tuple[int, ...]) -> None:
        if call.inputs is None:
            self.become_map(call)
        inputs = call.inputs
        assert inputs is not None
        now = monotonic()
        affected = inputs.finish(indexes, now)
        call.batch = inputs.batch
        pool = call.pool
        pool.duration = inputs.seconds
        for container_id, outstanding in affected.items():
            container = pool.members.get(container_id)
            if container is None or container.call is not call:
                inputs.leave(container_id)
                continue
            container.since = now
            if outstanding:
                self.dispatcher.top_up(call, container, outstanding, now)
            else:
                self._refill(call, container, now)
        self.log.changed(call)
        if inputs.finished or (call.cancelled is not None and not inputs.out):
            self.endings.map_progressed(call)

    def _refill(self, call: Call, container: Container, now: float) -> None:
        """A container has done all of a map that it had."""
        assert call.inputs is not None
        pool = call.pool
        alone = len(pool.queue) == 1 and pool.queue[0] is call
        if alone and container.phase == "busy" and not container.retiring and not pool.idle:
            self.dispatcher.top_up(call, container, 0, now)
            if call.inputs.shares[container.container_id].indexes:
                return
        call.inputs.leave(container.container_id)
        container.meter.calls += 1
        self.dispatcher.release(container)
        if container.phase == "busy":
            self.dispatcher.container_idle(container, now)

    def _inputs_returned(self, call: Call, indexes: tuple[int, ...]) -> None:
        if call.inputs is None:
            return
        self.endings.inputs_came_back(call, indexes)
        # The container that gave them back is about to exit; should it not, it is free again.
        self.registry.loop.call_later(LAST_WORDS, self._free_if_empty, call)

    def _free_if_without_call(self, container: Container) -> None:
        """A container that lost its call is about to exit; should it not, it is free again."""
        if container.phase == "busy" and container.call is None:
            self.dispatcher.container_idle(container, monotonic())

    def _free_if_empty(self, call: Call) -> None:
        if call.over or call.inputs is None:
            return
        for container in call.containers():
            if not call.inputs.shares[container.container_id].indexes:
                self._refill(call, container, monotonic())

    def settle_unreported(self, call: Call) -> None:
        """Once all is there that a map's host had produced when it came back, let the map go on: inputs
        that it did not report and that have no result run again."""
        inputs = call.inputs
        if inputs is None or call.unreported is None or call.next_seq < call.expected_seq or call.over:
            return
        lost = {index for index in call.unreported if index not in inputs.done}
        call.unreported = None
        call.held = False
        call.pool.add_units(call, inputs.waiting - call.units, monotonic())
        self.endings.inputs_came_back(call, lost)
        self._free_if_empty(call)
        self.dispatcher.work_came(call.pool)

    # --- containers ----------------------------------------------------------------------------------

    def container_changed(self, host: Host, message: ContainerChanged) -> None:
        """A container is ready, or has exited."""
        container = host.members.get(message.info.container_id)
        if container is None:
            return
        info = message.info
        if info.state == "ready":
            self._ready(container, message)
        elif info.state == "exited":
            container.info = msgspec.structs.replace(info, started=container.started)
            self.gone(container, info.exit_reason or container.exit_reason, message.problem)

    def _ready(self, container: Container, message: ContainerChanged) -> None:
        pool = container.pool
        now = monotonic()
        container.info = msgspec.structs.replace(message.info, started=container.started)
        container.ready = time.time()
        seconds = message.info.path_seconds or container.ready - container.started
        pool.startup = seconds if not pool.startup else pool.startup + 0.3 * (seconds - pool.startup)
        pool.failures = 0
        pool.problem = None
        pool.not_before = pool.warm_not_before = 0.0
        if pool.session:
            self.sleeping.woke(container)
        self.log.container(container)
        if container.phase == "starting":
            self.dispatcher.container_idle(container, now)

    def gone(self, container: Container, reason: str, problem: Problem | None) -> None:
        """A container has exited, or its host does not have it any more."""
        pool = container.pool
        call = container.call
        was_starting = not container.ready
        was_stopping = container.phase == "stopping"
        container.ended = time.time()
        container.exit_reason = container.exit_reason or reason
        container.info = msgspec.structs.replace(
            container.info, state="exited", exit_reason=container.exit_reason
        )
        if call is not None:
            self.dispatcher.release(container)
            container.call = None
            self.registry.loop.call_later(LAST_WORDS, self._settle, call, container, container.exit_reason)
        self.dispatcher.remove_container(container)
        self.log.spend(container)
        if pool.session:
            self.sleeping.container_gone(container)
        if was_starting and not was_stopping:
            if container.wakes:
                self.sleeping.not_woken(container, reason, problem)
            else:
                self._start_failed(pool, reason, problem)
        self.registry.drop_pool_if_unused(pool)
        self.dispatcher.think()

    def _start_failed(self, pool: Pool, reason: str, problem: Problem | None) -> None:
        pool.failures += 1
        pool.problem = problem or Problem(
            error="RemoteError",
            message=f"A container of {pool.label} did not start: {reason or 'no reason given'}",
        )
        pool.not_before = monotonic() + START_RETRY * 2 ** (pool.failures - 1)
        if pool.failures < MAX_START_FAILURES and pool.problem.error not in HOPELESS:
            return
        failed, pool.problem, pool.failures, pool.not_before = pool.problem, None, 0, 0.0
        pool.warm_not_before = monotonic() + WARM_RETRY
        if pool.waking is not None:
            self.sleeping.fail_waking(pool, failed)
        for call in pool.waiting_calls():
            self.endings.fail(call, failed)

    def _settle(self, call: Call, container: Container, reason: str) -> None:
        """A container exited a while ago: what its host has not spoken of is lost."""
        if call.over:
            return
        if call.inputs is not None:
            left = call.inputs.leave(container.container_id)
            others = call.containers()
            if left and call.taken_up and others:
                call.inputs.hand_on(left, others[0].container_id)
            elif left:
                self._fail_lost(call, container, reason)
        elif call.container is container:
            self._fail_lost(call, container, reason)

    def _fail_lost(self, call: Call, container: Container, reason: str) -> None:
        self.endings.fail(
            call,
            Problem(
                error="InternalFailure",
                message=f"Container {container.container_id} on {container.host.name} ended while it ran "
                f"{call.function.spec.name}, and what became of the call is not known "
                f"({reason or 'no reason given'}).",
            ),
        )

    def usage(self, message: UsageReport) -> None:
        """Samples of what containers use."""
        containers = self.registry.containers
        self.history.sampled(message.samples)
        for sample in message.samples:
            container = containers.get(sample.container_id)
            if container is not None:
                container.usage = sample
                self.status.sampled(container)
