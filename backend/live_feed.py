"""The live feed: tells whoever watches what has changed. While nobody does, it is not told of anything.

What changes is gathered: calls for `CALLS_GATHER` seconds, a list for a second. A list is made anew only when
something has happened that may have changed it, once for all who watch it, and sent where it is another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

from skylift.backend.database import DatabaseError
from skylift.backend.live_watches import (
    CallsWatch,
    CallWatch,
    FollowingWatch,
    ListWatch,
    LivePort,
    OutputWatch,
    UsageWatch,
    Watch,
    WatchRequest,
)
from skylift.backend.usage_history import RECENT_SAMPLES
from skylift.wire import Problem

if TYPE_CHECKING:
    from skylift.backend.call_log import CallLog
    from skylift.backend.calls import Call
    from skylift.backend.dispatch import Dispatcher
    from skylift.backend.host_calls import HostCalls
    from skylift.backend.pools import Container
    from skylift.backend.registry import Registry
    from skylift.backend.reports import Reports
    from skylift.backend.status import StatusUpdates
    from skylift.backend.usage_history import UsageHistory
    from skylift.backend.views import Sample

CALLS_GATHER = 0.25
LIST_GATHER = 0.1
"""Seconds."""

LIST_SECONDS = {"spend": 10.0, "volumes": 3.0}
"""The least between two times that a list is made; else `LIST_LEAST`."""
LIST_LEAST = 1.0

VOLUME_COMMIT_SECONDS = 6.0
"""What a container has written is a new version of its volume by then."""

ListSource: TypeAlias = Callable[[str, WatchRequest], Awaitable[Sequence[Any]]]
"""Makes a list, for a user. Raises `WatchError` or `DatabaseError`."""

W = TypeVar("W", bound=Watch)

_encode = msgspec.json.Encoder().encode
log = logging.getLogger(__name__)


class WatchError(Exception):
    """A list cannot be made; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class LiveFeed:
    """Everybody's watches."""

    def __init__(
        self,
        registry: Registry,
        reports: Reports,
        call_log: CallLog,
        status: StatusUpdates,
        dispatcher: Dispatcher,
        host_calls: HostCalls,
        history: UsageHistory,
    ) -> None:
        self.registry = registry
        self.reports = reports
        self.sources: dict[str, ListSource] = {}
        """By topic."""
        self._call_log = call_log
        self._status = status
        self._dispatcher = dispatcher
        self._host_calls = host_calls
        self._history = history
        self._all: set[Watch] = set()
        self._calls: dict[str, set[CallsWatch]] = {}
        self._usage: dict[str, set[UsageWatch]] = {}
        self._following: dict[str, set[FollowingWatch]] = {}
        self._lists: dict[tuple[str, ...], _WatchedList] = {}
        self._changed: dict[str, Call] = {}
        self._timer: asyncio.TimerHandle | None = None

    # --- who watches -----------------------------------------------------------------------------

    def watch(self, port: LivePort, request: WatchRequest) -> Watch:
        """Begin to watch. What there is comes at once."""
        topic, watch_id = request.topic, request.id
        watch: Watch
        if not self._all:
            self._listen(True)
        if topic == "calls":
            watch = self._watch_calls(port, watch_id)
        elif topic == "usage":
            watch = self._watch_usage(port, watch_id)
        elif topic == "call":
            watch = CallWatch(port, watch_id, request.call_id, self.reports)
            self._following.setdefault(request.call_id, set()).add(watch)
        elif topic == "output":
            start = max(0, request.from_seq)
            watch = OutputWatch(port, watch_id, request.call_id, self.reports, start)
            self._following.setdefault(request.call_id, set()).add(watch)
        else:
            watch = ListWatch(port, watch_id, topic)
            key = _list_key(port.user, request)
            if key not in self._lists:
                self._lists[key] = _WatchedList(self.sources[topic], port.user, request)
            self._lists[key].add(watch)
        self._all.add(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Watch it no more; a second time does nothing."""
        if watch not in self._all:
            return
        self._all.discard(watch)
        watch.close()
        user = watch.port.user
        if isinstance(watch, CallsWatch):
            _discard(self._calls, user, watch)
        elif isinstance(watch, UsageWatch):
            _discard(self._usage, user, watch)
        elif isinstance(watch, FollowingWatch):
            _discard(self._following, watch.call_id, watch)
        else:
            for key, watched in list(self._lists.items()):
                watched.watches.discard(watch)
                if not watched.watches:
                    watched.stop()
                    del self._lists[key]
        if not self._all:
            self._listen(False)

    def stop(self) -> None:
        """End all of them."""
        for watch in list(self._all):
            self.unwatch(watch)

    def _listen(self, on: bool) -> None:
        self._call_log.on_changes = self._collected if on else None
        self._status.on_changed = self._call_changed if on else None
        self._dispatcher.on_decided = self._decided if on else None
        self._host_calls.on_templates = self._templates_changed if on else None
        self._history.on_sampled = self._sampled if on else None
        if not on:
            self._changed.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _watch_calls(self, port: LivePort, watch_id: str) -> CallsWatch:
        watch = CallsWatch(port, watch_id)
        self._calls.setdefault(port.user, set()).add(watch)
        watch.add(
            {call.call_id: self._row(call) for call in self.registry.calls.values() if call.user == port.user}
        )
        return watch

    def _watch_usage(self, port: LivePort, watch_id: str) -> UsageWatch:
        watch = UsageWatch(port, watch_id)
        self._usage.setdefault(port.user, set()).add(watch)
        for container in self.registry.containers.values():
            if container.pool.user == port.user and container.samples:
                watch.add(container.container_id, container.samples, RECENT_SAMPLES)
        port.ready(watch)
        return watch

    # --- what happens ----------------------------------------------------------------------------

    def touched(self, *topics: str, user: str | None = None, after: float = 0.0) -> None:
        """These lists may have changed: of one user, or of all; or will have in `after` seconds."""
        for watched in self._lists.values():
            if watched.topic in topics and user in (None, watched.user):
                watched.touch(after)

    def _collected(self, calls: Iterable[Call], containers: Iterable[Container]) -> None:
        """The log is about to write these."""
        ended = False
        with_volumes: set[str] = set()
        for call in calls:
            self._call_changed(call)
            if call.over:
                ended = True
                if call.function.spec.volumes:
                    with_volumes.add(call.user)
        if not self._lists:
            return
        for container in containers:
            ended = True
            if container.pool.spec.volumes:
                with_volumes.add(container.pool.user)
        self.touched("containers", "sessions", "hosts")
        if ended:
            self.touched("spend")
        for user in with_volumes:
            self.touched("volumes", user=user)
            self.touched("volumes", user=user, after=VOLUME_COMMIT_SECONDS)

    def _call_changed(self, call: Call) -> None:
        if call.user in self._calls:
            self._changed[call.call_id] = call
            if self._timer is None:
                self._timer = self.registry.loop.call_later(CALLS_GATHER, self._send_calls)
        for watch in self._following.get(call.call_id, ()):
            watch.touch()

    def _send_calls(self) -> None:
        self._timer = None
        changed, self._changed = self._changed, {}
        by_user: dict[str, dict[str, msgspec.Raw]] = {}
        for call in changed.values():
            if call.user in self._calls:
                by_user.setdefault(call.user, {})[call.call_id] = self._row(call)
        for user, rows in by_user.items():
            for watch in self._calls[user]:
                watch.add(rows)

    def _row(self, call: Call) -> msgspec.Raw:
        return msgspec.Raw(_encode(self.reports.live.call(call)))

    def _decided(self) -> None:
        self.touched("sessions", "hosts", "containers", "templates")

    def _templates_changed(self) -> None:
        self.touched("templates")

    def _sampled(self, samples: list[tuple[Container, Sample]]) -> None:
        told: set[UsageWatch] = set()
        for container, sample in samples:
            user = container.pool.user
            for watch in self._usage.get(user, ()):
                watch.add(container.container_id, (sample,), RECENT_SAMPLES)
                told.add(watch)
            call = container.call
            if call is not None and not call.over:
                if container.price:
                    self._call_changed(call)
                for following in self._following.get(call.call_id, ()):
                    following.touch()
            if container.pool.spec.volumes:
                self.touched("volumes", user=user)
        for watch in told:
            watch.port.ready(watch)
        self.touched("containers", "sessions", "spend")


class _WatchedList:
    """A list that somebody watches, for one user."""

    def __init__(self, source: ListSource, user: str, request: WatchRequest) -> None:
        self.topic = request.topic
        self.user = user
        self.watches: set[ListWatch] = set()
        self._source = source
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._rows: msgspec.Raw | None = None
        self._due: dict[float, asyncio.TimerHandle] = {}
        self._made = 0.0
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def add(self, watch: ListWatch) -> None:
        """One more watches; it is shown a list that is made now."""
        self.watches.add(watch)
        self._rows = None
        self._refresh()

    def touch(self, after: float = 0.0) -> None:
        """It may have changed."""
        if after in self._due:
            return
        least = LIST_SECONDS.get(self.topic, LIST_LEAST)
        delay = max(LIST_GATHER, after, self._made + least - self._loop.time())
        self._due[after] = self._loop.call_later(delay, self._timed, after)

    def stop(self) -> None:
        """Nobody watches any more."""
        for timer in self._due.values():
            timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _timed(self, after: float) -> None:
        self._due.pop(after, None)
        self._refresh()

    def _refresh(self) -> None:
        if self._task is not None:
            self._again = True
            return
        self._task = self._loop.create_task(self._make())

    async def _make(self) -> None:
        problem: Problem | None = None
        try:
            while True:
                self._again = False
                self._made = self._loop.time()
                rows = msgspec.Raw(_encode(await self._source(self.user, self._request)))
                if self._rows is None or bytes(rows) != bytes(self._rows):
                    self._rows = rows
                    for watch in self.watches:
                        watch.show(rows)
                if not self._again:
                    break
        except WatchError as error:
            problem = error.problem
        except DatabaseError as error:
            problem = Problem(error="InternalFailure", message=str(error))
        except Exception:
            log.exception("The list of %s for the live feed failed", self.topic)
            message = f"The gateway failed on the list of {self.topic}; gateway.log says more."
            problem = Problem(error="InternalFailure", message=message)
        finally:
            self._task = None
        if problem is not None:
            for watch in self.watches:
                watch.fail(problem)


def _list_key(user: str, request: WatchRequest) -> tuple[str, ...]:
    if request.topic == "spend":
        return user, request.topic, request.by, str(request.days)
    return user, request.topic


def _discard(where: dict[str, set[W]], key: str, watch: W) -> None:
    watches = where.get(key)
    if watches is not None:
        watches.discard(watch)
        if not watches:
            del where[key]
