"""A call, from its submission to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from skylift.backend.costs import HOUR
from skylift.backend.maps import MapInputs
from skylift.backend.scheduler_state import Work
from skylift.wire import (
    FINAL_STATES,
    CallKind,
    CallState,
    CallStatus,
    CallTimes,
    CancelMode,
    End,
    FunctionSpec,
    Payload,
)

if TYPE_CHECKING:
    from skylift.backend.pools import Container, Pool
    from skylift.backend.streams import Attachment
    from skylift.backend.usage_history import CallSamples


LOST_ARGS = Payload()
"""Stands for arguments that nobody has any more: an earlier gateway had them in memory."""


class Function(msgspec.Struct, eq=False, weakref=True):
    """A function that was defined."""

    function_id: str
    spec: FunctionSpec
    code: Payload
    user: str
    saved: bool = False
    """It is in the log."""
    pool: Pool | None = None
    """Where its calls go, as last looked up."""


class Call(Work):
    """A call that is not over, or was over a moment ago."""

    __slots__ = (
        "answered",
        "args",
        "attachments",
        "attempts",
        "cancelled",
        "cell",
        "client_id",
        "container",
        "container_id",
        "cost",
        "detached",
        "driver",
        "durable",
        "end_logged",
        "ended",
        "error",
        "expected_seq",
        "first_output",
        "function",
        "gpu",
        "held",
        "host_id",
        "inputs",
        "kind",
        "logged_seq",
        "logged_total",
        "losses",
        "next_seq",
        "notebook",
        "output_bytes",
        "peak_memory",
        "price",
        "queued",
        "sockets",
        "started",
        "state",
        "summary",
        "taken_up",
        "told",
        "total",
        "unclaimed",
        "unreported",
        "usage",
        "user",
        "visible",
        "waiters",
        "window",
    )

    def __init__(
        self,
        call_id: str,
        *,
        user: str,
        client_id: str,
        notebook: str,
        function: Function,
        pool: Pool,
        kind: CallKind,
        args: Payload,
        durable: bool,
        detached: bool,
        window: int,
        summary: str,
        cell: str,
        since: float,
    ) -> None:
        super().__init__(call_id, since, 0 if kind == "map" else 1)
        self.user = user
        self.client_id = client_id
        """Whose absence ends it, unless it is detached or durable."""
        self.notebook = notebook
        self.function = function
        self.pool: Pool = pool
        self.kind: CallKind = kind
        self.args = args
        """Let go of when it is over."""
        self.durable = durable
        self.detached = detached
        self.window = window
        self.summary = summary
        self.cell = cell
        self.state: CallState = "queued"
        self.error = ""
        self.queued = time.time()
        self.started = 0.0
        self.first_output = 0.0
        self.ended = 0.0
        self.inputs = MapInputs() if kind == "map" else None
        self.container: Container | None = None
        """Where it runs now; of a map, one of those."""
        self.container_id = ""
        self.host_id = ""
        self.gpu = ""
        self.price = 0.0
        self.cost = 0.0
        """Of what is over of it."""
        self.peak_memory = 0
        self.attempts = 0
        self.losses = 0
        """How often a container was lost before it began."""
        self.next_seq = 0
        """The number of the next event from its host."""
        self.total = 0
        """Cost (`event_cost`) of the events below `next_seq`."""
        self.output_bytes = 0
        self.logged_seq = 0
        """Events below this are in the log."""
        self.logged_total = 0
        self.end_logged = False
        """How it ended is in the log."""
        self.told = 0
        """The `Window.total` that its host was told last."""
        self.attachments: list[Attachment] = []
        self.driver: Attachment | None = None
        """The attachment whose consumption moves the window."""
        self.waiters: list[Callable[[], None]] | None = None
        """To be called when more of it is in the log."""
        self.answered = durable or detached or kind == "map"
        """`Accepted` was sent for it, or will be once it is in the log."""
        self.sockets = ""
        """Of a kernel that is up: the folder of its sockets, on its host's machine."""
        self.visible = False
        """It has lasted for long enough to tell people about it."""
        self.cancelled: CancelMode | None = None
        """How it was asked to end, while it has not yet."""
        self.held = False
        """It is not in its queue until the hosts have said what they run."""
        self.unclaimed = False
        """A host has it and no client has asked for it since the gateway started."""
        self.expected_seq = 0
        """Of a map after a reconnect of its host: the host had produced the events below this."""
        self.taken_up = False
        """A map that this gateway has from an earlier one: which container has which input is not certain."""
        self.usage: CallSamples | None = None
        """What it has used, where it has lasted for long enough to be known."""
        self.unreported: set[int] | None = None
        """Inputs that its host did not report: to be run again, unless those events have their results."""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL_STATES

    @property
    def log_consumes(self) -> bool:
        """Whether the log, not a client, moves its window."""
        return self.detached or self.durable

    def cost_now(self) -> float:
        """US dollars so far."""
        cost = self.cost
        if not self.over:
            now = time.time()
            for container in self.containers():
                if container.busy_since:
                    cost += max(0.0, now - container.busy_since) * container.price / HOUR
        return cost

    def containers(self) -> list[Container]:
        """Where it runs now."""
        if self.inputs is None:
            return [self.container] if self.container is not None else []
        pool = self.pool.members
        return [pool[key] for key in self.inputs.shares if key in pool and pool[key].call is self]

    def times(self) -> CallTimes:
        """Its times so far."""
        return CallTimes(
            queued=self.queued, started=self.started, first_output=self.first_output, ended=self.ended
        )

    def end(self) -> End:
        """How it ended."""
        return End(state=self.state, summary=self.error, times=self.times(), peak_memory=self.peak_memory)

    def detail(self) -> str:
        """Why it waits, or ""."""
        if self.over:
            return ""
        if self.held:
            return "waiting for the host to say what it runs"
        if self.cancelled is not None:
            return "being cancelled"
        if self.container is not None and self.container.phase == "away":
            return f"waiting for host {self.container.host.name} to come back: the link to it is lost"
        return self.pool.reason if self.units else ""

    def status(self) -> CallStatus:
        """Where it is, for status lines."""
        container = self.container
        if container is None and self.state == "queued":
            container = self.pool.newest()
        return CallStatus(
            call_id=self.call_id,
            state=self.state,
            detail=self.detail(),
            container=container.info if container is not None else None,
            times=self.times(),
            usage=container.usage if container is not None and self.state == "running" else None,
            cost=self.cost_now(),
            price=container.price if container is not None else self.price,
            sockets=self.sockets,
        )
