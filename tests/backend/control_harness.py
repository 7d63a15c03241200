"""A control plane with a real database and store, and recording ports in the place of clients and hosts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from blake3 import blake3

from skylift.backend.control import ControlPlane
from skylift.backend.database import Database
from skylift.backend.engines.base import Engine, EngineStatus
from skylift.backend.settings import GatewaySettings, Settings
from skylift.lazyfs.store import LocalStore
from skylift.wire import (
    PROTOCOL,
    Accepted,
    CallReport,
    CallTimes,
    Code,
    ContainerChanged,
    ContainerInfo,
    Define,
    End,
    Event,
    Events,
    ForgetSession,
    FunctionSpec,
    GatewayMessage,
    GpuInfo,
    GpuRequest,
    Hello,
    HostCommand,
    HostFacts,
    HostHello,
    HostWelcome,
    ImageSpec,
    Inputs,
    Payload,
    Persisted,
    Problem,
    Refused,
    RunCall,
    RunInputs,
    SessionSlept,
    SleepContainer,
    SleepingSession,
    SnapshotRef,
    StartContainer,
    Status,
    StopContainer,
    Submit,
    decode_events,
    decode_gateway_message,
    encode_events,
    event_cost,
    new_id,
)

T = TypeVar("T")
M = TypeVar("M")

IMAGE = ImageSpec(
    kind="environment",
    machine="m",
    python="/usr/bin/python3",
    python_version="3.11.7",
    mounts=(),
    sys_path=(),
)
PATIENCE = 20.0
"""Seconds that a test waits for something that must happen."""


def spec(name: str = "f", **what: Any) -> FunctionSpec:
    """A function's spec."""
    return FunctionSpec(**{"app": "app", "name": name, "image": IMAGE, **what})


def text_event(text: str) -> Event:
    """What a call prints."""
    return Event(kind="output", meta={"stream": "stdout"}, data=text.encode())


def result_event(data: bytes = b"42", index: int | None = None) -> Event:
    """A call's result, or that of a map's input."""
    return Event(kind="result", meta={} if index is None else {"index": index}, data=data)


class QuietEngine(Engine):
    """An engine whose host the test plays."""

    name = "test"

    def __init__(self) -> None:
        self.problem = ""
        self.changed: Callable[[], None] = lambda: None
        self.ended: list[bool] = []

    async def start(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    async def stop(self, end_hosts: bool) -> None:
        self.ended.append(end_hosts)

    def describe(self) -> EngineStatus:
        return EngineStatus(name=self.name, detail="", problem=self.problem)


class Recorder:
    """Keeps messages, and wakes whoever waits for one."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self._news = asyncio.Event()

    def add(self, message: Any) -> None:
        self.messages.append(message)
        self._news.set()

    def all(self, kind: type[M], **fields: Any) -> list[M]:
        """Messages of a kind with these fields."""
        return [
            message
            for message in self.messages
            if isinstance(message, kind)
            and all(getattr(message, name) == value for name, value in fields.items())
        ]

    async def until(self, look: Callable[[], T | None], what: object = "") -> T:
        """Wait until `look` finds something."""
        deadline = time.monotonic() + PATIENCE
        while not (found := look()):
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"{what or look} did not come; there is {self.messages}")
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), min(left, 0.5))
            except asyncio.TimeoutError:
                continue
        return found

    async def one(self, kind: type[M], **fields: Any) -> M:
        """Wait for a message of a kind with these fields."""
        found = await self.until(lambda: self.all(kind, **fields), (kind.__name__, fields))
        return found[0]


class Connection:
    """One connection of a client; the `ClientPort`."""

    def __init__(self, client: FakeClient) -> None:
        self.client_id = client.client_id
        self.user = client.user
        self.container_id = client.container_id
        self.closed = ""
        self._client = client

    def send(self, message: GatewayMessage) -> None:
        self._client.send(message)

    def send_encoded(self, frame: bytes) -> None:
        self._client.send_encoded(frame)

    def close(self, code: int, reason: str) -> None:
        self.closed = f"{code} {reason}"


class FakeClient(Recorder):
    """A kernel, across its connections."""

    def __init__(
        self,
        plane: Plane,
        client_id: str = "",
        user: str = "local",
        notebook: str = "nb.ipynb",
        container_id: str = "",
    ) -> None:
        super().__init__()
        self.plane = plane
        self.client_id = client_id or new_id("cl")
        self.user = user
        self.notebook = notebook
        self.container_id = container_id
        self.connect()

    def send(self, message: GatewayMessage) -> None:
        self.add(message)

    def send_encoded(self, frame: bytes) -> None:
        self.add(decode_gateway_message(frame))

    # what a test does
    def connect(self) -> None:
        self.port = Connection(self)
        self.plane.control.client_connected(
            self.port, Hello(protocol=PROTOCOL, client_id=self.client_id, notebook=self.notebook)
        )

    def disconnect(self) -> None:
        self.plane.control.client_disconnected(self.port)

    def say(self, message: Any) -> None:
        self.plane.control.client_message(self.port, message)

    def define(self, what: FunctionSpec | None = None, code: bytes = b"code") -> str:
        """Define a function; returns its id."""
        what = what if what is not None else spec()
        function_id = "fu-" + blake3(msgspec.msgpack.encode((what, code))).hexdigest(16)
        payload = Payload(data=code, size=len(code)) if not what.session else Payload()
        self.say(Define(function_id=function_id, spec=what, code=payload))
        return function_id

    def submit(self, function_id: str, **fields: Any) -> str:
        """Submit a call; returns its id."""
        call_id = fields.pop("call_id", None) or new_id("fc")
        fields.setdefault("kind", "call")
        fields.setdefault("args", Payload(data=b"args", size=4))
        self.say(Submit(call_id=call_id, function_id=function_id, **fields))
        return call_id

    def inputs(self, call_id: str, start: int, count: int, total: int = -1) -> None:
        """Send inputs of a map."""
        items = tuple(Payload(data=b"%d" % number, size=1) for number in range(start, start + count))
        self.say(Inputs(call_id=call_id, start=start, items=items, total=total))

    def events(self, call_id: str) -> list[Event]:
        """The events of a call so far; fails when numbers are missing or come twice."""
        events: list[Event] = []
        first: int | None = None
        for frame in self.all(Events, call_id=call_id):
            first = frame.seq if first is None else first
            assert first + len(events) == frame.seq
            more = decode_events(frame.body) if frame.count else []
            assert frame.count == len(more)
            events += more
        return events

    def end(self, call_id: str) -> End | None:
        """How a call ended, if it has."""
        for frame in self.all(Events, call_id=call_id):
            if frame.end is not None:
                return frame.end
        return None

    async def ended(self, call_id: str) -> End:
        """Wait for the end of a call."""
        return await self.until(lambda: self.end(call_id), f"the end of {call_id}")

    def last_status(self, call_id: str) -> Any:
        """The last status of a call, or None."""
        found = [message.status for message in self.all(Status) if message.status.call_id == call_id]
        return found[-1] if found else None


class FakeHost(Recorder):
    """A host's link, played by the test. Containers become ready at once unless `slow`."""

    def __init__(
        self,
        plane: Plane,
        gpus: dict[str, int] | None = None,
        cpus: float = 4.0,
        memory: int = 8192,
        slow: bool = False,
        host_id: str = "ho-00000001",
    ) -> None:
        super().__init__()
        self.plane = plane
        self.slow = slow
        self.closed = ""
        self.next_seq: dict[str, int] = {}
        self.specs: dict[str, StartContainer] = {}
        self.sleeping: dict[str, SleepingSession] = {}
        """What is in its store, by pool."""
        self.sleepless = ""
        """Why no session can be put to sleep, found out when it is tried."""
        self.unwakeable = ""
        """Why no session can be woken."""
        self.infos: dict[str, ContainerInfo] = {}
        found = []
        for model, count in (gpus if gpus is not None else {"H100": 1}).items():
            for _ in range(count):
                number = len(found)
                found.append(GpuInfo(index=number, uuid=f"GPU-{number}", model=model, memory=80 << 30))
        self.facts = HostFacts(
            host_id=host_id,
            machine="m",
            hostname="lab",
            cpus=cpus,
            memory=memory,
            gpus=tuple(found),
            isolation="process",
            rootless=False,
            kernel="6",
        )

    # HostPort
    def send(self, message: HostCommand) -> None:
        if isinstance(message, StartContainer):
            self.specs[message.container_id] = message
            if message.wake is not None and self.unwakeable:
                problem = Problem(error="RemoteError", message=self.unwakeable)
                self.plane.soon(self.exited, message.container_id, "", problem)
            elif not self.slow:
                self.plane.soon(self.ready, message.container_id)
        elif isinstance(message, SleepContainer) and not self.slow:
            self.plane.soon(self.fall_asleep, message.container_id)
        elif isinstance(message, ForgetSession):
            self.sleeping.pop(message.pool_id, None)
        elif isinstance(message, StopContainer) and message.container_id in self.infos:
            self.plane.soon(self.exited, message.container_id)
        self.add(message)

    def close(self, reason: str) -> None:
        self.closed = reason

    # what a test does
    def connect(self, calls: tuple[CallReport, ...] = (), keep: bool = True) -> None:
        """Say hello, with the containers that are up (none of them, without `keep`)."""
        if not keep:
            self.infos.clear()
        self.plane.control.host_connected(
            self,
            HostHello(
                protocol=PROTOCOL,
                token=(self.plane.home / "host-token").read_text().strip(),
                facts=self.facts,
                containers=tuple(self.infos.values()),
                pools={key: self.specs[key].pool_id for key in self.infos},
                specs={self.specs[key].pool_id: self.specs[key].spec for key in self.infos},
                calls=calls,
                sleeping=tuple(self.sleeping.values()),
            ),
        )

    def disconnect(self) -> None:
        self.plane.control.host_disconnected(self)

    def say(self, message: Any) -> None:
        self.plane.control.host_message(self, message)

    def ready(self, container_id: str) -> None:
        start = self.specs[container_id]
        info = ContainerInfo(
            container_id=container_id,
            host_id=self.facts.host_id,
            state="ready",
            app=start.spec.app,
            function=start.spec.name,
            session=start.spec.session,
            gpu=start.gpu.model if start.gpu is not None else "",
            path="cold" if start.wake is None else "restore",
            path_seconds=0.5 if start.wake is None else 0.25,
        )
        if start.wake is not None:
            self.sleeping.pop(start.pool_id, None)
        self.infos[container_id] = info
        self.say(ContainerChanged(info=info))

    def fall_asleep(self, container_id: str) -> None:
        """A session's container is written to the store, or cannot be."""
        if self.sleepless:
            problem = Problem(error="RemoteError", message=self.sleepless)
            self.say(SessionSlept(container_id=container_id, problem=problem))
            return
        del self.infos[container_id]
        start = self.specs[container_id]
        number = len(self.all(SleepContainer))
        ref = SnapshotRef(manifest=f"{number:064}", size=1000, unpacked=4000, created=time.time())
        session = SleepingSession(pool_id=start.pool_id, spec=start.spec, snapshot=ref)
        self.sleeping[start.pool_id] = session
        self.say(SessionSlept(container_id=container_id, session=session, seconds=0.8))

    def exited(self, container_id: str, reason: str = "", problem: Any = None) -> None:
        info = self.infos.pop(container_id, None)
        if info is None:
            start = self.specs[container_id]
            info = ContainerInfo(
                container_id=container_id,
                host_id=self.facts.host_id,
                state="starting",
                app=start.spec.app,
                function=start.spec.name,
            )
        info = msgspec.structs.replace(info, state="exited", exit_reason=reason)
        self.say(ContainerChanged(info=info, problem=problem))

    def emit(
        self, call_id: str, *events: Event, end: str = "", done: tuple[int, ...] = (), seq: int | None = None
    ) -> Events:
        """The next events of a call; `end` is its final state."""
        start = self.next_seq.get(call_id, 0) if seq is None else seq
        now = time.time()
        message = Events(
            call_id=call_id,
            seq=start,
            count=len(events),
            body=encode_events(list(events)),
            cost=sum(event_cost(len(event.data)) for event in events),
            done=done,
            end=End(state=end, times=CallTimes(ended=now)) if end else None,  # type: ignore[arg-type]
        )
        self.next_seq[call_id] = start + len(events)
        self.say(message)
        return message

    def finish(self, call_id: str, data: bytes = b"42") -> None:
        """A call returns."""
        self.emit(call_id, result_event(data), end="done")

    async def run(self, call_id: str) -> RunCall:
        """Wait until a call is given to a container."""
        return await self.one(RunCall, call_id=call_id)

    def inputs_of(self, call_id: str) -> list[int]:
        """Inputs of a map that were given to containers, in their order."""
        return [index for command in self.all(RunInputs, call_id=call_id) for index in command.indexes]


class Plane:
    """The control plane under test."""

    def __init__(self, home: Path, prices: dict[str, float] | None = None, **gateway: Any) -> None:
        self.home = home
        self.settings = Settings(home=home, gateway=GatewaySettings(**gateway), prices=prices or {})
        self.store = LocalStore(home / "store")
        self.engine = QuietEngine()
        self._handles: list[asyncio.Handle] = []

    async def start(self, **database: Any) -> None:
        """Start a gateway on this home (again)."""
        self.database = Database(self.home / "skylift.db", **database)
        self.control = ControlPlane(self.settings, self.database, self.store, [self.engine])
        await self.control.start()

    async def stop(self, end_hosts: bool = False) -> None:
        for handle in self._handles:
            handle.cancel()
        await self.control.stop(end_hosts)

    async def crash(self) -> None:
        """End the gateway without its saying anything more, as kill -9 does; what is committed stays."""
        for handle in self._handles:
            handle.cancel()
        control = self.control
        control._dispatcher.stop()
        control._recovery.stop()
        control._status.stop()
        for task in control._keeper._tasks:
            task.cancel()
        await control._streams.stop()
        for client in control.registry.clients.values():
            if client.gone is not None:
                client.gone.cancel()
        self.database._pending = type(self.database._pending)()
        self.database.collectors.clear()
        await self.database.close()

    def soon(self, act: Callable[..., None], *args: Any) -> None:
        self._handles.append(asyncio.get_running_loop().call_soon(act, *args))

    async def settle(self) -> None:
        """Let everything written be committed, and what follows from that happen."""
        await self.database.flush()
        await asyncio.sleep(0)

    def client(self, **what: Any) -> FakeClient:
        return FakeClient(self, **what)

    def host(self, **what: Any) -> FakeHost:
        host = FakeHost(self, **what)
        host.connect()
        return host


H100 = GpuRequest(model="H100")

__all__ = [
    "H100",
    "Accepted",
    "Code",
    "FakeClient",
    "FakeHost",
    "HostWelcome",
    "Persisted",
    "Plane",
    "Refused",
    "result_event",
    "spec",
    "text_event",
]
