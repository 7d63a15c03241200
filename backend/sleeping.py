"""Sessions that sleep: remembered, put to sleep, woken, given up.

A sleeping session is a snapshot in a host's store. What the host says it has is the truth; the database
remembers what it said, so that people are told of it while the host is away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from skylift.backend.pools import Container, Host, Pool, pool_id, session_label, session_pool_id
from skylift.backend.views import Slept, Woken
from skylift.wire import ForgetSession, HostHello, Problem, SessionSlept, SleepingSession

if TYPE_CHECKING:
    from skylift.backend.call_log import CallLog
    from skylift.backend.dispatch import Dispatcher
    from skylift.backend.endings import Endings
    from skylift.backend.host_calls import HostCalls
    from skylift.backend.log_reader import LogReader
    from skylift.backend.registry import Registry
    from skylift.backend.tokens import TokenBook

WAIT_SECONDS = 120.0
"""That whoever asks for it waits for a session to be asleep, or awake."""

SLEEPS = "it was put to sleep"
"""How the reason begins for which the container of a session that sleeps has ended."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Sleeping:
    """A session that sleeps."""

    __slots__ = ("hosts", "session", "since", "user")

    def __init__(self, session: SleepingSession, user: str, hosts: set[str], since: float) -> None:
        self.session = session
        self.user = user
        self.hosts = hosts
        """That have said they have it."""
        self.since = since
        """Unix time."""

    @property
    def pool_id(self) -> str:
        """Of the pool that it is the container of."""
        return self.session.pool_id

    @property
    def label(self) -> str:
        """``session train``."""
        return session_label(self.session.spec)


class SleepingSessions:
    """Keeps the registry's sleeping sessions."""

    def __init__(
        self,
        registry: Registry,
        call_log: CallLog,
        reader: LogReader,
        dispatcher: Dispatcher,
        endings: Endings,
        tokens: TokenBook,
    ) -> None:
        self.registry = registry
        self.log = call_log
        self.reader = reader
        self.dispatcher = dispatcher
        self.endings = endings
        self.tokens = tokens
        self.host_calls: HostCalls
        self._ended: dict[str, Sleeping] = {}
        """Those that were given up and that a host may still have: it is told when it says so."""
        self._asleep = _Waiters[Slept]()
        self._awake = _Waiters[Woken]()

    async def open(self) -> None:
        """Read what the log has. Raises `DatabaseError`."""
        for row in await self.reader.sleeping_sessions():
            entry = Sleeping(row.session, row.user, {row.host_id}, row.since)
            (self._ended if row.ended else self.registry.sleeping)[entry.pool_id] = entry

    def stop(self) -> None:
        """Nobody waits any more."""
        problem = Problem(error="ConnectionError", message="The gateway is being stopped.")
        self._asleep.settle_all(problem)
        self._awake.settle_all(problem)

    # --- what hosts say ------------------------------------------------------------------------------

    def reported(self, host: Host, hello: HostHello) -> list[str]:
        """A host has said what it has. Returns what it should forget, by pool: it was ended meanwhile."""
        up = {hello.pools.get(info.container_id, "") for info in hello.containers if info.state == "ready"}
        forget: list[str] = []
        listed = {session.pool_id for session in hello.sleeping}
        for session in hello.sleeping:
            key = session.pool_id
            if key not in up:
                # (What is up as well is just about to be asleep, or to be deleted by its host.)
                self._fell_asleep_unheard(host, session)
                if key in self._ended:
                    forget.append(key)
                else:
                    self._found(host, session)
        for entry in [*self.registry.sleeping.values()]:
            if host.host_id in entry.hosts and (entry.pool_id not in listed or entry.pool_id in up):
                entry.hosts.discard(host.host_id)
                if not entry.hosts:
                    if entry.pool_id not in up:
                        log.warning("Host %s does not have the sleeping %s any more", host.name, entry.label)
                    self._drop(entry)
                else:
                    self.registry.note_sleep(entry.pool_id)
        for entry in [*self._ended.values()]:
            if host.host_id in entry.hosts and entry.pool_id not in listed:
                del self._ended[entry.pool_id]
                self.log.sleeping(entry, "gone")
        return forget

    def _fell_asleep_unheard(self, host: Host, session: SleepingSession) -> None:
        """Say of the container that was being put to sleep while its host had no link what it ended for."""
        pool = self.registry.pools.get(session.pool_id)
        for container in pool.members.values() if pool is not None else ():
            if container.host is host and container.sleeping:
                if container.unwanted:
                    self._ended[session.pool_id] = Sleeping(session, container.pool.user, {host.host_id}, 0.0)
                container.exit_reason = container.unwanted or _sleeps_for(container)

    def _found(self, host: Host, session: SleepingSession) -> None:
        key = session.pool_id
        entry = self.registry.sleeping.get(key)
        if entry is None:
            user = next((user for user in self.tokens.users() if pool_id(session.spec, user) == key), None)
            if user is None:
                log.warning("Host %s has a sleeping session of nobody known here: %s", host.name, key)
                return
            since = session.snapshot.created or time.time()
            entry = Sleeping(session, user, {host.host_id}, since)
            self._keep(entry)
            return
        problem = session.problem or entry.session.problem
        session = msgspec.structs.replace(session, problem=problem)
        if session != entry.session or host.host_id not in entry.hosts:
            entry.session = session
            entry.hosts.add(host.host_id)
            self._keep(entry)

    def slept(self, host: Host, message: SessionSlept) -> None:
        """A session sleeps, or could not be put to sleep."""
        container = host.members.get(message.container_id)
        session = message.session
        if session is None:
            problem = message.problem or Problem(error="RemoteError", message="its host does not say why")
            if container is not None:
                self._stays_awake(container, problem)
            return
        if container is None:
            self._found(host, session)
            return
        entry = Sleeping(session, container.pool.user, {host.host_id}, time.time())
        if container.unwanted:
            self._give_up(entry)
            container.exit_reason = container.unwanted
            result: Slept | Problem = _ended_meanwhile(entry.label)
        else:
            self._keep(entry)
            container.exit_reason = _sleeps_for(container)
            result = _slept(entry, message.seconds)
        self._asleep.settle(entry.pool_id, result)
        container.pool.set_phase(container, "stopping", monotonic())
        self.host_calls.gone(container, container.exit_reason, None)

    def _stays_awake(self, container: Container, problem: Problem) -> None:
        pool = container.pool
        container.cannot_sleep = problem.message
        self._asleep.settle(pool.pool_id, _cannot(pool.label, problem.message))
        if not container.sleeping:
            return
        container.sleeping = False
        self.dispatcher.container_idle(container, container.idle_at)
        if container.unwanted:
            self.dispatcher.stop_container(container, container.unwanted, monotonic())
        self.dispatcher.think()

    # --- what becomes of containers ------------------------------------------------------------------

    def woke(self, container: Container) -> None:
        """A container is ready. Where it was a sleeping session, it sleeps no more: its host deletes what it
        has of it."""
        pool = container.pool
        pool.waking = None
        entry = self.registry.sleeping.get(pool.pool_id)
        if container.wakes and entry is not None:
            self._drop(entry)
        container.wakes = False
        self._awake.settle(pool.pool_id, Woken(seconds=container.info.path_seconds))

    def not_woken(self, container: Container, reason: str, problem: Problem | None) -> None:
        """The container that a sleeping session was to become did not start: what waits for it fails. What is
        kept of it stays, and nothing is tried again by itself."""
        pool = container.pool
        entry = self.registry.sleeping.get(pool.pool_id)
        why = (problem.message if problem is not None else reason) or "its host does not say why"
        if entry is not None:
            entry.session = msgspec.structs.replace(entry.session, problem=why)
            self._keep(entry)
        self.fail_waking(
            pool,
            Problem(
                error=problem.error if problem is not None else "RemoteError",
                message=f"{pool.label} could not be woken: {why.rstrip('.')}. Its state is kept: %gpu wake "
                "tries again, %gpu stop gives it up and the next cell starts it anew.",
            ),
        )

    def fail_waking(self, pool: Pool, problem: Problem) -> None:
        """Whatever waits for a session to be awake fails."""
        pool.waking = None
        for call in pool.waiting_calls():
            self.endings.fail(call, problem)
        self._awake.settle(pool.pool_id, problem)
        self.registry.drop_pool_if_unused(pool)

    def container_gone(self, container: Container) -> None:
        """A session's container has ended: nobody should wait for it to fall asleep."""
        pool = container.pool
        entry = self.registry.sleeping.get(pool.pool_id)
        asleep = entry if container.sleeping else None
        result = _slept(asleep, 0.0) if asleep is not None else _ended_meanwhile(pool.label)
        self._asleep.settle(pool.pool_id, result)

    # --- what people ask for -------------------------------------------------------------------------

    async def sleep(self, user: str, session_id: str) -> Slept | Problem | None:
        """Put a session to sleep and wait until it is. None where the user has no such session."""
        key = session_pool_id(session_id, user)
        pool, entry = self.registry.pools.get(key), self.registry.sleeping.get(key)
        if pool is None or (entry is not None and not (pool.containers or pool.queue or pool.waking)):
            return _slept(entry, 0.0) if entry is not None else None
        problem = self._why_not_now(pool)
        if problem:
            return Problem(error="ConflictError", message=problem)
        container = next(iter(pool.members.values()))
        if not container.sleeping:
            if container.host.cannot_sleep:
                return _cannot(pool.label, container.host.cannot_sleep)
            self.dispatcher.sleep_container(container, "somebody asked for it", monotonic())
        overdue = f"{pool.label} is not asleep after {WAIT_SECONDS:g} s. %gpu shows when it is."
        return await self._asleep.wait(key) or Problem(error="TimeoutError", message=overdue)

    def _why_not_now(self, pool: Pool) -> str:
        container = next(iter(pool.members.values()), None)
        if container is not None and (container.phase == "busy" or container.call is not None):
            return f"{pool.label} is running a cell: interrupt it or wait."
        if pool.queue or pool.waking is not None or container is None:
            return f"{pool.label} is about to run a cell or being woken: wait until that is over."
        if container.phase == "starting":
            return f"{pool.label} is starting: wait until it is up."
        if container.phase == "away":
            return f"{pool.label} is on host {container.host.name}, whose link is lost: try again later."
        if container.phase == "stopping" and (not container.sleeping or container.unwanted):
            return f"{pool.label} is being ended."
        return ""

    async def wake(self, user: str, session_id: str) -> Woken | Problem | None:
        """Wake a session and wait until it is awake. None where the user has no such session."""
        key = session_pool_id(session_id, user)
        pool, entry = self.registry.pools.get(key), self.registry.sleeping.get(key)
        if entry is None:
            if pool is None:
                return None
            container = pool.newest()
            if container is not None and container.ready:
                return Woken(seconds=0.0)
        if pool is None:
            assert entry is not None
            pool = self.registry.pool_for(entry.session.spec, user)
        if pool.waking is None:
            pool.waking = monotonic()
        self.dispatcher.think()
        result = await self._awake.wait(key)
        if result is not None:
            return result
        if key not in self._awake:
            pool.waking = None
            self.registry.drop_pool_if_unused(pool)
        overdue = f"{pool.label} is not awake after {WAIT_SECONDS:g} s"
        why = f": {pool.reason}" if pool.reason else ""
        return Problem(error="TimeoutError", message=f"{overdue}{why}.")

    def end(self, session_id: str, user: str) -> bool:
        """Give up what is kept of a sleeping session. False where it does not sleep."""
        entry = self.registry.sleeping.get(session_pool_id(session_id, user))
        if entry is None:
            return False
        self._give_up(entry)
        pool = self.registry.pools.get(entry.pool_id)
        if pool is not None:
            pool.waking = None
        self._awake.settle(entry.pool_id, _ended_meanwhile(entry.label))
        return True

    # --- how it is kept ------------------------------------------------------------------------------

    def _keep(self, entry: Sleeping) -> None:
        self._ended.pop(entry.pool_id, None)
        self.registry.sleeping[entry.pool_id] = entry
        self.registry.note_sleep(entry.pool_id)
        self.log.sleeping(entry, "asleep")

    def _drop(self, entry: Sleeping) -> None:
        self.registry.sleeping.pop(entry.pool_id, None)
        self.registry.note_sleep(entry.pool_id)
        self.log.sleeping(entry, "gone")

    def _give_up(self, entry: Sleeping) -> None:
        self._drop(entry)
        # Until its hosts do not list it any more: the message may be lost with the link.
        self._ended[entry.pool_id] = entry
        self.log.sleeping(entry, "ended")
        for host_id in entry.hosts:
            host = self.registry.hosts.get(host_id)
            if host is not None and host.port is not None:
                host.port.send(ForgetSession(pool_id=entry.pool_id))


def _slept(entry: Sleeping, seconds: float) -> Slept:
    snapshot = entry.session.snapshot
    return Slept(seconds=seconds, size=snapshot.size, unpacked=snapshot.unpacked)


def _sleeps_for(container: Container) -> str:
    return f"{SLEEPS}: {container.sleep_reason or 'its host says so'}"


def _cannot(label: str, why: str) -> Problem:
    return Problem(error="ConflictError", message=f"{label} cannot sleep: {why.rstrip('.')}. It runs on.")


def _ended_meanwhile(label: str) -> Problem:
    return Problem(error="ConflictError", message=f"{label} has ended meanwhile.")


class _Waiters(Generic[T]):
    """Who waits for something to happen to a pool."""

    def __init__(self) -> None:
        self._futures: dict[str, list[asyncio.Future[T | Problem]]] = {}

    async def wait(self, key: str) -> T | Problem | None:
        """What became of it; None after `WAIT_SECONDS`."""
        future: asyncio.Future[T | Problem] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(key, []).append(future)
        try:
            return await asyncio.wait_for(future, WAIT_SECONDS)
        except asyncio.TimeoutError:
            return None
        finally:
            waiting = self._futures.get(key, [])
            if future in waiting:
                waiting.remove(future)
            if not waiting:
                self._futures.pop(key, None)

    def settle(self, key: str, result: T | Problem) -> None:
        """It has happened, or will not."""
        for future in self._futures.pop(key, ()):
            if not future.done():
                future.set_result(result)

    def settle_all(self, result: Problem) -> None:
        """Nothing will happen any more."""
        for key in [*self._futures]:
            self.settle(key, result)

    def __contains__(self, key: str) -> bool:
        return key in self._futures
