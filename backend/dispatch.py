"""Carries out what the scheduler decides, and sees to it that the scheduler is asked."""

from __future__ import annotations

import asyncio
import time
from time import monotonic
from typing import TYPE_CHECKING

from skylift.backend.calls import Call
from skylift.backend.costs import hourly_price
from skylift.backend.pools import Container, Pool
from skylift.backend.scheduler import assign, decide, top_up
from skylift.backend.scheduler_state import Assign, Decision, Fail, Keep, Retire, Sleep, Start, Stop, Wait
from skylift.backend.streams import answer
from skylift.runtime.bucket_keys import with_keys
from skylift.wire import (
    Code,
    Problem,
    RunCall,
    RunInputs,
    SleepContainer,
    StartContainer,
    StopContainer,
    new_id,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skylift.backend.call_log import CallLog
    from skylift.backend.engines.base import Engine
    from skylift.backend.nesting import Nesting
    from skylift.backend.registry import Registry
    from skylift.backend.status import StatusUpdates
    from skylift.backend.tokens import TokenBook

STOP_GRACE = 5.0
"""Seconds that exit handlers have."""

UNDER_PRESSURE = 0.02
"""Seconds between two decisions while calls come and go but no container does."""


class Dispatcher:
    """Gives work to containers and containers to pools.

    Work for a warm pool goes to its container at once, in the same turn of the event loop. All else is
    decided by `decide`, in the next turn or later.
    """

    def __init__(
        self,
        registry: Registry,
        call_log: CallLog,
        status: StatusUpdates,
        engines: Sequence[Engine],
        fail: Callable[[Call, Problem], None],
        tokens: TokenBook,
    ) -> None:
        """`fail` ends a call with an error."""
        self.nesting: Nesting
        self.fail_waking: Callable[[Pool, Problem], None]
        self.registry = registry
        self.log = call_log
        self.status = status
        self.engines = engines
        self.tokens = tokens
        self._fail = fail
        self.on_decided: Callable[[], None] | None = None
        """Told that there was a decision, while somebody watches."""
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")
        self._blocked = False
        """Some pool waited for room when it was last decided."""
        self._stopped = False

    # --- what happens ------------------------------------------------------------------------------

    def work_came(self, pool: Pool) -> None:
        """Something was put into the pool's queue."""
        if pool.idle:
            self._assign(pool)
        if pool.queue:
            self.think_later(0.0 if not pool.containers else UNDER_PRESSURE)

    def container_idle(self, container: Container, now: float) -> None:
        """A container has nothing to run any more."""
        pool = container.pool
        if pool.spec.single_use and container.calls:
            pool.retire(container)
        pool.set_phase(container, "idle", now)
        if container.retiring:
            self.think()
        elif pool.queue:
            self._assign(pool)
        if pool.queue or self._blocked:
            self.think_later(UNDER_PRESSURE, now)
        else:
            self.think_later(pool.scaledown_window, now)

    def waiting_began(self) -> None:
        """A call has begun to wait for another: whoever waits for room may get some, or never will."""
        self.think_later(UNDER_PRESSURE)

    def think(self) -> None:
        """Decide in the next turn of the event loop."""
        self.think_later(0.0)

    def think_later(self, delay: float, now: float | None = None) -> None:
        """Decide in `delay` seconds at the latest."""
        due = (monotonic() if now is None else now) + delay
        if due >= self._due or self._stopped:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self.registry.loop.call_later(delay, self._think)

    def stop(self) -> None:
        """Decide nothing more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    # --- deciding ----------------------------------------------------------------------------------

    def _think(self) -> None:
        self._timer = None
        self._due = float("inf")
        state = self.registry.scheduler
        now = monotonic()
        state.no_host = self._without_host()
        self._blocked = False
        self.nesting.refresh()
        wake = float("inf")
        for decision in decide(state, now):
            self._carry_out(decision, now)
            if isinstance(decision, (Wait, Keep)) and decision.until is not None:
                wake = min(wake, decision.until)
        if wake < float("inf"):
            self.think_later(max(0.0, wake - now), now)
        self.nesting.break_deadlocks(now)
        if self.on_decided is not None:
            self.on_decided()

    def _without_host(self) -> str:
        """What to tell people while no host is there; fails what waits where none will come."""
        registry = self.registry
        if any(host.connected for host in registry.hosts.values()):
            return ""
        problems = [engine.describe().problem for engine in self.engines]
        if problems and all(problems):
            problem = Problem(error="RemoteError", message=" ".join(problems))
            for pool in list(registry.pools.values()):
                for call in pool.waiting_calls():
                    self._fail(call, problem)
        return "waiting for the host process to start"

    def _carry_out(self, decision: Decision, now: float) -> None:
        registry = self.registry
        if isinstance(decision, Assign):
            pool = registry.pools[decision.pool_id]
            self._give(pool, pool.members[decision.container_id], decision.units, now)
        elif isinstance(decision, Start):
            self._start(decision, now)
        elif isinstance(decision, Stop):
            self.stop_container(registry.containers[decision.container_id], decision.reason, now)
        elif isinstance(decision, Sleep):
            self.sleep_container(registry.containers[decision.container_id], decision.reason, now)
        elif isinstance(decision, Retire):
            container = registry.containers[decision.container_id]
            container.pool.retire(container)
        elif isinstance(decision, Fail):
            pool = registry.pools[decision.pool_id]
            if pool.waking is not None:
                self.fail_waking(pool, decision.problem)
            for call in pool.waiting_calls():
                self._fail(call, decision.problem)
        elif isinstance(decision, Wait):
            pool = registry.pools[decision.pool_id]
            self._blocked = True
            if pool.reason != decision.reason:
                pool.reason = decision.reason
                self.status.pool_changed(pool)

    # --- giving work -------------------------------------------------------------------------------

    def _assign(self, pool: Pool) -> None:
        now = monotonic()
        for given in assign(pool):
            self._give(pool, pool.members[given.container_id], given.units, now)

    def _give(self, pool: Pool, container: Container, units: int, now: float) -> None:
        call = pool.give(units, now)
        assert isinstance(call, Call)
        host = container.host
        port = host.port
        assert port is not None
        function = call.function
        if not container.calls:
            # However quick it is: people are told how its container came to be.
            call.visible = True
        container.cannot_sleep = ""
        if function.code.size and function.function_id not in host.codes:
            host.codes.add(function.function_id)
            port.send(Code(function_id=function.function_id, code=function.code))
        if call.inputs is None:
            port.send(
                RunCall(
                    container_id=container.container_id,
                    call_id=call.call_id,
                    function_id=function.function_id,
                    kind=call.kind,
                    args=call.args,
                    window=call.window,
                    timeout=function.spec.timeout,
                    first_seq=call.next_seq,
                    first_total=call.total,
                )
            )
            container.calls += 1
        else:
            self._send_inputs(call, container, units, now)
        pool.set_phase(container, "busy", now)
        container.call = call
        container.notebook = call.notebook
        container.busy_since = time.time()
        call.container = container
        call.attempts += 1
        if call.container_id != container.container_id:
            call.container_id = container.container_id
            call.host_id = host.host_id
            call.gpu = container.gpu
            call.price = container.price
        if call.state == "queued":
            call.state = "running"
            if call.visible:
                if not call.answered:
                    answer(call)
                self.status.changed(call)
        self.log.changed(call)

    def _send_inputs(self, call: Call, container: Container, units: int, now: float) -> None:
        assert call.inputs is not None
        indexes, items = call.inputs.take(container.container_id, units, now)
        if len(indexes) < units:
            # Large ones: fewer than were meant. The others keep their place in line.
            call.pool.add_units(call, units - len(indexes), now)
        port = container.host.port
        assert port is not None
        port.send(
            RunInputs(
                container_id=container.container_id,
                call_id=call.call_id,
                function_id=call.function.function_id,
                indexes=indexes,
                items=items,
                timeout=call.function.spec.timeout,
                window=call.window,
                first_seq=call.next_seq,
                first_total=call.total,
            )
        )
        container.calls += len(indexes)

    def top_up(self, call: Call, container: Container, outstanding: int, now: float) -> None:
        """Give a container that works on a map more of it before it has finished what it has."""
        units = top_up(call.pool, call, outstanding)
        if units and container.phase == "busy" and not container.retiring:
            call.pool.give(units, now)
            self._send_inputs(call, container, units, now)

    # --- containers --------------------------------------------------------------------------------

    def _start(self, decision: Start, now: float) -> None:
        registry = self.registry
        pool = registry.pools[decision.pool_id]
        host = registry.hosts[decision.host_id]
        gpu = decision.gpu
        container = Container(
            new_id("co"),
            pool,
            host,
            gpu=gpu,
            price=hourly_price(
                registry.settings.prices,
                gpu.model if gpu is not None else "",
                gpu.count if gpu is not None else 0,
                pool.cpu,
                pool.memory,
            ),
            reason=decision.reason,
            now=now,
        )
        first = pool.queue[0] if pool.queue else None
        if isinstance(first, Call):
            container.notebook = first.notebook
        asleep = registry.sleeping.get(pool.pool_id)
        container.wakes = asleep is not None
        self.add_container(container)
        assert host.port is not None
        host.port.send(
            StartContainer(
                container_id=container.container_id,
                pool_id=pool.pool_id,
                spec=pool.spec if asleep is None else with_keys(asleep.session.spec, pool.spec),
                gpu=gpu,
                token=self.tokens.mint(container.container_id, pool.user),
                user=pool.user,
                wake=None if asleep is None else asleep.session.snapshot,
            )
        )

    def add_container(self, container: Container) -> None:
        """Count a container as being there."""
        container.pool.containers[container.container_id] = container
        container.host.containers[container.container_id] = container
        self.registry.containers[container.container_id] = container
        self.nesting.container_known(container.container_id)
        self.log.container(container)

    def stop_container(self, container: Container, reason: str, now: float) -> None:
        """End a container; what it runs is ended by its host."""
        if container.phase == "stopping":
            if container.sleeping:
                # Its host cannot end what it is writing. Which way that goes, it is ended then.
                container.unwanted = container.unwanted or reason
            return
        container.exit_reason = reason
        container.pool.set_phase(container, "stopping", now)
        if container.host.port is not None:
            container.host.port.send(
                StopContainer(container_id=container.container_id, grace=STOP_GRACE, reason=reason)
            )

    def sleep_container(self, container: Container, reason: str, now: float) -> None:
        """Put an idle session to sleep."""
        container.sleep_reason = reason
        container.idle_at = container.since
        container.sleeping = True
        container.pool.set_phase(container, "stopping", now)
        if container.host.port is not None:
            container.host.port.send(SleepContainer(container_id=container.container_id))

    def release(self, container: Container) -> None:
        """A container has ended what it ran: note what that cost."""
        call = container.call
        if container.busy_since:
            seconds = max(0.0, time.time() - container.busy_since)
            container.meter.busy += seconds
            container.busy_since = 0.0
            if call is not None:
                call.cost += seconds * container.price / 3600
            self.log.container(container)
        container.call = None

    def remove_container(self, container: Container) -> None:
        """A container is gone."""
        container.pool.set_phase(container, "stopping", monotonic())
        container.pool.containers.pop(container.container_id, None)
        container.host.containers.pop(container.container_id, None)
        self.registry.containers.pop(container.container_id, None)
        self.nesting.container_gone(container.container_id)
