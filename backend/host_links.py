"""Hosts that come, go and come back: what they have and what we think they have, put together again."""

from __future__ import annotations

import asyncio
import logging
import time
from time import monotonic
from typing import TYPE_CHECKING

from skylift.backend.calls import Call
from skylift.backend.costs import hourly_price
from skylift.backend.database import DatabaseError
from skylift.backend.maps import MapInputs
from skylift.backend.pools import Container, Host, Pool, pool_id
from skylift.wire import (
    FINAL_STATES,
    CallReport,
    ContainerInfo,
    ForgetSession,
    FunctionSpec,
    GpuRequest,
    HostHello,
    HostMessage,
    HostWelcome,
    Problem,
    SleepContainer,
)

if TYPE_CHECKING:
    from skylift.backend.builds import Builds
    from skylift.backend.call_log import CallLog
    from skylift.backend.control import HostPort
    from skylift.backend.dispatch import Dispatcher
    from skylift.backend.endings import Endings
    from skylift.backend.host_calls import HostCalls
    from skylift.backend.log_reader import LogReader
    from skylift.backend.recovery import Recovery
    from skylift.backend.registry import Registry
    from skylift.backend.sleeping import SleepingSessions
    from skylift.backend.streams import Streams
    from skylift.backend.tokens import TokenBook

log = logging.getLogger(__name__)


class HostLinks:
    """Welcomes hosts, and takes notice when one is gone."""

    def __init__(
        self,
        registry: Registry,
        call_log: CallLog,
        reader: LogReader,
        streams: Streams,
        dispatcher: Dispatcher,
        endings: Endings,
        host_calls: HostCalls,
        recovery: Recovery,
        sleeping: SleepingSessions,
        builds: Builds,
        tokens: TokenBook,
        gateway_id: str,
    ) -> None:
        self.registry = registry
        self.log = call_log
        self.reader = reader
        self.streams = streams
        self.dispatcher = dispatcher
        self.endings = endings
        self.host_calls = host_calls
        self.recovery = recovery
        self.sleeping = sleeping
        self.builds = builds
        self.tokens = tokens
        self.gateway_id = gateway_id
        self._early: dict[int, list[tuple[HostMessage, bytes]]] = {}
        """What hosts said before they were welcomed, by their port."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone: dict[str, asyncio.TimerHandle] = {}

    # --- a link comes ----------------------------------------------------------------------------------

    def connected(self, port: HostPort, hello: HostHello) -> None:
        """A host with the right token is there. Some of its calls may have to be looked up first."""
        unknown = [report.call_id for report in hello.calls if self.registry.find(report.call_id) is None]
        if not unknown:
            self._welcome(port, hello, {})
            return
        self._early[id(port)] = []
        task = self.registry.loop.create_task(self._look_up_and_welcome(port, hello, unknown))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_up_and_welcome(self, port: HostPort, hello: HostHello, unknown: list[str]) -> None:
        states: dict[str, str] = {}
        try:
            rows = await self.reader.calls(unknown)
            states = {call_id: row["state"] for call_id, row in rows.items()}
        except DatabaseError as error:
            log.error("Cannot look up the calls of host %s: %s", hello.facts.hostname, error)
        early = self._early.pop(id(port), None)
        if early is None:
            return
        self._welcome(port, hello, states)
        for message, frame in early:
            self.message(port, message, frame)

    def message(self, port: HostPort, message: HostMessage, frame: bytes) -> None:
        """A message on a link."""
        host = self.registry.links.get(id(port))
        if host is not None:
            self.host_calls.message(host, message, frame)
        elif id(port) in self._early:
            self._early[id(port)].append((message, frame))

    def _welcome(self, port: HostPort, hello: HostHello, states: dict[str, str]) -> None:
        registry = self.registry
        facts = hello.facts
        host = registry.hosts.get(facts.host_id)
        if host is None:
            host = registry.hosts[facts.host_id] = Host(facts)
            for other in list(registry.hosts.values()):
                # One machine, one host: another id there means that the earlier process is gone.
                if other is not host and other.port is None and other.facts.machine == facts.machine:
                    self._gone_for_good(other, "another host process took its place")
        else:
            host.update(facts)
        if host.port is not None and host.port is not port:
            old = host.port
            registry.links.pop(id(old), None)
            old.close("the host has made a new link")
        timer = self._gone.pop(host.host_id, None)
        if timer is not None:
            timer.cancel()
        host.port = port
        host.connected = True
        host.since = time.time()
        host.codes.clear()
        host.templates = hello.templates
        registry.links[id(port)] = host
        self.log.host(host)

        reports = {report.call_id: report for report in hello.calls}
        self._take_containers(host, hello, reports)
        forget = self.sleeping.reported(host, hello)
        welcome: dict[str, int] = {}
        known: list[tuple[Call, CallReport]] = []
        for report in hello.calls:
            over = self.registry.recent.get(report.call_id)
            if over is not None and not over.end_logged:
                # The host has to keep it until how it ended is in the log.
                welcome[report.call_id] = over.logged_seq
                continue
            call = self._reported(host, report, states.get(report.call_id, ""))
            if call is not None:
                welcome[report.call_id] = call.logged_seq
                known.append((call, report))
        port.send(HostWelcome(gateway_id=self.gateway_id, calls=welcome))
        for key in forget:
            port.send(ForgetSession(pool_id=key))
        for call, report in known:
            self._resume(call, report)
        self._settle_unreported(host, reports, {info.container_id for info in hello.containers})
        self.recovery.hosts_reported()
        for container in list(host.members.values()):
            if container.phase == "away":
                self._container_back(container)
            elif container.sleeping:
                # The host may not have heard of it.
                port.send(SleepContainer(container_id=container.container_id))
        self.builds.host_came(host)
        self.dispatcher.think()

    def _take_containers(self, host: Host, hello: HostHello, reports: dict[str, CallReport]) -> None:
        for info in hello.containers:
            container = host.members.get(info.container_id)
            if container is None and info.state != "exited":
                self._take_container(host, info, hello)
            elif container is not None:
                container.info = info
                if info.state != "starting" and not container.ready:
                    container.ready = time.time()
                    if container.pool.session:
                        self.sleeping.woke(container)

    def _take_container(self, host: Host, info: ContainerInfo, hello: HostHello) -> None:
        """A container that an earlier gateway started."""
        key = hello.pools.get(info.container_id, "")
        spec = hello.specs.get(key)
        pool = self._pool(key, spec) if spec is not None else None
        if pool is None:
            log.warning("Host %s has container %s of nobody known here", host.name, info.container_id)
            return
        gpu = _gpu_request(info.gpu)
        container = Container(
            info.container_id,
            pool,
            host,
            gpu=gpu,
            price=hourly_price(
                self.registry.settings.prices,
                gpu.model if gpu is not None else "",
                gpu.count if gpu is not None else 0,
                pool.cpu,
                pool.memory,
            ),
            reason="started before the gateway was",
            now=monotonic(),
        )
        container.info = info
        container.started = info.started or container.started
        container.ready = container.started if info.state == "ready" else 0.0
        container.phase = "away"
        container.wakes = info.state == "starting" and pool.asleep
        self.dispatcher.add_container(container)

    def _pool(self, key: str, spec: FunctionSpec) -> Pool | None:
        pool = self.registry.pools.get(key)
        if pool is not None:
            return pool
        for user in self.tokens.users():
            if pool_id(spec, user) == key:
                return self.registry.pool_for(spec, user)
        return None

    # --- its calls -------------------------------------------------------------------------------------

    def _reported(self, host: Host, report: CallReport, state: str) -> Call | None:
        """The call that a report is about, or None where the host should drop it."""
        call = self.registry.calls.get(report.call_id)
        container = host.members.get(report.container_id)
        if call is None:
            if state in FINAL_STATES or self.registry.find(report.call_id) is not None:
                return None
            if report.held_from > 0:
                log.error("Host %s has call %s, whose log is lost: dropped", host.name, report.call_id)
                return None
            call = self.recovery.unclaimed(report.call_id, container, report.inputs)
        if report.held_from > call.next_seq:
            self.endings.fail(
                call,
                Problem(
                    error="InternalFailure",
                    message=f"Events {call.next_seq} to {report.held_from - 1} of this call are lost: "
                    f"neither the gateway nor host {host.name} has them any more. Run it again.",
                ),
            )
            return None
        self.recovery.reported(call)
        call.host_id = host.host_id
        call.state = "running"
        call.expected_seq = max(report.next_seq, call.next_seq)
        if container is not None:
            self._put_together(call, container, report)
        return call

    def _put_together(self, call: Call, container: Container, report: CallReport) -> None:
        call.container = container
        call.container_id = container.container_id
        call.gpu = container.gpu
        call.price = container.price
        if report.ended:
            if container.call is call:
                self.dispatcher.release(container)
            return
        inputs = call.inputs
        if inputs is not None:
            # One report speaks for all the containers that work on the map: which has what is not known.
            for index in report.inputs:
                if index not in inputs.out and index not in inputs.done:
                    inputs.adopt(container.container_id, index, monotonic())
            if not report.inputs and container.container_id not in inputs.shares:
                return
        if container.call is None:
            container.call = call
            container.notebook = call.notebook
            container.busy_since = time.time()

    def _resume(self, call: Call, report: CallReport) -> None:
        """The host goes on with this call: tell it what it may not have heard."""
        self.streams.repeat_window(call)
        self.endings.repeat_cancel(call)
        inputs = call.inputs
        if inputs is not None and not call.over:
            # Those it does not have never arrived, or have their results in what it is about to send.
            missing = set(inputs.out).difference(report.inputs)
            call.unreported = missing
            # Until these results are here, what seems to wait may be done.
            call.held = True
            call.pool.remove(call)
            call.units = 0
            self.host_calls.settle_unreported(call)

    def _settle_unreported(self, host: Host, reports: dict[str, CallReport], containers: set[str]) -> None:
        """What we thought that the host has, and it does not."""
        for container in list(host.members.values()):
            if container.container_id not in containers:
                self._lost_container(container)
        for call in list(self.registry.calls.values()):
            if call.host_id != host.host_id or call.call_id in reports or call.over:
                continue
            # One that is held without that is from before this gateway: see `Recovery.hosts_reported`.
            if call.state == "running" and (call.unreported is not None or not call.held):
                self._lost_call(host, call)

    def _lost_call(self, host: Host, call: Call) -> None:
        """A call that the host should have, and does not. Where its container is alive it never arrived
        there; else it may have begun."""
        at, inputs = call.container, call.inputs
        if inputs is None and at is not None and at.call is call:
            at.call = None
            at.busy_since = 0.0
            self.endings.requeue(call)
            return
        alive = call.containers()
        if inputs is not None and not self._may_have_begun(call, inputs):
            for container in alive:
                container.call = None
                container.busy_since = 0.0
                inputs.leave(container.container_id)
            call.unreported = set(inputs.out)
            call.expected_seq = 0
            self.host_calls.settle_unreported(call)
            return
        for container in alive:
            container.call = None
            container.busy_since = 0.0
        self.endings.fail(
            call,
            Problem(
                error="InternalFailure",
                message=f"The host process on {host.name} was restarted while it ran "
                f"{call.function.spec.name}, and its container is gone. Run it again.",
            ),
        )

    def _may_have_begun(self, call: Call, inputs: MapInputs) -> bool:
        """Whether inputs of a map that its host does not have may have had effects all the same: in a
        container that is gone, or with results that never came."""
        gone = (share for key, share in inputs.shares.items() if key not in call.pool.containers)
        return any(share.indexes for share in gone) or call.next_seq < call.expected_seq

    def _lost_container(self, container: Container) -> None:
        container.call = None
        if container.phase != "stopping":
            container.pool.set_phase(container, "stopping", monotonic())
        self.host_calls.gone(container, "it ended while its host had no link, or with its host", None)

    def _container_back(self, container: Container) -> None:
        now = monotonic()
        pool = container.pool
        if container.info.state == "starting":
            pool.set_phase(container, "starting", now)
        elif container.call is not None:
            pool.set_phase(container, "busy", now)
        else:
            container.busy_since = 0.0
            pool.set_phase(container, "idle", now)
            self.dispatcher.container_idle(container, now)

    # --- a link goes -------------------------------------------------------------------------------------

    def disconnected(self, port: HostPort) -> None:
        """A link is gone: what runs there goes on, for a while without us."""
        self._early.pop(id(port), None)
        host = self.registry.links.pop(id(port), None)
        if host is None or host.port is not port:
            return
        host.port = None
        host.connected = False
        host.since = time.time()
        now = monotonic()
        for container in host.members.values():
            if container.phase != "stopping":
                container.pool.set_phase(container, "away", now)
        for call in self.registry.calls.values():
            if call.host_id == host.host_id and call.container is not None:
                self.endings.status.changed(call)
        self._gone[host.host_id] = self.registry.loop.call_later(
            self.registry.settings.gateway.host_grace,
            self._gone_for_good,
            host,
            "its link was lost and did not come back",
        )
        self.dispatcher.think()

    def _gone_for_good(self, host: Host, why: str) -> None:
        timer = self._gone.pop(host.host_id, None)
        if timer is not None:
            timer.cancel()
        if host.port is not None or self.registry.hosts.get(host.host_id) is not host:
            return
        problem = Problem(
            error="InternalFailure",
            message=f"Host {host.name} is gone while it ran this call: {why}. Run it again.",
        )
        del self.registry.hosts[host.host_id]
        for container in list(host.members.values()):
            call = container.call
            container.call = None
            container.pool.set_phase(container, "stopping", monotonic())
            self.host_calls.gone(container, why, None)
            if call is not None:
                self.endings.fail(call, problem)
        for call in list(self.registry.calls.values()):
            if call.host_id == host.host_id and call.state == "running" and not call.units:
                self.endings.fail(call, problem)
        self.builds.host_gone(host, why)
        self.dispatcher.think()

    def stop(self) -> None:
        """Welcome nobody any more."""
        for task in self._tasks:
            task.cancel()
        for timer in self._gone.values():
            timer.cancel()


def _gpu_request(label: str) -> GpuRequest | None:
    model, _, count = label.partition(":")
    return GpuRequest(model=model, count=int(count or 1), exact=True) if model else None
