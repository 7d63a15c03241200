"""A gateway for tests: real host processes dial it; tests tell it what to command and look at what came."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle

from skylift.wire import (
    CallLost,
    CallStarted,
    CancelCall,
    Code,
    ContainerChanged,
    End,
    EndMap,
    Event,
    Events,
    FrameBuffer,
    FunctionSpec,
    GpuRequest,
    HostCommand,
    HostHello,
    HostMessage,
    HostWelcome,
    Payload,
    Persisted,
    Problem,
    Returned,
    RunCall,
    RunInputs,
    StartContainer,
    StopContainer,
    UsageReport,
    Window,
    decode_events,
    decode_host_message,
    event_cost,
    frame,
    new_id,
)

TIMEOUT = 30.0
T = TypeVar("T", bound=HostMessage)


@dataclass
class Received:
    """What has come for one call. Asserts that every event comes once and in order."""

    call_id: str
    events: list[Event] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    end: End | None = None
    started: float | None = None
    next_seq: int = 0
    total: int = 0
    frames: int = 0

    def take(self, message: Events) -> None:
        if message.seq + message.count <= self.next_seq and (message.count or self.end is not None):
            return
        assert self.next_seq == message.seq, f"expected event {self.next_seq}, got {message.seq}"
        assert self.end is None
        events = decode_events(message.body)
        assert message.count == len(events)
        assert message.cost == sum(event_cost(len(event.data)) for event in events)
        self.events += events
        self.done += message.done
        self.next_seq += message.count
        self.total += message.cost
        self.frames += 1
        self.end = message.end

    def of(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event.kind in kinds]

    def text(self, stream: str | None = None) -> str:
        return "".join(
            event.data.decode() for event in self.of("output") if stream in (None, event.meta["stream"])
        )

    def shown(self, kind: str) -> dict[str, Any]:
        (event,) = self.of(kind)
        data: dict[str, Any] = json.loads(event.data)["data"]
        return data

    @property
    def result(self) -> Any:
        (event,) = self.of("result")
        return pickle.loads(event.data)

    @property
    def items(self) -> list[Any]:
        return [pickle.loads(event.data) for event in self.of("yield")]

    @property
    def error(self) -> dict[str, Any]:
        (event,) = self.of("error")
        return event.meta

    @property
    def state(self) -> str:
        assert self.end is not None
        return self.end.state

    def outcomes(self) -> dict[int, Event]:
        """Of a map: the answer to each input. Fails if an input has two."""
        outcomes: dict[int, Event] = {}
        for event in self.of("result", "error"):
            assert event.meta["index"] not in outcomes
            outcomes[event.meta["index"]] = event
        return outcomes


class FakeGateway:
    """Listens on ``gateway.sock`` of a home. What it knows of calls outlives `go_away`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "host-token").write_text("secret\n")
        self.hellos: list[HostHello] = []
        self.messages: list[HostMessage] = []
        self.calls: dict[str, Received] = {}
        self.containers: dict[str, ContainerChanged] = {}
        self.started: list[str] = []
        self.failure: BaseException | None = None
        self.persists = True
        """Whether it says `Persisted` for each frame."""
        self.consumes = True
        """Whether it says `Window` for each frame."""
        self.forgets: set[str] = set()
        """Calls that it does not name in its welcome."""
        self.reads = threading.Event()
        self.reads.set()
        self._changed = threading.Condition()
        self._listening: socket.socket | None = None
        self._link: socket.socket | None = None
        self._writing = threading.Lock()
        self.come()

    # --- its own coming and going ----------------------------------------------------------------

    def come(self) -> None:
        """Listen."""
        folder = os.open(self.home, os.O_PATH)
        path = f"/proc/self/fd/{folder}/gateway.sock"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        os.close(folder)
        self._listening.listen()
        threading.Thread(target=self._serve, args=(self._listening,), daemon=True).start()

    def go_away(self) -> None:
        """As if killed: no goodbye."""
        assert self._listening is not None
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """Cut the link, and go on listening."""
        with self._changed:
            link, self._link = self._link, None
        if link is not None:
            link.shutdown(socket.SHUT_RDWR)
            link.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.go_away()
        if self.failure is not None:
            raise self.failure

    def _serve(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = listening.accept()
                threading.Thread(target=self._read, args=(link,), daemon=True).start()

    def _read(self, link: socket.socket) -> None:
        buffer = FrameBuffer()
        try:
            while self.reads.wait() and (data := link.recv(1 << 18)):
                for each in buffer.feed(data):
                    message = decode_host_message(each)
                    with self._changed:
                        for answer in self._take(message, link):
                            with self._writing:
                                link.sendall(frame(answer))
                        self._changed.notify_all()
        except OSError:
            pass
        except BaseException as error:
            with self._changed:
                self.failure = error
                self._changed.notify_all()

    def _take(self, message: HostMessage, link: socket.socket) -> Iterable[HostCommand]:
        if isinstance(message, Events):
            received = self.calls[message.call_id]
            received.take(message)
            if self.consumes:
                yield Window(call_id=message.call_id, total=received.total)
            if self.persists:
                yield self.persisted(message)
            return
        if isinstance(message, HostHello):
            assert message.token == "secret"
            self.hellos.append(message)
            self._link = link
            known = {
                call.call_id: self.calls[call.call_id].next_seq
                for call in message.calls
                if call.call_id not in self.forgets
            }
            yield HostWelcome(gateway_id="gw-test", calls=known)
            return
        self.messages.append(message)
        if isinstance(message, ContainerChanged):
            self.containers[message.info.container_id] = message
        elif isinstance(message, CallStarted):
            self.calls[message.call_id].started = message.time

    def persisted(self, message: Events) -> Persisted:
        return Persisted(
            call_id=message.call_id, seq=message.seq + message.count, end=message.end is not None
        )

    # --- what tests do ---------------------------------------------------------------------------

    def send(self, command: HostCommand) -> None:
        self.wait_for(lambda: self._link, "a host")
        assert self._link is not None
        with self._writing:
            self._link.sendall(frame(command))

    def wait_for(self, condition: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> Any:
        with self._changed:
            met = self._changed.wait_for(lambda: self.failure is not None or condition(), timeout)
            if self.failure is not None:
                raise AssertionError("the fake gateway failed") from self.failure
            assert met, f"{what} did not come in {timeout:g} s; last messages: {self.messages[-5:]}"
            return condition()

    def of(self, kind: type[T]) -> list[T]:
        return [message for message in self.messages if isinstance(message, kind)]

    def start(
        self, spec: FunctionSpec, gpu: GpuRequest | None = None, wait: bool = True, token: str = ""
    ) -> str:
        """Start a container; its id."""
        container_id = new_id("co")
        self.started.append(container_id)
        self.last_start = StartContainer(
            container_id=container_id, pool_id="pool-1", spec=spec, gpu=gpu, token=token
        )
        self.send(self.last_start)
        if wait:
            changed = self.wait_for(lambda: self.containers.get(container_id), f"container {container_id}")
            assert changed.problem is None, changed.problem.message
            assert "ready" == changed.info.state
        return container_id

    def define(self, function: Callable[..., Any]) -> str:
        """Send a function's code; its id."""
        function_id = new_id("fu")
        module = sys.modules[function.__module__]
        if module.__name__.startswith("test_"):
            cloudpickle.register_pickle_by_value(module)
        self.send(Code(function_id=function_id, code=Payload(data=cloudpickle.dumps(function))))
        return function_id

    def expect(self, call_id: str) -> Received:
        return self.calls.setdefault(call_id, Received(call_id))

    def call(
        self,
        container_id: str,
        function: str | Callable[..., Any],
        *args: Any,
        kind: Any = "call",
        timeout: float = 60.0,
        window: int = 1 << 20,
        payload: Payload | None = None,
    ) -> Received:
        """Run a call, and do not wait for it."""
        function_id = function if isinstance(function, str) else self.define(function)
        received = self.expect(new_id("fc"))
        if payload is None:
            payload = Payload(data=cloudpickle.dumps((args, {})))
        self.send(
            RunCall(
                container_id=container_id,
                call_id=received.call_id,
                function_id=function_id,
                kind=kind,
                args=payload,
                window=window,
                timeout=timeout,
            )
        )
        return received

    def cell(self, container_id: str, code: str, timeout: float = 60.0) -> Received:
        """Run a cell in a session, and do not wait for it."""
        header = {
            "op": "run",
            "code": code,
            "filename": "<cell>",
            "first_line": 1,
            "execution_count": 1,
            "send": {},
            "assigned": [],
            "limit": 1 << 18,
            "drop": [],
            "silent": False,
        }
        head = json.dumps(header).encode()
        payload = Payload(data=len(head).to_bytes(4, "big") + head)
        return self.call(container_id, "fu-session00", kind="cell", timeout=timeout, payload=payload)

    def inputs(
        self,
        container_id: str,
        function_id: str,
        received: Received,
        items: dict[int, Any],
        timeout: float = 60.0,
        window: int = 1 << 20,
    ) -> None:
        """Give inputs of a map to a container."""
        payloads = tuple(
            item if isinstance(item, Payload) else Payload(data=cloudpickle.dumps(((item,), {})))
            for item in items.values()
        )
        self.send(
            RunInputs(
                container_id=container_id,
                call_id=received.call_id,
                function_id=function_id,
                indexes=tuple(items),
                items=payloads,
                timeout=timeout,
                window=window,
            )
        )

    def persist(self, received: Received) -> None:
        """Say that all that came is in the log."""
        ended = received.end is not None
        self.send(Persisted(call_id=received.call_id, seq=received.next_seq, end=ended))

    def consume(self, received: Received) -> None:
        """Say that all that came is consumed."""
        self.send(Window(call_id=received.call_id, total=received.total))

    def end_map(self, received: Received) -> None:
        self.send(EndMap(call_id=received.call_id))

    def cancel(self, received: Received, mode: Any = "cancel", reason: str = "", index: int = -1) -> None:
        self.send(CancelCall(call_id=received.call_id, mode=mode, reason=reason, index=index))

    def stop(self, container_id: str, grace: float = 5.0, reason: str = "no longer needed") -> None:
        self.send(StopContainer(container_id=container_id, grace=grace, reason=reason))

    def finish(self, received: Received, timeout: float = TIMEOUT) -> Received:
        self.wait_for(lambda: received.end, f"the end of {received.call_id}", timeout)
        return received

    def finish_inputs(self, received: Received, indexes: Iterable[int], timeout: float = TIMEOUT) -> Received:
        wanted = set(indexes)
        self.wait_for(lambda: wanted <= set(received.done), "all inputs", timeout)
        return received

    def exited(self, container_id: str, timeout: float = TIMEOUT) -> Problem | None:
        """Wait until it is gone; the reason."""
        changed = self.wait_for(
            lambda: (seen := self.containers.get(container_id)) and seen.info.state == "exited" and seen,
            f"the end of {container_id}",
            timeout,
        )
        problem: Problem | None = changed.problem
        return problem

    def lost(self, received: Received) -> CallLost:
        return self.wait_for(
            lambda: next((each for each in self.of(CallLost) if each.call_id == received.call_id), None),
            "CallLost",
        )

    def returned(self, received: Received) -> set[int]:
        return {
            index for each in self.of(Returned) if each.call_id == received.call_id for index in each.inputs
        }

    def usage(self) -> list[UsageReport]:
        return self.of(UsageReport)
