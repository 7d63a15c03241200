"""How calls end: by their host's last frame, by a cancellation, or because something was lost."""

from __future__ import annotations

import time
from time import monotonic
from typing import TYPE_CHECKING

from skylift.backend.calls import LOST_ARGS, Call
from skylift.backend.problems import error_event, interrupt_event, lost_with_gateway, summary
from skylift.backend.streams import NO_EVENTS
from skylift.wire import (
    CallState,
    CancelCall,
    CancelMode,
    End,
    Event,
    Events,
    Problem,
    encode_events,
    event_cost,
)

if TYPE_CHECKING:
    from skylift.backend.call_log import CallLog
    from skylift.backend.dispatch import Dispatcher
    from skylift.backend.pools import Container
    from skylift.backend.registry import Registry
    from skylift.backend.status import StatusUpdates
    from skylift.backend.streams import Streams

MAX_LOSSES = 3
"""How often a call that never began is given to another container."""

CANCEL_SECONDS = 15.0
"""How long a cancelled map's inputs have to react before their containers are ended."""


class Endings:
    """Ends calls, once each."""

    def __init__(
        self, registry: Registry, call_log: CallLog, streams: Streams, status: StatusUpdates
    ) -> None:
        self.registry = registry
        self.log = call_log
        self.streams = streams
        self.status = status
        self.dispatcher: Dispatcher

    def finish(self, call: Call, end: End, now: float) -> None:
        """Note that a call has ended; its last frame has been accepted. Its container takes the next one."""
        call.state = end.state
        call.error = end.summary
        times = end.times
        call.started = times.started or call.started
        call.first_output = times.first_output or call.first_output
        call.ended = times.ended or time.time()
        call.peak_memory = end.peak_memory
        call.pool.remove(call)
        call.units = 0
        if call.inputs is None:
            container = call.container
            if container is not None and container.call is call:
                self._leave(container, call, now)
        else:
            for container in call.containers():
                self._leave(container, call, now)
            call.inputs.drop_waiting()
            call.inputs.out.clear()
        call.container = None
        if call.attachments:
            self.streams.finished(call)
        self.registry.over(call)
        self.log.changed(call)
        if not call.pool.containers:
            self.registry.drop_pool_if_unused(call.pool)

    def _leave(self, container: Container, call: Call, now: float) -> None:
        pool = container.pool
        if container.phase == "busy":
            seconds = now - container.since
            if call.inputs is None:
                pool.duration = (
                    seconds if not pool.duration else pool.duration + 0.3 * (seconds - pool.duration)
                )
                container.meter.calls += 1
            self.dispatcher.release(container)
            self.dispatcher.container_idle(container, now)
        else:
            self.dispatcher.release(container)

    # --- ends that the gateway makes -----------------------------------------------------------------

    def fail(self, call: Call, problem: Problem) -> None:
        """End a call with an error of ours."""
        self._end(call, "failed", [error_event(problem)], summary(problem))

    def done(self, call: Call) -> None:
        """End a map whose inputs all have their results."""
        self._end(call, "done", [], "")

    def _end(self, call: Call, state: CallState, events: list[Event], text: str) -> None:
        if call.over:
            return
        now = time.time()
        call.ended = now
        end = End(state=state, summary=text, times=call.times(), peak_memory=call.peak_memory)
        message = Events(
            call_id=call.call_id,
            seq=call.next_seq,
            count=len(events),
            body=encode_events(events) if events else NO_EVENTS,
            cost=sum(event_cost(len(event.data)) for event in events),
            end=end,
        )
        # The state first: whoever is sent the end may look at the call.
        call.state = state
        call.error = text
        self.streams.accept(call, message, b"")
        self.finish(call, end, monotonic())

    # --- cancelling ----------------------------------------------------------------------------------

    def cancel(self, call: Call, mode: CancelMode, reason: str) -> None:
        """Cancel a call: at once where it waits, through its host where it runs."""
        if call.over:
            return
        call.cancelled = mode
        if call.inputs is not None:
            self._cancel_map(call, mode, reason)
        elif call.container is None and not call.unclaimed:
            self._end_cancelled(call, mode, reason)
        else:
            self._pass_on(call, mode, reason)

    def repeat_cancel(self, call: Call) -> None:
        """The host of a call that is being cancelled has come back: it may not have heard of it."""
        if call.cancelled is not None:
            self._pass_on(call, call.cancelled, "")

    def _pass_on(self, call: Call, mode: CancelMode, reason: str) -> None:
        host = self.registry.hosts.get(call.host_id)
        if host is not None and host.port is not None:
            host.port.send(CancelCall(call_id=call.call_id, mode=mode, reason=reason))
        self.status.changed(call)

    def _cancel_map(self, call: Call, mode: CancelMode, reason: str) -> None:
        assert call.inputs is not None
        call.pool.remove(call)
        call.units = 0
        call.inputs.drop_waiting()
        if not call.inputs.out:
            self._end_cancelled(call, mode, reason)
            return
        self._pass_on(call, mode, reason)
        self.registry.loop.call_later(CANCEL_SECONDS, self._cancel_overdue, call, mode, reason)

    def _cancel_overdue(self, call: Call, mode: CancelMode, reason: str) -> None:
        if call.over:
            return
        for container in call.containers():
            self.dispatcher.stop_container(container, "a cancelled map did not let go of it", monotonic())
        self._end_cancelled(call, mode, reason)

    def _end_cancelled(self, call: Call, mode: CancelMode, reason: str) -> None:
        if mode == "interrupt":
            self._end(call, "cancelled", [interrupt_event()], "KeyboardInterrupt")
            return
        problem = Problem(error="InputCancellation", message=reason or "the call was cancelled")
        self._end(call, "cancelled", [error_event(problem)], summary(problem))

    def map_progressed(self, call: Call) -> None:
        """A map has got results or lost inputs: it may be over."""
        assert call.inputs is not None
        if call.cancelled is not None:
            if not call.inputs.out:
                self._end_cancelled(call, call.cancelled, "")
        elif call.inputs.finished:
            self.done(call)

    # --- what was lost -------------------------------------------------------------------------------

    def lost_before_it_began(self, call: Call, reason: str) -> None:
        """A call was with a container that ended before the call began: another one gets it, a few times."""
        if call.over:
            return
        container = call.container
        if container is not None and container.call is call:
            self.dispatcher.release(container)
        call.container = None
        call.losses += 1
        if call.cancelled is not None:
            self._end_cancelled(call, call.cancelled, "")
            return
        if call.losses > MAX_LOSSES:
            self.fail(
                call,
                Problem(
                    error="InternalFailure",
                    message=f"{call.function.spec.name} was given to {call.losses} containers, and each "
                    f"ended before it began. The last one: {reason}",
                ),
            )
            return
        self.requeue(call)

    def requeue(self, call: Call) -> None:
        """Put a call back to the front of its queue."""
        call.container = None
        if call.args is LOST_ARGS:
            name = call.function.spec.name
            self.fail(call, lost_with_gateway(name, "its arguments were in the gateway's memory"))
            return
        call.state = "queued"
        call.started = 0.0
        call.units = 1
        call.since = monotonic()
        call.pool.push_front(call)
        self.log.changed(call)
        self.status.changed(call)
        self.dispatcher.work_came(call.pool)

    def inputs_came_back(self, call: Call, indexes: tuple[int, ...] | set[int]) -> None:
        """Inputs of a map have to run again."""
        if call.over or call.inputs is None:
            return
        count = call.inputs.give_back(indexes)
        if call.cancelled is not None:
            call.inputs.drop_waiting()
            self.map_progressed(call)
        elif count:
            in_line = call.units
            call.pool.add_units(call, count, monotonic())
            if not in_line:
                # What was out already goes before what has come since.
                call.pool.remove(call)
                call.pool.push_front(call)
            self.dispatcher.work_came(call.pool)
