"""Views of what there is now, which is in memory: containers that are up, sessions, hosts, templates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from skylift.backend.keeping import why_kept
from skylift.backend.pools import Container, Host, Pool
from skylift.backend.views import (
    CallRow,
    ContainerView,
    GpuView,
    HostView,
    SessionState,
    SessionView,
    TemplateView,
)
from skylift.wire import TemplateInfo

if TYPE_CHECKING:
    from skylift.backend.calls import Call
    from skylift.backend.engines.base import Engine
    from skylift.backend.registry import Registry


class LiveViews:
    """Makes them."""

    def __init__(self, registry: Registry, engines: Sequence[Engine]) -> None:
        self.registry = registry
        self.engines = engines

    def call(self, call: Call) -> CallRow:
        """A call that is in memory."""
        spec, inputs = call.function.spec, call.inputs
        return CallRow(
            call_id=call.call_id,
            kind=call.kind,
            state=call.state,
            app=spec.app,
            function=spec.name,
            session=spec.session,
            notebook=call.notebook,
            cell=call.cell,
            summary=call.summary,
            detail=call.detail(),
            error=call.error,
            queued=call.queued,
            started=call.started,
            first_output=call.first_output,
            ended=call.ended,
            container_id=call.container_id,
            host_id=call.host_id,
            gpu=call.gpu,
            price=call.price,
            cost=call.cost_now(),
            durable=call.durable,
            detached=call.detached,
            inputs=inputs.received if inputs is not None else 0,
            inputs_done=inputs.done.count if inputs is not None else 0,
        )

    def container(self, container: Container) -> ContainerView:
        """A container that is up."""
        return _container_view(container, why_kept(self.registry.scheduler, container))

    def sessions(self, user: str, notebooks: dict[str, str]) -> tuple[SessionView, ...]:
        """See `ControlPlane.sessions`."""
        registry = self.registry
        views = [
            self._session(pool, notebooks.get(pool.session, ""))
            for pool in registry.pools.values()
            if pool.session and pool.user == user
        ]
        for key, entry in registry.sleeping.items():
            if entry.user == user and key not in registry.pools:
                spec = entry.session.spec
                views.append(self._session(Pool(key, spec, user), notebooks.get(spec.session, "")))
        return tuple(views)

    def _session(self, pool: Pool, notebook: str) -> SessionView:
        container = next(iter(pool.members.values()), None)
        entry = self.registry.sleeping.get(pool.pool_id)
        idle = container is not None and container.phase == "idle"
        kept = why_kept(self.registry.scheduler, container) if container is not None else ""
        counts = idle and container is not None and not kept
        snapshot = entry.session.snapshot if entry is not None else None
        return SessionView(
            session_id=pool.session,
            name=pool.spec.session_name,
            notebook=notebook,
            state=_session_state(pool, container, entry is not None),
            detail=pool.reason if pool.queue or pool.waking is not None else "",
            gpu=container.gpu if container is not None else "",
            container=self.container(container) if container is not None else None,
            running=container.call.call_id if container is not None and container.call is not None else "",
            queued=len(pool.queue),
            idle_window=pool.scaledown_window,
            ends_at=container.idle_since() + pool.scaledown_window
            if counts and container is not None
            else 0.0,
            idle_policy=pool.idle_policy,
            kept=kept,
            since=entry.since if entry is not None else 0.0,
            size=snapshot.size if snapshot is not None else 0,
            unpacked=snapshot.unpacked if snapshot is not None else 0,
            problem=entry.session.problem if entry is not None else "",
        )

    def templates(self) -> tuple[TemplateView, ...]:
        """See `ControlPlane.templates`."""
        return tuple(
            _template_view(template)
            for host in self.registry.hosts.values()
            if host.connected
            for template in host.templates
        )

    def hosts(self) -> tuple[HostView, ...]:
        """See `ControlPlane.hosts`."""
        prices = self.registry.settings.prices
        problem = " ".join(filter(None, (engine.describe().problem for engine in self.engines)))
        engine = self.engines[0].name if self.engines else ""
        views = [
            _host_view(host, prices, engine, "" if host.connected else problem)
            for host in self.registry.hosts.values()
        ]
        if not views and problem:
            views.append(_no_host(engine, problem))
        return tuple(views)


# --- parts -------------------------------------------------------------------------------------------


def _container_view(container: Container, kept: str) -> ContainerView:
    info = container.info
    call: Call | None = container.call
    now = time.time()
    return ContainerView(
        container_id=container.container_id,
        host_id=container.host_id,
        state=info.state,
        app=info.app,
        function=info.function,
        session=info.session,
        notebook=container.notebook,
        gpu=info.gpu,
        simulated=info.simulated,
        path=info.path,
        path_seconds=info.path_seconds,
        path_reason=info.path_reason,
        started=container.started,
        ready=container.ready,
        ended=container.ended,
        exit_reason=container.exit_reason,
        calls=container.calls,
        running=(call.call_id,) if call is not None else (),
        idle_since=container.idle_since() if container.phase == "idle" else 0.0,
        usage=container.usage,
        price=container.price,
        cost=container.cost + (now - container.meter.accrued) * container.price / 3600,
        reason=container.reason,
        kept=kept,
    )


def _session_state(pool: Pool, container: Container | None, sleeps: bool) -> SessionState:
    if container is None or (container.phase == "stopping" and not container.sleeping):
        return "asleep" if sleeps and not pool.queue and pool.waking is None else "waiting"
    if container.sleeping:
        return "falling asleep"
    if not container.ready:
        return "starting"
    return "running" if container.call is not None else "idle"


def _template_view(template: TemplateInfo) -> TemplateView:
    snapshot = template.snapshot
    return TemplateView(
        template_id=template.template_id,
        host_id=template.host_id,
        label=template.label,
        state=template.state,
        reason=template.reason,
        forks=template.forks,
        spare=template.spare,
        memory=template.memory,
        restored=template.restored,
        size=snapshot.size if snapshot is not None else 0,
        unpacked=snapshot.unpacked if snapshot is not None else 0,
        created=template.created,
    )


def _host_view(host: Host, prices: dict[str, float], engine: str, problem: str) -> HostView:
    facts = host.facts
    members = list(host.members.values())
    gpus: list[GpuView] = []
    for model, count in host.gpus.items():
        holding = [each for each in members if each.gpu_model == model and each.gpu_count]
        one = next(gpu for gpu in facts.gpus if gpu.model == model)
        gpus.append(
            GpuView(
                model=model,
                count=count,
                in_use=sum(each.gpu_count for each in holding),
                memory=one.memory,
                simulated=one.simulated,
                price=prices.get(model, 0.0),
                holders=tuple(f"{each.pool.label} ({each.gpu_count})" for each in holding),
            )
        )
    return HostView(
        host_id=host.host_id,
        hostname=host.name,
        engine=engine,
        connected=host.connected,
        since=host.since,
        isolation=facts.isolation,
        rootless=facts.rootless,
        kernel=facts.kernel,
        cpus=host.cpus,
        cpus_reserved=sum(each.cpu for each in members),
        memory=host.memory,
        memory_reserved=sum(each.memory for each in members),
        gpus=tuple(gpus),
        containers=len(members),
        problem=problem,
    )


def _no_host(engine: str, problem: str) -> HostView:
    return HostView(
        host_id="",
        hostname="this machine",
        engine=engine,
        connected=False,
        since=0.0,
        isolation="",
        rootless=False,
        kernel="",
        cpus=0.0,
        cpus_reserved=0.0,
        memory=0,
        memory_reserved=0,
        gpus=(),
        containers=0,
        problem=problem,
    )
