"""What REST is told: views made of the log, and of what is in memory where that knows more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, RowMapping, func, or_, select

from skylift.backend.costs import day_of
from skylift.backend.live_views import LiveViews
from skylift.backend.schema import calls, containers, spend
from skylift.backend.views import (
    CallDetail,
    CallFilter,
    CallGraph,
    CallNode,
    CallPage,
    CallRow,
    ContainerView,
    OutputItem,
    OutputPage,
    Spend,
    SpendBy,
    SpendRow,
    TimelineEntry,
)
from skylift.wire import Event, decode_events

if TYPE_CHECKING:
    from skylift.backend.calls import Call
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
        self.live = LiveViews(registry, engines)

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
        call = self._call_row(row)
        return CallDetail(
            call=call,
            timeline=_timeline(call, container),
            container=container,
            usage=live.container.usage if live is not None and live.container is not None else None,
            peak_memory=row["peak_memory"],
            events=row["events"],
            output_bytes=row["output_bytes"],
            attempts=row["attempts"],
        )

    async def call_in_memory(self, call: Call) -> CallDetail:
        """As `call`, of one that is in memory, without what the log does not have yet."""
        container = await self._container(call.container_id)
        row = self.live.call(call)
        return CallDetail(
            call=row,
            timeline=_timeline(row, container),
            container=container,
            usage=call.container.usage if call.container is not None else None,
            peak_memory=call.peak_memory,
            events=call.next_seq,
            output_bytes=call.output_bytes,
            attempts=call.attempts,
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
                        items.append(output_item(seq, event))
            next_seq = items[-1].seq + 1 if items else chunks[-1].seq + chunks[-1].events
        tail = await self.reader.tail(call_id)
        return OutputPage(
            call_id=call_id,
            state=row["state"],
            items=tuple(items),
            next_seq=next_seq,
            more=next_seq < tail.seq,
        )

    # --- containers ----------------------------------------------------------------------------------

    async def containers(self, user: str, running: bool, limit: int) -> tuple[ContainerView, ...]:
        """See `ControlPlane.containers`."""
        if running:
            live = [each for each in self.registry.containers.values() if each.pool.user == user]
            live.sort(key=lambda each: each.started, reverse=True)
            return tuple(self.live.container(each) for each in live[:limit])
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
            return self.live.container(live)
        query = select(containers).where(containers.c.container_id == container_id)
        row = await self.database.read(lambda connection: connection.execute(query).mappings().first())
        return self._container_view(row) if row is not None else None

    def _container_view(self, row: RowMapping) -> ContainerView:
        live = self.registry.containers.get(row["container_id"])
        if live is not None:
            return self.live.container(live)
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


def _timeline(call: CallRow, container: ContainerView | None) -> tuple[TimelineEntry, ...]:
    entries = [TimelineEntry(time=call.queued, what="queued")]
    if container is not None and container.started >= call.queued:
        entries.append(
            TimelineEntry(time=container.started, what="starting container", detail=container.reason)
        )
        if container.ready:
            seconds = container.path_seconds or container.ready - container.started
            detail = f"{container.path} in {seconds:.2f} s"
            if container.path_reason:
                detail += f": {container.path_reason}"
            entries.append(TimelineEntry(time=container.ready, what="container ready", detail=detail))
    if call.started:
        entries.append(TimelineEntry(time=call.started, what="started"))
    if call.first_output:
        entries.append(TimelineEntry(time=call.first_output, what="first output"))
    if call.ended:
        entries.append(TimelineEntry(time=call.ended, what=call.state, detail=call.error))
    return tuple(sorted(entries, key=lambda entry: entry.time))


def output_item(seq: int, event: Event) -> OutputItem:
    """An event, as people can see it."""
    text = event.data.decode(errors="replace") if event.kind in TEXT_KINDS else ""
    if event.kind == "error":
        text = str(event.meta.get("text", ""))
    return OutputItem(
        seq=seq, kind=event.kind, meta=event.meta, text=text, size=len(event.data), blob=event.blob
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
