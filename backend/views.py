"""What REST answers with: plain data about calls, containers, sessions, hosts and spend.

Times are Unix times in seconds (0: not yet), prices US dollars an hour, costs US dollars.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from skylift.wire import CallKind, CallState, ContainerState, IdlePolicy, StartPath, TemplateState, Usage

SpendBy: TypeAlias = Literal["day", "notebook", "function", "gpu"]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the views."""


class CallFilter(View, frozen=True, kw_only=True):
    """Which calls to list. Empty fields do not restrict."""

    state: tuple[CallState, ...] = ()
    kind: tuple[CallKind, ...] = ()
    function: str = ""
    app: str = ""
    session: str = ""
    notebook: str = ""
    container_id: str = ""
    search: str = ""
    """Part of the function's name, the summary or the error."""
    since: float = 0.0
    """Queued at or after this time."""
    until: float = 0.0
    """Queued before this time."""


class CallRow(View, frozen=True, kw_only=True):
    """A call in a list."""

    call_id: str
    kind: CallKind
    state: CallState
    app: str
    function: str
    session: str
    notebook: str
    cell: str
    summary: str
    detail: str
    """Why it waits, while it does."""
    error: str
    """One line, such as ``"ValueError: no such column"``."""
    queued: float
    started: float
    first_output: float
    ended: float
    container_id: str
    host_id: str
    gpu: str
    price: float
    cost: float
    durable: bool
    detached: bool
    inputs: int
    """Of a map: how many have come so far."""
    inputs_done: int


class CallPage(View, frozen=True, kw_only=True):
    """Calls, newest first."""

    calls: tuple[CallRow, ...]
    next: str
    """Pass it as ``before`` for the page after this one; "" after the last."""


class TimelineEntry(View, frozen=True, kw_only=True):
    """One thing that happened to a call."""

    time: float
    what: str
    """``queued``, ``starting container``, ``container ready``, ``started``, ``first output``, or how it
    ended."""
    detail: str = ""


class CallDetail(View, frozen=True, kw_only=True):
    """One call, whole."""

    call: CallRow
    timeline: tuple[TimelineEntry, ...]
    container: ContainerView | None
    usage: Usage | None
    """The latest sample, while it runs."""
    peak_memory: int
    """Bytes."""
    events: int
    """How many there are in its output."""
    output_bytes: int
    attempts: int
    """How often it was given to a container."""


Sample: TypeAlias = tuple[float, float, int, float | None, int | None]
"""What was in use at a Unix time: cores, bytes of memory, GPUs (0 to 1), bytes of their memory; the last two
None where there is no GPU. As JSON a list."""


class CallUsage(View, frozen=True, kw_only=True):
    """What a call used; empty where it was too quick to be measured."""

    samples: tuple[Sample, ...]
    """Oldest first."""


class ContainerUsage(View, frozen=True, kw_only=True):
    """What a container used."""

    container_id: str
    samples: tuple[Sample, ...]
    """Oldest first."""


class CallNode(View, frozen=True, kw_only=True):
    """A call in a tree of calls."""

    call: CallRow
    parent: str
    """The call whose code made it; "" for the first."""


class CallGraph(View, frozen=True, kw_only=True):
    """A call, which comes first, and what its code called, and so on."""

    calls: tuple[CallNode, ...]
    more: bool
    """There are more of them."""


class OutputItem(View, frozen=True, kw_only=True):
    """One event of a call's output, as people can see it."""

    seq: int
    kind: str
    meta: dict[str, Any]
    text: str = ""
    """What it printed, or the JSON of what it displayed; "" for pickles."""
    size: int = 0
    """Bytes of its data."""
    blob: str = ""
    """Where the data is in the store, as it is large: ``GET /v1/blobs/{blob}`` has what `text` would be."""


class OutputPage(View, frozen=True, kw_only=True):
    """Part of a call's output."""

    call_id: str
    state: CallState
    items: tuple[OutputItem, ...]
    next_seq: int
    """Pass it as ``from_seq`` for what follows."""
    more: bool
    """There is more already."""


class ContainerView(View, frozen=True, kw_only=True):
    """A container."""

    container_id: str
    host_id: str
    state: ContainerState
    app: str
    function: str
    session: str
    notebook: str
    gpu: str
    simulated: bool
    path: StartPath
    path_seconds: float
    path_reason: str
    started: float
    """When its start was asked for."""
    ready: float
    ended: float
    exit_reason: str
    calls: int
    """How many it has run so far."""
    running: tuple[str, ...]
    """Ids of the calls that it runs now."""
    idle_since: float
    usage: Usage | None
    price: float
    cost: float
    reason: str
    """Why it was started."""
    kept: str = ""
    """Why it is kept though it is idle, where that has no end: ``"min_containers=1"``."""


SessionState: TypeAlias = Literal["waiting", "starting", "idle", "running", "falling asleep", "asleep"]


class SessionView(View, frozen=True, kw_only=True):
    """The container behind the ``%%gpu`` cells of one notebook, and what waits for it."""

    session_id: str
    name: str
    notebook: str
    state: SessionState
    detail: str
    gpu: str
    container: ContainerView | None
    running: str
    """Id of the call that runs."""
    queued: int
    idle_window: float
    """Seconds without a cell after which it ends."""
    ends_at: float
    """When that is, if it stays idle; 0 while it does not count."""
    idle_policy: IdlePolicy
    """What becomes of it then."""
    kept: str
    """Why it is kept all the same, or ""."""
    since: float
    """Of one that sleeps: since when (Unix time); 0 else."""
    size: int
    """Of one that sleeps: bytes in the store."""
    unpacked: int
    """Of one that sleeps: bytes of memory and files."""
    problem: str
    """Why it could not be woken, or ""."""


class Slept(View, frozen=True, kw_only=True):
    """A session sleeps."""

    seconds: float
    """That it took to write it; 0 where it did sleep already."""
    size: int
    """Bytes in the store."""
    unpacked: int
    """Bytes of memory and files."""


class Woken(View, frozen=True, kw_only=True):
    """A session is awake."""

    seconds: float
    """That it took; 0 where it was awake already."""


class TemplateView(View, frozen=True, kw_only=True):
    """A template: what containers are forked from."""

    template_id: str
    host_id: str
    label: str
    """Of the function that it was made for."""
    state: TemplateState
    reason: str
    """Why it cannot be forked, or failed, or has no snapshot; or ""."""
    forks: int
    """Containers forked from it that are up."""
    spare: bool
    """One was forked ahead."""
    memory: int
    """Bytes."""
    restored: bool
    """It came from the store."""
    size: int
    """Bytes of its snapshot in the store; 0 where it has none."""
    unpacked: int
    """Bytes of the snapshot when it is unpacked."""
    created: float


class GpuView(View, frozen=True, kw_only=True):
    """One kind of GPU of a host."""

    model: str
    count: int
    in_use: int
    memory: int
    """Bytes of one."""
    simulated: bool
    price: float
    holders: tuple[str, ...]
    """Who uses them, for people: ``"session train (1)"``."""


class HostView(View, frozen=True, kw_only=True):
    """A machine that runs containers."""

    host_id: str
    hostname: str
    engine: str
    connected: bool
    since: float
    """When its link was last made or lost."""
    isolation: str
    rootless: bool
    kernel: str
    cpus: float
    cpus_reserved: float
    memory: int
    """MiB."""
    memory_reserved: int
    gpus: tuple[GpuView, ...]
    containers: int
    problem: str
    """Why there is none, where the engine could not start it."""


class SpendRow(View, frozen=True, kw_only=True):
    """What containers cost, for one value of what was asked by."""

    key: str
    """``"2026-02-03"``, a notebook, ``app.function`` or a GPU."""
    seconds: float
    """That containers were up."""
    cost: float
    idle_seconds: float
    """Of these: without a call to run."""
    idle_cost: float
    calls: int
    """That ended."""


class Spend(View, frozen=True, kw_only=True):
    """What containers cost over some days."""

    by: SpendBy
    since: str
    """First day, ``"2026-02-03"`` (UTC)."""
    until: str
    """Last day."""
    rows: tuple[SpendRow, ...]
    """Highest cost first; by day: newest first."""
    total: SpendRow
