"""Messages between the gateway and a host."""

from __future__ import annotations

from typing import TypeAlias

from skylift.wire.client_link import BuildEnded, BuildImage, BuildOutput, CancelBuild, Events
from skylift.wire.limits import DEFAULT_WINDOW
from skylift.wire.values import (
    CallKind,
    CancelMode,
    ContainerInfo,
    FunctionSpec,
    GpuRequest,
    HostFacts,
    Message,
    Payload,
    Problem,
    SleepingSession,
    SnapshotRef,
    Struct,
    TemplateInfo,
    Usage,
)

# --- host → gateway ------------------------------------------------------------------------------


class CallReport(Struct, frozen=True, kw_only=True):
    """A call that a host still holds, told when it connects."""

    call_id: str
    container_id: str
    next_seq: int
    """The number that its next event will have."""
    held_from: int
    """The lowest event that the host can still send."""
    inputs: tuple[int, ...] = ()
    """Of a map: inputs that it has and that are without result."""
    ended: bool = False


class HostHello(Message, frozen=True, kw_only=True):
    """First frame of a host's link, after a first connect and after each reconnect."""

    protocol: int
    token: str
    facts: HostFacts
    containers: tuple[ContainerInfo, ...] = ()
    pools: dict[str, str] = {}
    """Container id to pool id (`pool_id`), of the containers above."""
    calls: tuple[CallReport, ...] = ()
    specs: dict[str, FunctionSpec] = {}
    """Pool id to spec, of the containers above: a restarted gateway does not know them."""
    templates: tuple[TemplateInfo, ...] = ()
    sleeping: tuple[SleepingSession, ...] = ()
    """The sleeping sessions that are in its store, whether a host or a gateway of before wrote them there."""


class ContainerChanged(Message, frozen=True, kw_only=True):
    """A container became ready, or ended."""

    info: ContainerInfo
    problem: Problem | None = None
    """Why it did not start, or died."""


class SessionSlept(Message, frozen=True, kw_only=True):
    """The answer to `SleepContainer`.

    With `session` its container is gone: no `ContainerChanged` tells of its end. With `problem` it runs on.
    """

    container_id: str
    session: SleepingSession | None = None
    seconds: float = 0.0
    """How long it took to write it."""
    problem: Problem | None = None


class TemplatesChanged(Message, frozen=True, kw_only=True):
    """The templates that a host has now."""

    templates: tuple[TemplateInfo, ...]


class CallStarted(Message, frozen=True, kw_only=True):
    """The runner has begun a call."""

    call_id: str
    time: float
    sockets: str = ""
    """Of a kernel: the folder, on the host's machine, with its sockets, ``kernel-1`` to ``kernel-5``: shell,
    iopub, stdin, control, heartbeat."""


class Returned(Message, frozen=True, kw_only=True):
    """Inputs of a map that the host gives back unrun (its container died before their turn)."""

    call_id: str
    inputs: tuple[int, ...]


class CallLost(Message, frozen=True, kw_only=True):
    """A call that was sent to a container which ended before the call began: it can run elsewhere."""

    call_id: str
    reason: str


class UsageReport(Message, frozen=True, kw_only=True):
    """Samples of every container, once a second while something runs."""

    samples: tuple[Usage, ...]


HostMessage: TypeAlias = (
    HostHello
    | ContainerChanged
    | SessionSlept
    | TemplatesChanged
    | CallStarted
    | Returned
    | CallLost
    | UsageReport
    | Events
    | BuildOutput
    | BuildEnded
)

# --- gateway → host ------------------------------------------------------------------------------


class HostWelcome(Message, frozen=True, kw_only=True):
    """The host is known. Calls that it reported and that are named here go on; others are dropped."""

    gateway_id: str
    calls: dict[str, int] = {}
    """Call id to the first event that the gateway's log lacks: the host sends from there."""


class StartContainer(Message, frozen=True, kw_only=True):
    """Make a container for a pool; the host chooses the fastest path. Answer: `ContainerChanged`."""

    container_id: str
    pool_id: str
    spec: FunctionSpec
    gpu: GpuRequest | None = None
    """Which of the spec's choices to take."""
    token: str = ""
    """With which code in the container may speak to the gateway; "" gives it no way there."""
    user: str = ""
    """Whose it is: users share no templates."""
    wake: SnapshotRef | None = None
    """The sleeping session that it is to be. Where it cannot be woken, the container does not start."""


class StopContainer(Message, frozen=True, kw_only=True):
    """End a container: exit handlers run within `grace` seconds."""

    container_id: str
    grace: float = 5.0
    reason: str = ""


class SleepContainer(Message, frozen=True, kw_only=True):
    """Write an idle session's container to the store, and end it. Answer: `SessionSlept`."""

    container_id: str


class ForgetSession(Message, frozen=True, kw_only=True):
    """Delete a sleeping session: it was ended."""

    pool_id: str


class Code(Message, frozen=True, kw_only=True):
    """A function's pickled code; sent once on a link, before its first call."""

    function_id: str
    code: Payload


class RunCall(Message, frozen=True, kw_only=True):
    """Run one call in a container."""

    container_id: str
    call_id: str
    function_id: str
    kind: CallKind
    args: Payload
    window: int
    timeout: float
    first_seq: int = 0
    """The number of its first event: above 0 when it ran elsewhere before."""
    first_total: int = 0
    """Cost of the events below `first_seq` (see `Consumed`)."""


class RunInputs(Message, frozen=True, kw_only=True):
    """Run these inputs of a map in a container, in this order. More may follow for the same call."""

    container_id: str
    call_id: str
    function_id: str
    indexes: tuple[int, ...]
    items: tuple[Payload, ...]
    timeout: float
    window: int = DEFAULT_WINDOW
    """Of each container that works on the map."""
    first_seq: int = 0
    """As in `RunCall`; read where the host does not hold the call yet."""
    first_total: int = 0


class EndMap(Message, frozen=True, kw_only=True):
    """Every input of a map has its result (or it is cancelled): the host forgets the call."""

    call_id: str


class Persisted(Message, frozen=True, kw_only=True):
    """Events below `seq` are in the gateway's log; the host may let go of them."""

    call_id: str
    seq: int
    end: bool = False
    """The call's `End` is in the log too: the host forgets the call. (A last frame may have no events,
    so `seq` alone cannot say it.)"""


class Window(Message, frozen=True, kw_only=True):
    """The consumer has consumed `total` bytes of this call (see `Consumed`)."""

    call_id: str
    total: int


class CancelCall(Message, frozen=True, kw_only=True):
    """See `Cancel`. `index` names one input of a map; -1 is all."""

    call_id: str
    mode: CancelMode
    reason: str = ""
    index: int = -1


class Shutdown(Message, frozen=True, kw_only=True):
    """End all containers and the host process itself."""

    grace: float = 5.0


HostCommand: TypeAlias = (
    HostWelcome
    | StartContainer
    | StopContainer
    | SleepContainer
    | ForgetSession
    | Code
    | RunCall
    | RunInputs
    | EndMap
    | Persisted
    | Window
    | CancelCall
    | Shutdown
    | BuildImage
    | CancelBuild
)
