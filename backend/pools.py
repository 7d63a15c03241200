"""Pools of containers, their containers, and the hosts that these are on, as they live in the gateway."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import msgspec
from blake3 import blake3

from skylift.backend.calls import Call
from skylift.backend.costs import Meter
from skylift.backend.reasons import gpu_text
from skylift.backend.scheduler_state import ContainerState, HostState, PoolState
from skylift.wire import ContainerInfo, FunctionSpec, GpuRequest, HostFacts, Problem, TemplateInfo, Usage

if TYPE_CHECKING:
    from collections import deque

    from skylift.backend.control import HostPort
    from skylift.backend.views import Sample


def session_pool_id(session_id: str, user: str) -> str:
    """The pool of a user's session."""
    return "po-" + blake3(msgspec.msgpack.encode((user, session_id))).hexdigest(16)


def session_label(spec: FunctionSpec) -> str:
    """``"session train"``."""
    return f"session {spec.session_name or spec.session}"


def pool_id(spec: FunctionSpec, user: str) -> str:
    """The pool that calls of such a function go to. Users share no containers; a session is its own pool.

    What a template should have imported decides nothing: a function whose imports have changed goes on in
    the containers that it has.
    """
    what: object = spec.session or msgspec.structs.replace(spec, preload=())
    return "po-" + blake3(msgspec.msgpack.encode((user, what))).hexdigest(16)


class Container(ContainerState):
    """A container."""

    __slots__ = (
        "busy_since",
        "calls",
        "cost",
        "ended",
        "exit_reason",
        "host",
        "idle_at",
        "info",
        "meter",
        "notebook",
        "pool",
        "price",
        "ready",
        "reason",
        "samples",
        "sleep_reason",
        "started",
        "unwanted",
        "usage",
        "wakes",
    )

    def __init__(
        self,
        container_id: str,
        pool: Pool,
        host: Host,
        *,
        gpu: GpuRequest | None,
        price: float,
        reason: str,
        now: float,
    ) -> None:
        super().__init__(
            container_id,
            pool.pool_id,
            host.host_id,
            cpu=pool.cpu,
            memory=pool.memory,
            gpu_model=gpu.model if gpu is not None else "",
            gpu_count=gpu.count if gpu is not None else 0,
            since=now,
        )
        self.pool = pool
        self.host = host
        self.started = time.time()
        """When its start was asked for (Unix time, as the next two)."""
        self.ready = 0.0
        self.ended = 0.0
        self.exit_reason = ""
        self.reason = reason
        """Why it was started."""
        self.price = price
        """US dollars an hour."""
        self.cost = 0.0
        """Up to the meter's last reading."""
        self.meter = Meter(price, self.started)
        self.notebook = ""
        """Whose call it ran last."""
        self.call: Call | None = None
        """What it runs."""
        self.busy_since = 0.0
        """Unix time; 0 while nothing runs."""
        self.calls = 0
        self.usage: Usage | None = None
        self.samples: deque[Sample] | None = None
        """What it used in the last minutes."""
        self.wakes = False
        """It is to be a session that sleeps."""
        self.sleep_reason = ""
        """Why it was last put to sleep."""
        self.idle_at = 0.0
        """Since when it had been idle then, as `since`."""
        self.unwanted = ""
        """Why it is to be ended as soon as it is asleep, or is not."""
        self.info = ContainerInfo(
            container_id=container_id,
            host_id=host.host_id,
            state="starting",
            app=pool.spec.app,
            function=pool.spec.name,
            session=pool.session,
            gpu=gpu_text(GpuRequest(model=gpu.model, count=gpu.count)) if gpu is not None else "",
            simulated=gpu is not None and host.simulated(gpu.model),
            started=self.started,
        )

    @property
    def gpu(self) -> str:
        """``"H100:8"`` or ``""``."""
        return self.info.gpu

    def idle_since(self) -> float:
        """When its phase began, as a Unix time."""
        return time.time() - (time.monotonic() - self.since)


class Pool(PoolState):
    """The work and the containers of one function (or of functions with equal specs), or of one session."""

    __slots__ = ("calls", "definers", "failures", "problem", "reason", "spec", "user")

    def __init__(self, key: str, spec: FunctionSpec, user: str) -> None:
        label = session_label(spec) if spec.session else f"{spec.app}.{spec.name}"
        super().__init__(
            key,
            label,
            gpus=spec.gpus,
            cpu=spec.cpu,
            memory=spec.memory,
            max_containers=spec.max_containers,
            min_containers=spec.min_containers,
            buffer_containers=spec.buffer_containers,
            scaledown_window=spec.scaledown_window,
            idle_policy=spec.idle_policy,
            session=spec.session,
        )
        self.spec = spec
        self.user = user
        self.calls = 0
        """That are not over."""
        self.definers: set[str] = set()
        """Clients that are there and have defined it, where `min_containers` are kept for it."""
        self.reason = ""
        """Why its work waits."""
        self.failures = 0
        """Starts that failed since the last that did not."""
        self.problem: Problem | None = None
        """Of the last start that failed."""

    @property
    def members(self) -> dict[str, Container]:
        """Its containers."""
        return cast("dict[str, Container]", self.containers)

    def respecify(self, spec: FunctionSpec) -> None:
        """Take the parts of a new spec that containers which are up already need not be replaced for."""
        self.spec = spec
        self.scaledown_window = spec.scaledown_window
        self.idle_policy = spec.idle_policy

    def newest(self) -> Container | None:
        """The container started last, of those that are not ending."""
        for container in reversed(self.members.values()):
            if container.phase != "stopping":
                return container
        return None

    def waiting_calls(self) -> list[Call]:
        """What is in its queue."""
        return cast("list[Call]", list(self.queue))


class Host(HostState):
    """A host."""

    __slots__ = ("codes", "engine", "facts", "port", "since", "templates", "welcomed")

    def __init__(self, facts: HostFacts) -> None:
        super().__init__(facts.host_id, facts.hostname, cpus=facts.cpus, memory=facts.memory)
        self.port: HostPort | None = None
        self.engine = ""
        self.since = 0.0
        """Unix time of the last change of its link."""
        self.codes: set[str] = set()
        """Functions whose code was sent on this link."""
        self.welcomed = False
        self.templates: tuple[TemplateInfo, ...] = ()
        self.update(facts)

    def update(self, facts: HostFacts) -> None:
        """Take what the host says of itself."""
        self.facts = facts
        self.name = facts.hostname
        self.cpus = facts.cpus
        self.memory = facts.memory
        self.cannot_sleep = facts.cannot_sleep
        self.gpus = {}
        for gpu in facts.gpus:
            self.gpus[gpu.model] = self.gpus.get(gpu.model, 0) + 1

    def simulated(self, model: str) -> bool:
        """Whether its GPUs of this model are simulated."""
        return any(gpu.simulated for gpu in self.facts.gpus if gpu.model == model)

    @property
    def members(self) -> dict[str, Container]:
        """The containers on it."""
        return cast("dict[str, Container]", self.containers)
