"""What REST is told: views made of the log, and of what is in memory where that knows more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import ColumnElement, RowMapping, func, or_, select

from skylift.backend.calls import Call
from skylift.backend.costs import day_of
from skylift.backend.pools import Container, Host, Pool
from skylift.backend.schema import calls, containers, spend
from skylift.backend.views import (
    CallDetail,
    CallFilter,
    CallGraph,
    CallNode,
    CallPage,
    CallRow,
    ContainerView,
    GpuView,
    HostView,
    OutputItem,
    OutputPage,
    SessionView,
    Spend,
    SpendBy,
    SpendRow,
    TimelineEntry,
)
from skylift.wire import Event, decode_events

if TYPE_CHECKING:
    from skylift.backend.engines.base import Engine
    from skylift.backend.log_reader import LogReader
    from skylift.backend.registry import Registry

GRAPH_CALLS = 10_000
"""Calls of one tree that are told of at once."""

TEXT_KINDS = frozenset({"output", "display", "value", "clear"})
"""Events whose data is text that may be shown; that of the others is pickled."""


class Reports:
    """Makes the views."""

    def __init__(self, registry: Registry, reader: LogReader, engines: Sequence[Engine]) -> None:
        self.registry = registry
        self.reader = reader
        self.database = reader.database
        self.engines = engines

    # --- calls ---------------------------------------------------------------------------------------

    async def calls(self, user: str, which: CallFilter, before: str, limit: int) -> CallPage:
        """See `ControlPlane.calls`."""
        await self.database.flush()
        query = select(calls).where(calls.c.user == user, *_conditions(which))
        if before:
            query = query.where(calls.c.call_id < before)
        # Ids begin with the time, so their order is that of the calls; the primary key serves it.
        query = query.order_by(calls.c.call_id.desc()).limit(limit + 1)
        rows = await self.database.read(lambda connection: list(connection.execute(query).mappings()))
        page = tuple(self._call_row(row) for row in rows[:limit])
        return CallPage(calls=page, next=page[-1].call_id if len(rows) > limit else "")

    async def call(self, user: str, call_id: str) -> CallDetail | None:
        """See `ControlPlane.call`."""
        await self.database.flush()
        row = await self.reader.call(call_id)
        if row is None or row["user"] != user:
            return None
        container = await self._container(row["container_id"])
        live = self.registry.calls.get(call_id)
        return CallDetail(
            call=self._call_row(row),
            timeline=_timeline(row, container),
            container=container,
            usage=live.container.usage if live is not None and live.container is not None else None,
            peak_memory=row["peak_memory"],
            events=row["events"],
            output_bytes=row["output_bytes"],
            attempts=row["attempts"],
        )

    async def graph(self, user: str, call_id: str) -> CallGraph | None:
        """See `ControlPlane.graph`."""
        await self.database.flush()
        rows = await self.reader.graph(call_id, GRAPH_CALLS + 1)
        if not rows or rows[0]["call_id"] != call_id or rows[0]["user"] != user:
            return None
        nodes = [CallNode(call=self._call_row(row), parent=row["parent"]) for row in rows[:GRAPH_CALLS]]
        return CallGraph(calls=tuple(nodes), more=len(rows) > GRAPH_CALLS)

    def _call_row(self, row: RowMapping) -> CallRow:
        live = self.registry.calls.get(row["call_id"])
        return CallRow(
            call_id=row["call_id"],
            kind=row["kind"],
            state=row["state"],
            app=row["app"],
            function=row["function"],
            session=row["session"],
            notebook=row["notebook"],
            cell=row["cell"],
            summary=row["summary"],
            detail=live.detail() if live is not None else "",
            error=row["error"],
            queued=row["queued"],
            started=row["started"],
            first_output=row["first_output"],
            ended=row["ended"],
            container_id=row["container_id"],
            host_id=row["host_id"],
            gpu=row["gpu"],
            price=row["price"],
            cost=live.cost_now() if live is not None else row["cost"],
            durable=row["durable"],
            detached=row["detached"],
            inputs=row["inputs"],
            inputs_done=row["inputs_done"],
        )

    async def output(self, user: str, call_id: str, from_seq: int, limit: int) -> OutputPage | None:
        """See `ControlPlane.output`."""
        await self.database.flush()
        row = await self.reader.call(call_id)
        if row is None or row["user"] != user:
            return None
        items: list[OutputItem] = []
        next_seq = from_seq
        while len(items) < limit:
            chunks = await self.reader.output(call_id, next_seq)
            if not chunks:
                break
            for chunk in chunks:
                for seq, event in enumerate(decode_events(chunk.body), chunk.seq):
                    if seq >= next_seq and len(items) < limit:
                        items.append(_output_item(seq, event))
            next_seq = items[-1].seq + 1 if items else chunks[-1].seq + chunks[-1].events
        tail = await self.reader.tail(call_id)
        return OutputPage(
            call_id=call_id,
            state=row["state"],
            items=tuple(items),
            next_seq=next_seq,
            more=next_seq < tail.seq,
        )

    # --- containers, sessions, hosts -----------------------------------------------------------------

    async def containers(self, user: str, running: bool, limit: int) -> tuple[ContainerView, ...]:
        """See `ControlPlane.containers`."""
        if running:
            live = [each for each in self.registry.containers.values() if each.pool.user == user]
            live.sort(key=lambda each: each.started, reverse=True)
            return tuple(_container_view(each) for each in live[:limit])
        await self.database.flush()
        query = (
            select(containers)
            .where(containers.c.user == user)
            .order_by(containers.c.started.desc())
            .limit(limit)
        )
        rows = await self.database.read(lambda connection: list(connection.execute(query).mappings()))
        return tuple(self._container_view(row) for row in rows)

    async def _container(self, container_id: str) -> ContainerView | None:
        if not container_id:
            return None
        live = self.registry.containers.get(container_id)
        if live is not None:
            return _container_view(live)
        query = select(containers).where(containers.c.container_id == container_id)
        row = await self.database.read(lambda connection: connection.execute(query).mappings().first())
        return self._container_view(row) if row is not None else None

    def _container_view(self, row: RowMapping) -> ContainerView:
        live = self.registry.containers.get(row["container_id"])
        if live is not None:
            return _container_view(live)
        return ContainerView(
            container_id=row["container_id"],
            host_id=row["host_id"],
            state="exited",
            app=row["app"],
            function=row["function"],
            session=row["session"],
            notebook=row["notebook"],
            gpu=row["gpu"],
            simulated=row["simulated"],
            path=row["path"],
            path_seconds=row["path_seconds"],
            path_reason=row["path_reason"],
            started=row["started"],
            ready=row["ready"],
            ended=row["ended"],
            exit_reason=row["exit_reason"],
            calls=row["calls"],
            running=(),
            idle_since=0.0,
            usage=None,
            price=row["price"],
            cost=row["cost"],
            reason=row["reason"],
        )

    def sessions(self, user: str, notebooks: dict[str, str]) -> tuple[SessionView, ...]:
        """See `ControlPlane.sessions`."""
        return tuple(
            _session_view(pool, notebooks.get(pool.session, ""))
            for pool in self.registry.pools.values()
            if pool.session and pool.user == user
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

    # --- spend ---------------------------------------------------------------------------------------

    async def spend(self, user: str, by: SpendBy, days: int) -> Spend:
        """See `ControlPlane.spend`."""
        await self.database.flush()
        now = time.time()
        since = day_of(now - (days - 1) * 86400)
        key = spend.c[by]
        sums = [func.sum(column) for column in (spend.c.seconds, spend.c.cost, spend.c.idle_seconds)]
        sums += [func.sum(spend.c.idle_cost), func.sum(spend.c.calls)]
        query = select(key, *sums).where(spend.c.user == user, spend.c.day >= since).group_by(key)
        found = await self.database.read(lambda connection: list(connection.execute(query)))
        rows = [_spend_row(*row) for row in found]
        rows.sort(key=lambda row: row.key if by == "day" else row.cost, reverse=True)
        total = _spend_row(
            "",
            sum(row.seconds for row in rows),
            sum(row.cost for row in rows),
            sum(row.idle_seconds for row in rows),
            sum(row.idle_cost for row in rows),
            sum(row.calls for row in rows),
        )
        return Spend(by=by, since=since, until=day_of(now), rows=tuple(rows), total=total)


# --- parts -------------------------------------------------------------------------------------------


def _conditions(which: CallFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if which.state:
        found.append(calls.c.state.in_(which.state))
    if which.kind:
        found.append(calls.c.kind.in_(which.kind))
    for name in ("function", "app", "session", "notebook", "container_id"):
        value = getattr(which, name)
        if value:
            found.append(calls.c[name] == value)
    if which.search:
        # `autoescape`: a % or _ of the user's is meant as itself.
        found.append(
            or_(
                *(
                    calls.c[name].icontains(which.search, autoescape=True)
                    for name in ("function", "summary", "error")
                )
            )
        )
    if which.since:
        found.append(calls.c.queued >= which.since)
    if which.until:
        found.append(calls.c.queued < which.until)
    return found


def _timeline(row: RowMapping, container: ContainerView | None) -> tuple[TimelineEntry, ...]:
    entries = [TimelineEntry(time=row["queued"], what="queued")]
    if container is not None and container.started >= row["queued"]:
        entries.append(
            TimelineEntry(time=container.started, what="starting container", detail=container.reason)
        )
        if container.ready:
            seconds = container.path_seconds or container.ready - container.started
            detail = f"{container.path} in {seconds:.2f} s"
            if container.path_reason:
                detail += f": {container.path_reason}"
            entries.append(TimelineEntry(time=container.ready, what="container ready", detail=detail))
    if row["started"]:
        entries.append(TimelineEntry(time=row["started"], what="started"))
    if row["first_output"]:
        entries.append(TimelineEntry(time=row["first_output"], what="first output"))
    if row["ended"]:
        entries.append(TimelineEntry(time=row["ended"], what=row["state"], detail=row["error"]))
    return tuple(sorted(entries, key=lambda entry: entry.time))


def _output_item(seq: int, event: Event) -> OutputItem:
    text = event.data.decode(errors="replace") if event.kind in TEXT_KINDS else ""
    if event.kind == "error":
        text = str(event.meta.get("text", ""))
    return OutputItem(seq=seq, kind=event.kind, meta=event.meta, text=text, size=len(event.data))


def _container_view(container: Container) -> ContainerView:
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
    )


def _session_view(pool: Pool, notebook: str) -> SessionView:
    container = pool.newest()
    state: Literal["waiting", "starting", "idle", "running"] = "waiting"
    running = ""
    if container is not None:
        state = "starting" if not container.ready else "idle"
        if container.call is not None:
            state = "running"
            running = container.call.call_id
    idle = container is not None and container.phase == "idle"
    return SessionView(
        session_id=pool.session,
        name=pool.spec.session_name,
        notebook=notebook,
        state=state,
        detail=pool.reason if pool.queue else "",
        gpu=container.gpu if container is not None else "",
        container=_container_view(container) if container is not None else None,
        running=running,
        queued=len(pool.queue),
        idle_window=pool.scaledown_window,
        ends_at=container.idle_since() + pool.scaledown_window if idle and container is not None else 0.0,
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


def _spend_row(key: Any, seconds: Any, cost: Any, idle: Any, idle_cost: Any, ended: Any) -> SpendRow:
    return SpendRow(
        key=key,
        seconds=seconds or 0.0,
        cost=cost or 0.0,
        idle_seconds=idle or 0.0,
        idle_cost=idle_cost or 0.0,
        calls=ended or 0,
    )
