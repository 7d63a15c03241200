"""Messages between a client and the gateway."""

from __future__ import annotations

from typing import Literal, TypeAlias

from skylift.wire.images import ImageDefinition
from skylift.wire.limits import DEFAULT_WINDOW, MAX_FRAME
from skylift.wire.values import (
    CallKind,
    CallStatus,
    CancelMode,
    End,
    FunctionSpec,
    ImageSpec,
    Message,
    Payload,
    Problem,
)

# --- client → gateway ----------------------------------------------------------------------------


class Hello(Message, frozen=True, kw_only=True):
    """First frame of a connection; the token came with the HTTP request."""

    protocol: int
    client_id: str
    """Stays the same when the client reconnects (``cl-…``)."""
    notebook: str = ""
    """Path of the notebook or script, for people."""
    python: str = ""
    machine: str = ""


class Define(Message, frozen=True, kw_only=True):
    """A function's code and what its containers are. Sent before its first `Submit` on a connection."""

    function_id: str
    """``fu-`` and the BLAKE3 of code and spec."""
    spec: FunctionSpec
    code: Payload = Payload()
    """The pickled function; empty for a session."""


class Submit(Message, frozen=True, kw_only=True):
    """Run this. Sent again after a reconnect if it was not answered: a `call_id` runs once."""

    call_id: str
    function_id: str
    kind: CallKind
    args: Payload = Payload()
    """Pickled ``(args, kwargs)``; for a cell, see `runtime.runner.cells`; unused for a map."""
    durable: bool = False
    """`Accepted` only once the call is on disk (``spawn``)."""
    detached: bool = False
    """The call goes on without a client, and the log is its consumer."""
    window: int = DEFAULT_WINDOW
    summary: str = ""
    """For people: ``"train(lr=0.1, …)"``."""
    cell: str = ""
    """Where it was called: the cell's id or ``file:line``, for "show the cell"."""
    resubmitted: bool = False
    """It may have arrived before: wait for the hosts to report before running it."""


class Inputs(Message, frozen=True, kw_only=True):
    """Inputs ``start, start+1, …`` of a map. Sent again after a reconnect until they have results."""

    call_id: str
    start: int
    items: tuple[Payload, ...] = ()
    total: int = -1
    """How many there are in all, once the client knows; -1 before."""


class Consumed(Message, frozen=True, kw_only=True):
    """Events below `seq` have been consumed; `total` is their cost (`event_cost`), summed from 0.

    Sent each quarter of the window, and at once after an event whose data is in the store: that one cost its
    producer what its data takes, and here next to nothing."""

    call_id: str
    seq: int
    total: int


class Attach(Message, frozen=True, kw_only=True):
    """Send me this call's events from `seq` on (-1: from now on)."""

    call_id: str
    seq: int = 0
    window: int = DEFAULT_WINDOW
    total: int = 0
    """Cost of the events below `seq` (see `Consumed`)."""


class Detach(Message, frozen=True, kw_only=True):
    """Send me no more of this call. `keep` lets it run on without a client."""

    call_id: str
    keep: bool = True


class Cancel(Message, frozen=True, kw_only=True):
    """``interrupt``: KeyboardInterrupt in the cell. ``cancel``: InputCancellation in the function.
    ``terminate``: its container is ended as well."""

    call_id: str
    mode: CancelMode = "cancel"
    reason: str = ""


class StopSession(Message, frozen=True, kw_only=True):
    """End a session's container; its variables are gone."""

    session: str


class BuildImage(Message, frozen=True, kw_only=True):
    """Make this image, or find it made. Answers: `BuildOutput`, then `BuildEnded`. Also gateway → host.

    Sent again after a reconnect; builds of one image at the same time are one build."""

    build_id: str
    """``bu-…``, made by who asks."""
    image: ImageDefinition


class CancelBuild(Message, frozen=True, kw_only=True):
    """Nobody waits for this build any more. Also gateway → host."""

    build_id: str


ClientMessage: TypeAlias = (
    Hello
    | Define
    | Submit
    | Inputs
    | Consumed
    | Attach
    | Detach
    | Cancel
    | StopSession
    | BuildImage
    | CancelBuild
)

# --- gateway → client ----------------------------------------------------------------------------


class Welcome(Message, frozen=True, kw_only=True):
    """The connection stands."""

    gateway_id: str
    version: str
    max_frame: int = MAX_FRAME
    machines: tuple[str, ...] = ()
    """`machine_id` of the gateway and of its hosts: those whose files containers can be shown."""


class Accepted(Message, frozen=True, kw_only=True):
    """The call is ours now (for a durable one: on disk)."""

    call_id: str


class Refused(Message, frozen=True, kw_only=True):
    """The message about `call_id` (or `function_id`, or "" for the connection) was not carried out."""

    call_id: str = ""
    function_id: str = ""
    problem: Problem


class Status(Message, frozen=True, kw_only=True):
    """Where a call is."""

    status: CallStatus


class Events(Message, frozen=True, kw_only=True):
    """Events ``seq … seq+count-1`` of a call. Also host → gateway."""

    call_id: str
    seq: int
    count: int
    body: bytes
    """msgpack of ``list[Event]``."""
    cost: int = 0
    """Sum of `event_cost` over the body; data that went to the store does not count."""
    done: tuple[int, ...] = ()
    """Inputs of a map that have their result or error in this body."""
    end: End | None = None
    """The call is over, and this is its last frame (`count` may be 0)."""


class BuildOutput(Message, frozen=True, kw_only=True):
    """What a build is at, and what its commands print. Also host → gateway."""

    build_id: str
    step: int
    """Which one, from 0."""
    steps: int
    """Of how many."""
    state: Literal["running", "done", "cached"] = "running"
    label: str = ""
    """The step's."""
    text: str = ""
    """Printed since the last one of these; may end in the middle of a line."""
    at: int = 0
    """To a client: how many characters the build printed before `text`, so that who hears it again after a
    reconnect shows it once."""
    done: int = 0
    total: int = 0
    """Bytes of what is being moved (a layer into the store, one from a registry); 0 where nothing is."""


class BuildEnded(Message, frozen=True, kw_only=True):
    """The end of a build. Also host → gateway."""

    build_id: str
    image: ImageSpec | None = None
    problem: Problem | None = None
    """An ``ImageBuildError`` mostly; names the step, its exit code and its last lines."""


GatewayMessage: TypeAlias = Welcome | Accepted | Refused | Status | Events | BuildOutput | BuildEnded
