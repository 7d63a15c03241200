"""What travels inside messages."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from skylift.wire.limits import EVENT_OVERHEAD

CallState: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled", "timeout"]
CallKind: TypeAlias = Literal["call", "generator", "map", "cell", "kernel"]
"""``kernel``: a Jupyter kernel, which the gateway itself asks for; the call lasts as long as the kernel."""
ContainerState: TypeAlias = Literal["starting", "ready", "exited"]
StartPath: TypeAlias = Literal["running", "fork", "restore", "cold"]
CancelMode: TypeAlias = Literal["interrupt", "cancel", "terminate"]
IdlePolicy: TypeAlias = Literal["sleep", "sleep-or-stop", "stop", "keep"]
"""What becomes of a session that has been idle for its time: it sleeps, and is kept running where it cannot;
it sleeps, and is ended where it cannot; it is ended; it is kept running."""
TemplateState: TypeAlias = Literal["making", "ready", "unforkable", "failed"]
FINAL_STATES = frozenset({"done", "failed", "cancelled", "timeout"})


class Struct(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what travels inside messages."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", omit_defaults=True):
    """Base of the messages themselves: a map with its class's name under ``t``."""


# --- what travels inside -------------------------------------------------------------------------


class Payload(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bytes that only the client and the runner understand, or the name of such bytes in the store."""

    data: bytes = b""
    blob: str = ""
    """BLAKE3 of the bytes, 64 hex digits, where they are in the store and ``data`` is empty."""
    size: int = 0
    """Bytes, whichever way they travel."""


class Event(msgspec.Struct, frozen=True, array_like=True):
    """One thing that happened in a call. `kind` is one of:

    ==========  ======================================================  ==============================
    kind        meta                                                    data
    ==========  ======================================================  ==============================
    output      ``{"stream": "stdout"|"stderr"}``, ``"index"`` in maps  UTF-8 text
    display     ``{"display_id"?, "update"?}``                          JSON: {"data", "metadata"}
    clear       ``{"wait": bool}``                                      –
    yield       ``{}``                                                  the pickled item
    result      ``{}``, ``"index"`` in maps                             the pickled value
    value       ``{"execution_count"}`` a cell's last value             JSON: {"data", "metadata"}
    names       ``{"names": {name: {...}}}`` what a cell assigned       the pickles, one after another
    error       see `runtime.runner.errors`; ``"index"`` in maps        the pickled exception, or empty
    ==========  ======================================================  ==============================
    """

    kind: str
    meta: dict[str, Any]
    data: bytes = b""
    blob: str = ""
    """As in `Payload`: set where the data went to the store because it is over `INLINE_LIMIT`."""


def event_cost(data_length: int) -> int:
    """Bytes that an event with so much data takes of its stream's window."""
    return data_length + EVENT_OVERHEAD


class GpuRequest(Struct, frozen=True, kw_only=True):
    """One acceptable choice of GPUs."""

    model: str
    """``"H100"`` and so on, or ``"any"``."""
    count: int = 1
    exact: bool = False
    """``"H100!"``: no upgrade to a better model."""


class MountSpec(Struct, frozen=True, kw_only=True):
    """A folder (or one file) of the client's machine that the container sees read-only, at the same path."""

    path: str


class ImageSpec(Struct, frozen=True, kw_only=True):
    """What a container's root holds.

    ``"environment"``: the client's own environment, whose folders are shown in the container.
    ``"layers"``: an image that was built (see `skylift.wire.images`); of it, `layers` are what the root is
    made of, and of this machine's files there are none but the runner's.
    """

    kind: Literal["environment", "layers"]
    machine: str = ""
    """`machine_id` of the machine that the environment is on; another machine refuses it. "" for layers."""
    python: str
    """Path of the interpreter, as ``sys.executable``; "" for an image without one."""
    python_version: str
    """``"3.11.7"``."""
    mounts: tuple[MountSpec, ...] = ()
    """Every folder the interpreter needs: prefixes, site-packages, editable installs,
    the notebook's folder."""
    sys_path: tuple[str, ...] = ()
    """Entries to put on ``sys.path`` in the container."""
    env: dict[str, str] = {}
    fingerprint: str = ""
    """Changes when an installed package or a local module does, so that an old container is not reused.
    Of layers it is the key of the image's last step."""
    layers: tuple[str, ...] = ()
    """Ids of layers in the store, the lowest first."""
    workdir: str = ""
    """Where code begins; "" is the host's choice."""
    entrypoint: tuple[str, ...] = ()
    """What the runner is started through: a command that ends in running its arguments."""
    cmd: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    """What runs a build's commands."""


class VolumeMount(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A volume in a container."""

    path: str
    """Absolute; where it is mounted."""
    volume_id: str = ""
    name: str = ""
    """For people."""
    read_only: bool = False
    sub_path: str = ""
    """The folder of the volume that is mounted; "" is all of it."""
    version: int = 0
    """A fixed one, which is read-only; 0 is the newest."""
    bucket: str = ""
    """In place of a volume, the URL of a bucket of objects (`skylift.CloudBucketMount`)."""
    bucket_env: dict[str, str] = {}
    """The keys to it."""

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__struct_fields__ if name != "bucket_env"}
        return f"VolumeMount({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """Call number n (from 1) is retried after ``initial_delay * backoff_coefficient**(n-1)`` seconds, at most
    ``max_delay``."""

    max_retries: int
    initial_delay: float = 1.0
    backoff_coefficient: float = 2.0
    max_delay: float = 60.0


class FunctionSpec(Struct, frozen=True, kw_only=True):
    """What containers of a function are made of; two definitions with equal specs share containers."""

    app: str
    name: str
    image: ImageSpec
    gpus: tuple[GpuRequest, ...] = ()
    """In order of preference; empty for none."""
    cpu: float = 0.125
    """Cores that are reserved."""
    cpu_limit: float | None = None
    """Cores; None lets a container use what is idle."""
    memory: int = 128
    """MiB that are reserved."""
    memory_limit: int | None = None
    """MiB; None is the host's default."""
    timeout: float = 300.0
    """Seconds for one call (for one input of a map)."""
    startup_timeout: float = 300.0
    """Seconds for a container to become ready."""
    retries: RetryPolicy | None = None
    max_containers: int | None = None
    min_containers: int = 0
    """How many are kept, idle or not, while a client that has defined the function is there."""
    buffer_containers: int = 0
    """How many idle ones are kept beside those that work, while there is work."""
    scaledown_window: float = 60.0
    """Seconds that an idle container is kept."""
    idle_policy: IdlePolicy = "sleep"
    """Of a session, after so many seconds."""
    preload: tuple[str, ...] = ()
    """Modules that its code imports: a template of its containers has imported them. Containers that are up
    are not replaced when only these have changed."""
    template_code: str = ""
    """A hash of the code, where that is a class with ``@enter(snap=True)`` hooks, which the template runs;
    else "". It is for telling templates apart, and nothing is stored under it: the same class has the same
    hash in another kernel, though its `Define.function_id` differs there. The code is that of any function
    with this spec."""
    parameters: str = ""
    """A hash of the parameters of a class's instance: instances with different ones share no containers."""
    block_network: bool = False
    volumes: tuple[VolumeMount, ...] = ()
    single_use: bool = False
    is_generator: bool = False
    env: dict[str, str] = {}
    session: str = ""
    """Id of the session (``se-…``) that this container is; "" for a function's containers."""
    session_name: str = ""


class CallTimes(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Unix times in seconds; 0 is "not yet"."""

    queued: float = 0.0
    started: float = 0.0
    first_output: float = 0.0
    ended: float = 0.0


class End(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a call ended. What it raised is in the stream, as an event of kind ``error``."""

    state: CallState
    summary: str = ""
    """One line, such as ``"ValueError: no such column"``."""
    times: CallTimes = CallTimes()
    peak_memory: int = 0
    """Bytes, of the container, so far."""


class ContainerInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What people are told of a container."""

    container_id: str
    host_id: str
    state: ContainerState
    app: str
    function: str
    session: str = ""
    gpu: str = ""
    """``"H100"``, ``"H100:8"`` or ``""``."""
    simulated: bool = False
    path: StartPath = "cold"
    path_seconds: float = 0.0
    path_reason: str = ""
    """Why a faster path was not taken, or ""."""
    image: str = ""
    started: float = 0.0
    exit_reason: str = ""


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sample of a container's use."""

    container_id: str
    time: float
    cpu: float = 0.0
    """Cores in use since the last sample."""
    memory: int = 0
    """Bytes."""
    gpu: float = 0.0
    """Utilisation, 0 to 1, mean of its GPUs."""
    gpu_memory: int = 0
    """Bytes, all its GPUs."""
    gpu_memory_total: int = 0


class CallStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a call is, for status lines. Sent when it changes and the call is not over in a blink."""

    call_id: str
    state: CallState
    detail: str = ""
    """Why it waits: ``"waiting for an H100: 1 of 1 in use by session train"``."""
    container: ContainerInfo | None = None
    times: CallTimes = CallTimes()
    usage: Usage | None = None
    cost: float = 0.0
    """US dollars so far, at the configured local price."""
    price: float = 0.0
    """US dollars per hour."""
    sockets: str = ""
    """Of a kernel that is up: see `CallStarted`."""


class GpuInfo(Struct, frozen=True, kw_only=True):
    """One GPU of a host."""

    index: int
    uuid: str
    model: str
    """Our name for it: ``"H100"``; the vendor's where we have none."""
    memory: int
    """Bytes."""
    simulated: bool = False
    in_use_by: str = ""
    """A container's id, or ""."""


class HostFacts(Struct, frozen=True, kw_only=True):
    """What a host offers."""

    host_id: str
    machine: str
    hostname: str
    cpus: float
    memory: int
    """MiB."""
    gpus: tuple[GpuInfo, ...]
    isolation: Literal["runc", "process"]
    rootless: bool
    kernel: str
    cannot_sleep: str = ""
    """Why sessions cannot sleep there; "" where they can."""


class SnapshotRef(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A snapshot in the store."""

    manifest: str
    """Name of the blob that lists what it is made of: 64 hex digits."""
    size: int = 0
    """Bytes of it in the store, compressed."""
    unpacked: int = 0
    """Bytes when it is unpacked to be restored: its memory and files."""
    created: float = 0.0
    """Unix time."""


class TemplateInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What people are told of a template."""

    template_id: str
    host_id: str
    label: str
    """Of the function that it was made for: ``"app.function"``, or ``"sessions"``."""
    state: TemplateState
    """``unforkable``: only its snapshot can be restored."""
    reason: str = ""
    """Why it is unforkable, or failed, or has no snapshot."""
    forks: int = 0
    """Containers forked from it that are up."""
    spare: bool = False
    """One was forked ahead, and waits for its container."""
    memory: int = 0
    """Bytes."""
    restored: bool = False
    """It came from the store."""
    snapshot: SnapshotRef | None = None
    """Its snapshot in the store."""
    created: float = 0.0
    """Unix time."""


class SleepingSession(Struct, frozen=True, kw_only=True):
    """A session that was written to the store."""

    pool_id: str
    spec: FunctionSpec
    snapshot: SnapshotRef
    problem: str = ""
    """Why it cannot be woken, or ""."""


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error of ours, as it travels. `error` is the name of a class in `skylift.exceptions`."""

    error: str
    message: str
