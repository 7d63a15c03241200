"""What the scheduler sees, and what it can decide.

The control plane keeps these objects up to date as things happen (its own classes extend them); the scheduler
only reads them. Times are those of one monotonic clock, in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from skylift.wire import GpuRequest, IdlePolicy, Problem

Phase: TypeAlias = Literal["starting", "idle", "busy", "stopping", "away"]

DEFAULT_STARTUP = 1.0
"""Seconds that a container is expected to take to start, before one of its pool has."""


class Work:
    """One call that waits: a unit of work, or as many as a map has inputs waiting."""

    __slots__ = ("batch", "call_id", "depth", "pool", "since", "units")

    def __init__(self, call_id: str, since: float, units: int = 1, batch: int = 1, depth: int = 0) -> None:
        self.call_id = call_id
        self.since = since
        """When it took its present place in the queue."""
        self.units = units
        self.batch = batch
        """Units to give to a container at once."""
        self.depth = depth
        """0 where no call waits for it; else one more than that of the deepest call that does."""
        self.pool: PoolState | None = None
        """Where it is queued, or was."""


class ContainerState:
    """A container, from the moment that its start was decided until it has exited."""

    __slots__ = (
        "awaits",
        "call",
        "cannot_sleep",
        "container_id",
        "cpu",
        "gpu_count",
        "gpu_model",
        "host_id",
        "memory",
        "phase",
        "pool_id",
        "retiring",
        "since",
        "sleeping",
    )

    def __init__(
        self,
        container_id: str,
        pool_id: str,
        host_id: str,
        *,
        cpu: float,
        memory: int,
        gpu_model: str = "",
        gpu_count: int = 0,
        phase: Phase = "starting",
        since: float = 0.0,
    ) -> None:
        self.container_id = container_id
        self.pool_id = pool_id
        self.host_id = host_id
        self.cpu = cpu
        """Cores that it reserves."""
        self.memory = memory
        """MiB that it reserves."""
        self.gpu_model = gpu_model
        self.gpu_count = gpu_count
        self.phase: Phase = phase
        self.since = since
        """When its phase began."""
        self.retiring = False
        """It gets no more work, and is stopped once it is idle."""
        self.call: Work | None = None
        """What it runs."""
        self.awaits: tuple[Work, ...] = ()
        """The calls that its own call waits for."""
        self.sleeping = False
        """Of one in phase ``stopping``: it is being put to sleep, and may be idle again if it cannot."""
        self.cannot_sleep = ""
        """Why it could not be put to sleep when that was tried last, until it has run something since."""

    def lends_to(self, depth: int) -> bool:
        """Whether work of that depth may use its cores: its call is less deep, and waits for others."""
        return (
            self.phase == "busy" and bool(self.awaits) and self.call is not None and self.call.depth < depth
        )


class PoolState:
    """The work and the containers of one `FunctionSpec`."""

    __slots__ = (
        "asleep",
        "buffer_containers",
        "containers",
        "cpu",
        "duration",
        "gpus",
        "hosts",
        "idle",
        "idle_policy",
        "label",
        "left",
        "max_containers",
        "memory",
        "min_containers",
        "needed",
        "not_before",
        "pool_id",
        "queue",
        "queued_units",
        "scaledown_window",
        "session",
        "startup",
        "waking",
        "warm_not_before",
    )

    def __init__(
        self,
        pool_id: str,
        label: str,
        *,
        gpus: Sequence[GpuRequest] = (),
        cpu: float = 0.125,
        memory: int = 128,
        max_containers: int | None = None,
        min_containers: int = 0,
        buffer_containers: int = 0,
        scaledown_window: float = 60.0,
        idle_policy: IdlePolicy = "sleep",
        session: str = "",
    ) -> None:
        self.pool_id = pool_id
        self.label = label
        """``"app.function"`` or ``"session train"``."""
        self.gpus = tuple(gpus)
        """Acceptable choices, the preferred one first; empty for none."""
        self.cpu = cpu
        self.memory = memory
        self.max_containers = 1 if session else max_containers
        self.min_containers = 0 if session else min_containers
        self.buffer_containers = 0 if session else buffer_containers
        self.needed = False
        """A client is there that has defined the function: `min_containers` holds."""
        self.left = 0.0
        """When the last such client had left."""
        self.scaledown_window = scaledown_window
        self.idle_policy: IdlePolicy = idle_policy
        """Of a session."""
        self.session = session
        self.asleep = False
        """The session sleeps: its container is made of what it was."""
        self.waking: float | None = None
        """Since when the session is to be woken without there being a cell for it."""
        self.hosts: frozenset[str] | None = None
        """Where its containers can be; None is everywhere."""
        self.queue: deque[Work] = deque()
        """Work that has units left, in the order in which it is served: what calls wait for goes first."""
        self.queued_units = 0
        """Sum of the units in the queue."""
        self.containers: dict[str, ContainerState] = {}
        self.idle: list[ContainerState] = []
        """Those in phase ``idle`` that are not retiring; the one used last stands last."""
        self.duration = 0.0
        """Seconds that a unit took of late; 0 before one is over."""
        self.startup = 0.0
        """Seconds that a start took of late; 0 before one is over."""
        self.not_before = 0.0
        """No container is started earlier: the last one failed to start."""
        self.warm_not_before = 0.0
        """As `not_before`, of a container that nothing waits for."""

    @property
    def depth(self) -> int:
        """That of the work which is served next."""
        return self.queue[0].depth if self.queue else 0

    # What keeps `queue`, `queued_units` and `idle` in step with each other.

    def push(self, work: Work) -> None:
        """Put work with units at the end of the queue, before what is less deep."""
        self._enter(work)
        self.queued_units += work.units

    def deepen(self, work: Work, depth: int) -> None:
        """A call of depth ``depth - 1`` waits for the work: it goes before what is less deep."""
        queued = work.units and work in self.queue
        if queued:
            self.queue.remove(work)
        work.depth = depth
        if queued:
            self._enter(work)

    def _enter(self, work: Work) -> None:
        work.pool = self
        queue = self.queue
        if work.depth and queue and queue[-1].depth < work.depth:
            place = next(place for place, other in enumerate(queue) if other.depth < work.depth)
            queue.insert(place, work)
        else:
            queue.append(work)

    def push_front(self, work: Work) -> None:
        """Put work with units back to where it came from: before all that is not deeper."""
        work.pool = self
        queue = self.queue
        place = next((place for place, other in enumerate(queue) if other.depth <= work.depth), len(queue))
        queue.insert(place, work)
        self.queued_units += work.units

    def add_units(self, work: Work, units: int, now: float) -> None:
        """Give work more units (fewer, where negative); with its first ones it enters the queue, without any
        it leaves."""
        if not units:
            return
        before = work.units
        work.units += units
        self.queued_units += units
        if not before:
            work.since = now
            self._enter(work)
        elif not work.units:
            self.queue.remove(work)

    def give(self, units: int, now: float) -> Work:
        """Take so many units from the first work of the queue, which goes to the end where some are left."""
        work = self.queue.popleft()
        work.units -= units
        self.queued_units -= units
        if work.units:
            work.since = now
            self._enter(work)
        return work

    def remove(self, work: Work) -> None:
        """Take work out of the queue, where it is in it."""
        if work.units and work in self.queue:
            self.queue.remove(work)
            self.queued_units -= work.units

    def set_phase(self, container: ContainerState, phase: Phase, now: float) -> None:
        """Let a container of the pool enter a phase."""
        if container.phase == "idle" and container in self.idle:
            self.idle.remove(container)
        container.phase = phase
        container.since = now
        if phase == "idle" and not container.retiring:
            self.idle.append(container)

    def retire(self, container: ContainerState) -> None:
        """Give a container no more work."""
        container.retiring = True
        if container in self.idle:
            self.idle.remove(container)


class HostState:
    """A machine, and the containers whose reservations count on it."""

    __slots__ = ("cannot_sleep", "connected", "containers", "cpus", "gpus", "host_id", "memory", "name")

    def __init__(
        self, host_id: str, name: str, *, cpus: float, memory: int, gpus: dict[str, int] | None = None
    ) -> None:
        self.host_id = host_id
        self.name = name
        self.cpus = cpus
        self.memory = memory
        """MiB."""
        self.gpus = gpus or {}
        """How many there are of each model."""
        self.connected = True
        self.cannot_sleep = ""
        """Why sessions cannot sleep there; "" where they can."""
        self.containers: dict[str, ContainerState] = {}


class SchedulerState:
    """Everything that decisions are made from."""

    def __init__(self) -> None:
        self.pools: dict[str, PoolState] = {}
        self.hosts: dict[str, HostState] = {}
        self.no_host = "waiting for a host to connect"
        """What to tell people while there is no host."""


# --- decisions -----------------------------------------------------------------------------------


class Assign(msgspec.Struct, frozen=True):
    """Give work to an idle container: a call, or so many inputs of a map."""

    pool_id: str
    call_id: str
    container_id: str
    units: int


class Start(msgspec.Struct, frozen=True):
    """Start a container of a pool on a host. `gpu` names a model that the host has, never ``any``."""

    pool_id: str
    host_id: str
    gpu: GpuRequest | None
    reason: str


class Stop(msgspec.Struct, frozen=True):
    """End an idle container."""

    container_id: str
    reason: str


class Sleep(msgspec.Struct, frozen=True):
    """Put an idle session to sleep."""

    container_id: str
    reason: str


class Retire(msgspec.Struct, frozen=True):
    """Give a busy container no more work after what it has, and stop it then."""

    container_id: str
    reason: str


class Fail(msgspec.Struct, frozen=True):
    """No host can ever run what waits in this pool."""

    pool_id: str
    problem: Problem


class Wait(msgspec.Struct, frozen=True):
    """What waits in this pool goes on waiting; decide again at `until` (None: when something happens)."""

    pool_id: str
    reason: str
    until: float | None = None


class Keep(msgspec.Struct, frozen=True):
    """An idle container is kept until then."""

    container_id: str
    until: float


Decision: TypeAlias = Assign | Start | Stop | Sleep | Retire | Fail | Wait | Keep
