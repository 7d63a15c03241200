"""The gateway's own server in a thread of this process, with a control plane that runs functions right here.

It keeps calls by id and events by number as the real one does, so that connections can be cut, and the server
stopped and started again, in the middle of a call.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import platform
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skylift.backend.control import ClientPort, ControlPlane
from skylift.backend.settings import GatewaySettings
from skylift.backend.views import CallDetail, CallRow, Slept, TimelineEntry, Woken
from skylift.kernel_gateway.client_socket import ClientConnection
from skylift.kernel_gateway.home import GatewayHome
from skylift.kernel_gateway.outbox import Outbox
from skylift.kernel_gateway.server import GatewayApplication, GatewayServer
from skylift.lazyfs.store import LocalStore
from skylift.runtime.runner.errors import describe, describe_ours
from skylift.runtime.runner.service import Service, is_class_code
from skylift.wire import (
    INLINE_LIMIT,
    Accepted,
    Attach,
    BuildEnded,
    BuildImage,
    BuildOutput,
    CallState,
    CallStatus,
    CallTimes,
    Cancel,
    CancelBuild,
    ClientMessage,
    Consumed,
    Define,
    Detach,
    End,
    Event,
    Events,
    Hello,
    ImageSpec,
    Inputs,
    Payload,
    Problem,
    Refused,
    Status,
    StopSession,
    Submit,
    Welcome,
    definition_keys,
    encode_events,
    event_cost,
)

TOKEN = "the-token"
FRAME_EVENTS = 64


class CancelledHere(BaseException):
    """Raised in a function's thread at its next event once its call is cancelled."""


@dataclass
class FakeCall:
    """One call and all that came of it."""

    submit: Submit
    define: Define
    events: list[Event] = field(default_factory=list)
    cost: int = 0
    produced: int = 0
    """As the producer counts it: what is in the store costs what its data takes."""
    produced_at: list[int] = field(default_factory=lambda: [0])
    end: End | None = None
    consumed: int = 0
    detached: bool = False
    cancel: Cancel | None = None
    followers: dict[ClientPort, int] = field(default_factory=dict)
    inputs: dict[int, Payload] = field(default_factory=dict)
    received: list[Inputs] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    total: int = -1
    changed: threading.Condition = field(default_factory=threading.Condition)
    runs: int = 0


@dataclass
class Build:
    """An image that a client asks for, over one of its connections."""

    port: ClientPort
    message: BuildImage
    printed: int = 0

    def say(self, text: str = "", step: int = 0, **what: Any) -> None:
        """Tells how it goes."""
        steps = self.message.image.steps
        what.setdefault("label", steps[step].label)
        what.setdefault("at", self.printed)
        self.printed += len(text)
        self.port.send(
            BuildOutput(build_id=self.message.build_id, step=step, steps=len(steps), text=text, **what)
        )

    def end(self, problem: Problem | None = None, **image: Any) -> None:
        """It is built, as an image of this Python, or not."""
        key = definition_keys(self.message.image)[-1]
        what = {
            "kind": "layers",
            "python": "/usr/bin/python3",
            "python_version": platform.python_version(),
            "fingerprint": key,
            "layers": (key,),
            **image,
        }
        made = ImageSpec(**what) if problem is None else None
        self.port.send(BuildEnded(build_id=self.message.build_id, image=made, problem=problem))


class FakeControl(ControlPlane):
    """Runs each call in a thread."""

    def __init__(self, store: LocalStore) -> None:
        self.gateway_id = "ga-00000000"
        self.store = store
        self.loop: asyncio.AbstractEventLoop | None = None
        self.functions: dict[str, Define] = {}
        self.services: dict[str, Service] = {}
        self.calls: dict[str, FakeCall] = {}
        self.known: dict[ClientPort, set[str]] = {}
        self.messages: list[ClientMessage] = []
        self.sessions: dict[str, dict[str, Any]] = {}
        self.may_run = threading.Event()
        self.may_run.set()
        self.refuse: Callable[[ClientMessage], Problem | None] = lambda message: None
        self.on_message: Callable[[ClientPort, ClientMessage], None] = lambda port, message: None
        self.stopped_sessions: list[str] = []
        self.asked: list[tuple[str, str]] = []
        """What sessions were to do, over REST."""
        self.sleeps: Slept | Problem | None = Slept(seconds=0.8, size=210_000_000, unpacked=600_000_000)
        self.wakes: Woken | Problem | None = Woken(seconds=0.24)
        self.problem_on_hello: Problem | None = None
        self.build: Callable[[Build], None] = lambda build: build.end()
        """What becomes of an image that is asked for; called again when it is asked for again."""
        self.tokens = {TOKEN: "someone"}
        self.turned_away = 0
        """How often a wrong token was shown."""

    async def blob_asked_for(self, blob: str) -> None:
        pass

    # --- clients ---------------------------------------------------------------------------------

    def authenticate(self, token: str) -> str | None:
        user = self.tokens.get(token)
        self.turned_away += user is None
        return user

    def container_of(self, token: str) -> str:
        return ""

    def client_connected(self, port: ClientPort, hello: Hello) -> None:
        self.known[port] = set()
        if self.problem_on_hello is not None:
            port.send(Refused(problem=self.problem_on_hello))
        else:
            port.send(Welcome(gateway_id=self.gateway_id, version="0"))

    def client_disconnected(self, port: ClientPort) -> None:
        self.known.pop(port, None)
        for call in self.calls.values():
            call.followers.pop(port, None)

    def client_message(self, port: ClientPort, message: ClientMessage) -> None:
        self.messages.append(message)
        self.on_message(port, message)
        problem = self.refuse(message)
        if problem is not None:
            call_id = getattr(message, "call_id", "")
            port.send(Refused(call_id=call_id, problem=problem))
        elif isinstance(message, Define):
            self.functions[message.function_id] = message
            self.known[port].add(message.function_id)
        elif isinstance(message, StopSession):
            self.stopped_sessions.append(message.session)
            self.sessions.pop(message.session, None)
        elif isinstance(message, Submit):
            self._submit(port, message)
        elif isinstance(message, BuildImage):
            self.build(Build(port, message))
        elif isinstance(message, CancelBuild):
            pass
        else:
            call = self.calls.get(message.call_id)  # type: ignore[union-attr]
            if call is None:
                problem = Problem(error="NotFoundError", message=f"There is no call {message.call_id}.")  # type: ignore[union-attr]
                port.send(Refused(call_id=message.call_id, problem=problem))  # type: ignore[union-attr]
            else:
                self._about(port, call, message)

    def _submit(self, port: ClientPort, message: Submit) -> None:
        call = self.calls.get(message.call_id)
        if call is None:
            assert message.function_id in self.known[port], "submitted before it was defined"
            call = FakeCall(message, self.functions[message.function_id], detached=message.detached)
            self.calls[message.call_id] = call
            threading.Thread(target=self._run, args=(call,), daemon=True).start()
        if not message.detached:
            call.followers[port] = 0
        port.send(Accepted(call_id=message.call_id))
        self._flush(call)

    def _about(self, port: ClientPort, call: FakeCall, message: ClientMessage) -> None:
        if isinstance(message, Attach):
            call.followers[port] = len(call.events) if message.seq < 0 else message.seq
            self._flush(call)
        elif isinstance(message, Detach):
            call.followers.pop(port, None)
            call.detached = call.detached or message.keep
        with call.changed:
            if isinstance(message, Consumed):
                call.consumed = max(call.consumed, call.produced_at[message.seq])
            elif isinstance(message, Cancel):
                call.cancel = message
            elif isinstance(message, Inputs):
                call.received.append(message)
                for number, item in enumerate(message.items, message.start):
                    call.inputs.setdefault(number, item)
                if message.total >= 0:
                    call.total = message.total
            call.changed.notify_all()

    def _flush(self, call: FakeCall) -> None:
        for port, seq in list(call.followers.items()):
            while seq < len(call.events):
                events = call.events[seq : seq + FRAME_EVENTS]
                last = seq + len(events) == len(call.events)
                port.send(self._frame(call, seq, events, call.end if last else None))
                seq += len(events)
                sent_end = last and call.end is not None
                call.followers[port] = seq
                if sent_end:
                    call.followers.pop(port)
                    break
            else:
                if call.end is not None:
                    port.send(self._frame(call, seq, [], call.end))
                    call.followers.pop(port)

    def _frame(self, call: FakeCall, seq: int, events: list[Event], end: End | None) -> Events:
        return Events(
            call_id=call.submit.call_id,
            seq=seq,
            count=len(events),
            body=encode_events(events) if events else b"",
            cost=sum(event_cost(len(event.data)) for event in events),
            done=tuple(
                event.meta["index"]
                for event in events
                if event.kind in ("result", "error") and "index" in event.meta
            ),
            end=end,
        )

    # --- running ---------------------------------------------------------------------------------

    def bytes_of(self, payload: Payload) -> bytes:
        return self.store.get(payload.blob) if payload.blob else payload.data

    def emit(self, call: FakeCall, kind: str, meta: dict[str, Any], data: bytes = b"") -> None:
        """Adds an event, as soon as the window has room."""
        blob = self.store.put(data) if len(data) > INLINE_LIMIT else ""
        with call.changed:
            if kind in ("output", "yield"):
                call.changed.wait_for(lambda: call.cancel is not None or self._has_room(call), 60)
                if call.cancel is not None:
                    raise CancelledHere
            call.events.append(Event(kind, meta, b"" if blob else data, blob))
            call.cost += event_cost(0 if blob else len(data))
            call.produced += event_cost(len(data))
            call.produced_at.append(call.produced)
        self._call_soon(lambda: self._flush(call))

    def _has_room(self, call: FakeCall) -> bool:
        return call.detached or call.produced - call.consumed < call.submit.window

    def finish(self, call: FakeCall, state: CallState, summary: str = "") -> None:
        call.end = End(state=state, summary=summary, times=CallTimes(ended=time.time()))
        self._call_soon(lambda: self._flush(call))

    def _call_soon(self, function: Callable[[], None]) -> None:
        loop = self.loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(function)

    def _run(self, call: FakeCall) -> None:
        while not self.may_run.wait(0.01):
            if call.cancel is not None:
                self._cancelled(call)
                return
        call.runs += 1
        try:
            if call.submit.kind == "cell":
                from sdk_session import run_cell

                namespace = self.sessions.setdefault(call.define.spec.session, {})
                run_cell(self, call, namespace)
            elif call.submit.kind == "map":
                self._run_map(call)
            else:
                self._run_call(call)
        except CancelledHere:
            self._cancelled(call)
        except BaseException as error:
            described = describe(error)
            self.emit(call, "error", described.meta, described.data)
            self.finish(call, "failed", described.summary)
        else:
            self.finish(call, "done")

    def _cancelled(self, call: FakeCall) -> None:
        assert call.cancel is not None
        described = describe_ours("InputCancellation", call.cancel.reason)
        self.emit(call, "error", described.meta)
        self.finish(call, "cancelled", described.summary)

    def _function(self, call: FakeCall, index: int | None = None) -> Callable[..., Any]:
        function: Callable[..., Any] = pickle.loads(self.bytes_of(call.define.code))
        if is_class_code(function):
            return self._method_of(call, function)
        meta = {} if index is None else {"index": index}

        def print_there(*values: Any, end: str = "\n") -> None:
            text = " ".join(map(str, values)) + end
            self.emit(call, "output", {"stream": "stdout", **meta}, text.encode())

        if function.__module__ == "__main__" or "<locals>" in function.__qualname__:
            function.__globals__["print"] = print_there
        return function

    def _method_of(self, call: FakeCall, code: Any) -> Callable[..., Any]:
        service = self.services.setdefault(call.define.function_id, Service(code))

        def run(*args: Any, **kwargs: Any) -> Any:
            service.start()
            method, rest = service.method(args)
            return method(*rest, **kwargs)

        return run

    def _run_call(self, call: FakeCall) -> None:
        args, kwargs = pickle.loads(self.bytes_of(call.submit.args))
        value = self._function(call)(*args, **kwargs)
        if call.submit.kind == "generator":
            for item in value:
                self.emit_value(call, "yield", {}, item)
        else:
            if inspect.iscoroutine(value):
                value = asyncio.run(value)
            self.emit_value(call, "result", {}, value)

    def emit_value(self, call: FakeCall, kind: str, meta: dict[str, Any], value: Any) -> None:
        self.emit(call, kind, meta, dumps(value))

    def _run_map(self, call: FakeCall) -> None:
        ran = 0
        while True:
            with call.changed:
                while not (call.cancel is not None or ran in call.inputs or ran == call.total):
                    call.changed.wait(60)
                if call.cancel is not None:
                    raise CancelledHere
                if ran == call.total:
                    return
                payload = call.inputs[ran]
            try:
                args, kwargs = pickle.loads(self.bytes_of(payload))
                value = self._function(call, ran)(*args, **kwargs)
            except Exception as error:
                described = describe(error)
                self.emit(call, "error", {**described.meta, "index": ran}, described.data)
            else:
                self.emit_value(call, "result", {"index": ran}, value)
            ran += 1

    # --- REST ------------------------------------------------------------------------------------

    async def call(self, user: str, call_id: str) -> CallDetail | None:
        call = self.calls.get(call_id)
        if call is None:
            return None
        row = CallRow(
            call_id=call_id,
            kind=call.submit.kind,
            state=call.end.state if call.end is not None else "running",
            app=call.define.spec.app,
            function=call.define.spec.name,
            session="",
            notebook="",
            cell=call.submit.cell,
            summary=call.submit.summary,
            detail="",
            error="",
            queued=1.0,
            started=2.0,
            first_output=0.0,
            ended=3.0,
            container_id="",
            host_id="",
            gpu="",
            price=0.0,
            cost=0.25,
            durable=call.submit.durable,
            detached=call.detached,
            inputs=1,
            inputs_done=1,
        )
        return CallDetail(
            call=row,
            timeline=(TimelineEntry(time=1.0, what="queued"), TimelineEntry(time=2.0, what="started")),
            container=None,
            usage=None,
            peak_memory=0,
            events=len(call.events),
            output_bytes=0,
            attempts=1,
        )

    async def sleep_session(self, user: str, session_id: str) -> Slept | Problem | None:
        self.asked.append(("sleep", session_id))
        return self.sleeps

    async def wake_session(self, user: str, session_id: str) -> Woken | Problem | None:
        self.asked.append(("wake", session_id))
        return self.wakes

    def say_status(self, call_id: str, **fields: Any) -> None:
        """Tells the followers of a call where it is."""
        call = self.calls[call_id]
        status = Status(status=CallStatus(call_id=call_id, **fields))

        def send() -> None:
            for port in call.followers:
                port.send(status)

        self._call_soon(send)


class FakeGateway:
    """The server; it can be cut off, stopped and started again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = LocalStore(home / "store")
        self.control = FakeControl(self.store)
        self.token = TOKEN
        self.url = ""
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: GatewayServer | None = None
        self._application: GatewayApplication | None = None

    def start(self) -> None:
        """Listens, on the same port as before."""
        self._call(self._start())

    def stop(self) -> None:
        """Ends all connections without a word and listens no more; calls go on."""
        self._call(self._stop())

    def cut(self) -> None:
        """Ends all connections without a word."""
        self._call(self._cut())

    def close(self) -> None:
        self.control.may_run.set()
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def connections(self) -> int:
        return len(self.control.known)

    def only_call(self) -> FakeCall:
        (call,) = self.control.calls.values()
        return call

    def sent(self, kind: type) -> list[Any]:
        """The messages of that kind that clients have sent."""
        return [message for message in self.control.messages if isinstance(message, kind)]

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Waits until the gateway's thread has brought something about."""
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "it did not come about"
            time.sleep(0.001)

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _start(self) -> None:
        self.control.loop = self._loop
        outbox = Outbox(self._loop)
        home = GatewayHome(self.home)
        self._application = GatewayApplication(self.control, self.store, GatewaySettings(), home, outbox)
        self._server = GatewayServer(self._application)
        self.url = self._server.bind("127.0.0.1", self._port)
        self._server.serve()
        self._port = int(self.url.rpartition(":")[2])

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.stop_listening()
            await self._cut()
            await self._server.close()
            self._server = None

    async def _cut(self) -> None:
        ports = set(self.control.known)
        for port in ports:
            assert isinstance(port, ClientConnection)
            port._transport.abort()
        # Not until nobody is known: a client may be back by then.
        while not ports.isdisjoint(self.control.known):  # noqa: ASYNC110 (there is nobody to set an event)
            await asyncio.sleep(0.001)


def dumps(value: Any) -> bytes:
    import cloudpickle

    data: bytes = cloudpickle.dumps(value)
    return data


def pickles_and_header(data: bytes) -> tuple[dict[str, Any], bytes]:
    """A cell's envelope, taken apart."""
    length = int.from_bytes(data[:4], "big")
    return json.loads(data[4 : 4 + length]), data[4 + length :]


Messages = Sequence[ClientMessage]
