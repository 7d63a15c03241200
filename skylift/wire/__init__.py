"""Every message that crosses a process boundary, as msgspec structs.

Imported by every part of Skylift; imports none of them. Three links are described here:

===================  =========================  ==============================================
link                 carried by                 frames
===================  =========================  ==============================================
client ↔ gateway     one WebSocket per kernel   `ClientMessage` ↓, `GatewayMessage` ↑, msgpack
gateway ↔ host       a stream the host dials    `HostCommand` ↓, `HostMessage` ↑, msgpack,
                                                each behind a 4-byte big-endian length
host ↔ runner        two Unix sockets           JSON header and raw payload: docs/protocol.md
===================  =========================  ==============================================

The bytes of arguments, results and yielded items are opaque to the gateway and the host: only
the client and the runner unpickle them.

Streams
    What a call prints, shows, yields, returns and raises is one ordered stream of `Event`.
    The host numbers them from 0 in each call. Consecutive events travel as one `Events` frame
    whose `body` is the msgpack encoding of ``list[Event]``, made once by the host and passed on
    unread: the gateway writes the frame to its log and forwards it. The host keeps a frame until
    the gateway says that it is in the log (`Persisted`); a client that comes back asks for the
    events from the number it has not seen (`Attach`). So nothing is lost and nothing comes twice.

Windows
    A producer may be at most ``window`` bytes ahead of its consumer. An event costs
    ``len(data) + EVENT_OVERHEAD``; the consumer reports the running total that it has consumed
    (`Consumed`), the runner blocks in the user's thread while ``produced - consumed >= window``.
    For a call with a client the client is the consumer; for a detached call the log is.
"""

from __future__ import annotations

from skylift.wire.client_link import (
    Accepted,
    Attach,
    Cancel,
    ClientMessage,
    Consumed,
    Define,
    Detach,
    Events,
    GatewayMessage,
    Hello,
    Inputs,
    Refused,
    Status,
    StopSession,
    Submit,
    Welcome,
)
from skylift.wire.frames import (
    FrameBuffer,
    decode_client_message,
    decode_events,
    decode_gateway_message,
    decode_host_command,
    decode_host_message,
    encode,
    encode_events,
    frame,
)
from skylift.wire.host_link import (
    CallLost,
    CallReport,
    CallStarted,
    CancelCall,
    Code,
    ContainerChanged,
    EndMap,
    ForgetSession,
    HostCommand,
    HostHello,
    HostMessage,
    HostWelcome,
    Persisted,
    Returned,
    RunCall,
    RunInputs,
    SessionSlept,
    Shutdown,
    SleepContainer,
    StartContainer,
    StopContainer,
    TemplatesChanged,
    UsageReport,
    Window,
)
from skylift.wire.ids import is_id, machine_id, new_id
from skylift.wire.limits import (
    DEFAULT_WINDOW,
    EVENT_OVERHEAD,
    INLINE_LIMIT,
    MAX_BLOB,
    MAX_FRAME,
    MAX_OUTSTANDING_INPUTS,
    PROTOCOL,
    WARN_SIZE,
)
from skylift.wire.values import (
    FINAL_STATES,
    CallKind,
    CallState,
    CallStatus,
    CallTimes,
    CancelMode,
    ContainerInfo,
    ContainerState,
    End,
    Event,
    FunctionSpec,
    GpuInfo,
    GpuRequest,
    HostFacts,
    IdlePolicy,
    ImageSpec,
    Message,
    MountSpec,
    Payload,
    Problem,
    RetryPolicy,
    SleepingSession,
    SnapshotRef,
    StartPath,
    Struct,
    TemplateInfo,
    TemplateState,
    Usage,
    event_cost,
)

__all__ = [
    "DEFAULT_WINDOW",
    "EVENT_OVERHEAD",
    "FINAL_STATES",
    "INLINE_LIMIT",
    "MAX_BLOB",
    "MAX_FRAME",
    "MAX_OUTSTANDING_INPUTS",
    "PROTOCOL",
    "WARN_SIZE",
    "Accepted",
    "Attach",
    "CallKind",
    "CallLost",
    "CallReport",
    "CallStarted",
    "CallState",
    "CallStatus",
    "CallTimes",
    "Cancel",
    "CancelCall",
    "CancelMode",
    "ClientMessage",
    "Code",
    "Consumed",
    "ContainerChanged",
    "ContainerInfo",
    "ContainerState",
    "Define",
    "Detach",
    "End",
    "EndMap",
    "Event",
    "Events",
    "ForgetSession",
    "FrameBuffer",
    "FunctionSpec",
    "GatewayMessage",
    "GpuInfo",
    "GpuRequest",
    "Hello",
    "HostCommand",
    "HostFacts",
    "HostHello",
    "HostMessage",
    "HostWelcome",
    "IdlePolicy",
    "ImageSpec",
    "Inputs",
    "Message",
    "MountSpec",
    "Payload",
    "Persisted",
    "Problem",
    "Refused",
    "RetryPolicy",
    "Returned",
    "RunCall",
    "RunInputs",
    "SessionSlept",
    "Shutdown",
    "SleepContainer",
    "SleepingSession",
    "SnapshotRef",
    "StartContainer",
    "StartPath",
    "Status",
    "StopContainer",
    "StopSession",
    "Struct",
    "Submit",
    "TemplateInfo",
    "TemplateState",
    "TemplatesChanged",
    "Usage",
    "UsageReport",
    "Welcome",
    "Window",
    "decode_client_message",
    "decode_events",
    "decode_gateway_message",
    "decode_host_command",
    "decode_host_message",
    "encode",
    "encode_events",
    "event_cost",
    "frame",
    "is_id",
    "machine_id",
    "new_id",
]
