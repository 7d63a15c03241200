"""A host in a few threads: starts the runner as a plain subprocess and speaks docs/protocol.md with it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle

RUNNER = Path(__file__).parents[3] / "runtime" / "runner"
TIMEOUT = 20.0
_PREFIX = struct.Struct(">IQ")


class Event(NamedTuple):
    kind: str
    meta: dict[str, Any]
    data: bytes


@dataclass
class Call:
    """What has come for one call."""

    host: FakeHost
    id: str
    events: list[Event] = field(default_factory=list)
    frames: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    started: list[dict[str, Any]] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    recalled: list[int] | None = None
    end: dict[str, Any] | None = None
    cost: int = 0

    def wait(self, timeout: float = TIMEOUT) -> Call:
        self.host.wait_for(lambda: self.end is not None, timeout, f"the end of {self.id}")
        return self

    def wait_events(self, count: int, timeout: float = TIMEOUT) -> list[Event]:
        self.host.wait_for(lambda: len(self.events) >= count, timeout, f"{count} events of {self.id}")
        return self.events

    def wait_output(self, text: str, timeout: float = TIMEOUT) -> None:
        self.host.wait_for(lambda: text in self.text(), timeout, f"{text!r} in the output of {self.id}")

    def wait_done(self, indexes: Iterable[int], timeout: float = TIMEOUT) -> Call:
        wanted = set(indexes)
        self.host.wait_for(lambda: wanted <= set(self.done), timeout, f"inputs {wanted} of {self.id}")
        return self

    def of(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event.kind in kinds]

    def text(self, stream: str | None = None) -> str:
        return "".join(
            event.data.decode() for event in self.of("output") if stream in (None, event.meta["stream"])
        )

    def shown(self, *kinds: str) -> list[Any]:
        return [json.loads(event.data)["data"] for event in self.of(*(kinds or ("value", "display")))]

    @property
    def state(self) -> str:
        assert self.end is not None
        state: str = self.end["state"]
        return state

    @property
    def result(self) -> Any:
        (event,) = self.of("result")
        return pickle.loads(event.data)

    @property
    def error(self) -> dict[str, Any]:
        (event,) = self.of("error")
        return event.meta

    @property
    def exception(self) -> BaseException:
        (event,) = self.of("error")
        error: BaseException = pickle.loads(event.data)
        return error

    @property
    def items(self) -> list[Any]:
        return [pickle.loads(event.data) for event in self.of("yield")]

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """The `started` of retries."""
        return [header for header in self.started if "attempt" in header]

    def outcomes(self) -> dict[int, Event]:
        """Of a map: the answer to each input. Fails if an input has two."""
        outcomes: dict[int, Event] = {}
        for event in self.of("result", "error"):
            assert event.meta["index"] not in outcomes
            outcomes[event.meta["index"]] = event
        return outcomes

    # --- what a host tells the runner about it ---

    def cancel(self, mode: str = "cancel", reason: str = "", index: int | None = None) -> None:
        message = {"t": "cancel", "call": self.id, "mode": mode, "reason": reason}
        self.host.control(message if index is None else {**message, "index": index})

    def consume(self, total: int) -> None:
        self.host.control({"t": "window", "call": self.id, "consumed": total})


class FakeHost:
    """Use it as a context manager."""

    def __init__(
        self,
        command: list[str] | None = None,
        env: dict[str, str] | None = None,
        *,
        consume: bool = True,
        acknowledge: bool = True,
        own_pids: bool = True,
    ) -> None:
        """`own_pids`: the runner's process ids are those that we see; False in a PID namespace."""
        self.frames: list[tuple[dict[str, Any], bytes]] = []
        self.control_frames: list[dict[str, Any]] = []
        self.calls: dict[str, Call] = {}
        self.hellos: list[dict[str, Any]] = []
        self.ready: dict[str, Any] | None = None
        self.consume = consume
        self.own_pids = own_pids
        self.cut_after = sys.maxsize
        """Bytes of a frame after which the connection breaks, once."""
        self.acknowledge = acknowledge
        self._changed = threading.Condition()
        self._count = 0
        self._sent = 0
        self._got = 0
        self._unacknowledged: list[tuple[int, bytes]] = []
        self._defined: dict[str, bytes] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="skylift-test-")
        self.path = os.path.join(self._folder.name, "runner.sock")
        self._send_lock = threading.RLock()
        self._listener: socket.socket | None = None
        self.data: socket.socket | None = None
        self.control_socket: socket.socket | None = None
        self.listen()
        self.process = subprocess.Popen(
            command or [sys.executable, str(RUNNER)],
            env={**os.environ, "SKYLIFT_SOCKET": self.path, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._folder.name,
        )
        self.printed: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        for name in self.printed:
            threading.Thread(target=self._read_pipe, args=(name,), daemon=True).start()

    def __enter__(self) -> FakeHost:
        try:
            self.accept()
            self.wait_for(lambda: self.ready is not None, what="ready")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        for sock in (self._listener, self.data, self.control_socket):
            if sock is not None:
                sock.close()
        for kill in (self.runner_pid, self.process.pid):
            if kill is not None and self.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(kill, signal.SIGKILL)
        self.process.wait(TIMEOUT)
        self._folder.cleanup()

    @property
    def runner_pid(self) -> int | None:
        return int(self.ready["pid"]) if self.ready is not None and self.own_pids else None

    # --- the link --------------------------------------------------------------------------------

    def listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(2)
        self._listener.settimeout(TIMEOUT)

    def stop_listening(self) -> None:
        assert self._listener is not None
        self._listener.close()
        os.unlink(self.path)

    def accept(self) -> None:
        """Takes both connections: reads both hellos, answers both, then sends again what the runner lacks."""
        assert self._listener is not None
        sockets: dict[str, tuple[socket.socket, dict[str, Any]]] = {}
        for _ in range(2):
            sock, _address = self._listener.accept()
            sock.settimeout(TIMEOUT)
            frame = _read_frame(sock)
            assert frame is not None
            sock.settimeout(None)
            self.hellos.append(frame[0])
            sockets[frame[0]["channel"]] = sock, frame[0]
        with self._send_lock:
            self.data, hello = sockets["data"]
            self.control_socket, _hello = sockets["control"]
            for sock in (self.data, self.control_socket):
                sock.sendall(_frame({"t": "hello", "sent": self._sent, "got": self._got}))
            for read, sock in ((self._read_data, self.data), (self._read_control, self.control_socket)):
                threading.Thread(target=read, args=(sock,), daemon=True).start()
            for number, lacked in self._unacknowledged:
                if number > hello["got"]:
                    self.data.sendall(lacked)

    def release(self) -> None:
        """Makes the runner let go of both sockets, and waits until it has."""
        self.stop_listening()
        assert self.data is not None
        assert self.control_socket is not None
        self.control({"t": "release"})
        self.wait_for(lambda: self.data is None and self.control_socket is None, what="letting go")

    def hang_up(self) -> None:
        """Ends both connections without a word; the runner will dial again."""
        with self._send_lock:
            for sock in (self.data, self.control_socket):
                # The runner may hang up the second as soon as it misses the first.
                with contextlib.suppress(OSError):
                    assert sock is not None
                    sock.shutdown(socket.SHUT_RDWR)
        self.wait_for(
            lambda: self.data is None and self.control_socket is None, what="the end of the connections"
        )

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        with self._send_lock:
            frame = _frame(header, payload)
            self._sent += 1
            self._unacknowledged.append((self._sent, frame))
            if self.data is not None:
                if len(frame) > self.cut_after:
                    self.data.sendall(frame[: self.cut_after])
                    self.cut_after = sys.maxsize
                    self.hang_up()
                else:
                    self.data.sendall(frame)

    def control(self, message: dict[str, Any]) -> None:
        """Control messages are about a state; one that is lost with a connection is not missed."""
        with self._send_lock, contextlib.suppress(OSError):
            if self.control_socket is not None:
                self.control_socket.sendall(_frame(message))

    def _read_data(self, sock: socket.socket) -> None:
        while (frame := _read_frame(sock)) is not None:
            self._got += 1
            if self.acknowledge and self._got % 32 == 0:
                self.control({"t": "ack", "got": self._got})
            with self._changed:
                self._take(*frame)
                self._changed.notify_all()
        with self._changed:
            sock.close()
            if self.data is sock:
                self.data = None
            self._changed.notify_all()

    def _take(self, header: dict[str, Any], payload: bytes) -> None:
        self.frames.append((header, payload))
        kind = header["t"]
        if kind == "ready":
            self.ready = header
        elif kind == "started":
            self.calls[header["call"]].started.append(header)
        elif kind == "events":
            call = self.calls[header["call"]]
            call.frames.append(header)
            call.times.append(time.monotonic())
            position = 0
            for event_kind, meta, length in header["events"]:
                call.events.append(Event(event_kind, meta, payload[position : position + length]))
                position += length
                call.cost += length + 64
            assert position == len(payload)
            call.done += header.get("done", [])
            if header.get("end"):
                assert call.end is None
                call.end = header["end"]
            elif self.consume:
                call.consume(call.cost)

    def _read_control(self, sock: socket.socket) -> None:
        while (frame := _read_frame(sock)) is not None:
            header, _payload = frame
            with self._changed:
                self.control_frames.append(header)
                if header["t"] == "ack":
                    self._unacknowledged = [
                        (number, kept) for number, kept in self._unacknowledged if number > header["got"]
                    ]
                elif header["t"] == "recalled":
                    self.calls[header["call"]].recalled = header["indexes"]
                self._changed.notify_all()
        with self._changed:
            sock.close()
            if self.control_socket is sock:
                self.control_socket = None
            self._changed.notify_all()

    def _read_pipe(self, name: str) -> None:
        pipe = getattr(self.process, name)
        while data := os.read(pipe.fileno(), 65536):
            with self._changed:
                self.printed[name] += data
                self._changed.notify_all()
        pipe.close()

    def wait_for(self, predicate: Callable[[], bool], timeout: float = TIMEOUT, what: str = "") -> None:
        with self._changed:
            if not self._changed.wait_for(predicate, timeout):
                raise AssertionError(
                    f"waited {timeout} s for {what}; stderr: {self.printed['stderr'].decode()}"
                )

    def call_is_quiet(self, call: Call, seconds: float) -> bool:
        """Whether nothing comes for a call within that time."""
        with self._changed:
            before = len(call.events)
            return not self._changed.wait_for(lambda: len(call.events) > before, seconds)

    def wait_printed(self, text: str, stream: str = "stdout") -> None:
        self.wait_for(lambda: text.encode() in self.printed[stream], what=f"{text!r} on {stream}")

    def wait_exit(self) -> int:
        return self.process.wait(TIMEOUT)

    # --- work ------------------------------------------------------------------------------------

    def define(self, function: Callable[..., Any] | bytes) -> str:
        code = function if isinstance(function, bytes) else cloudpickle.dumps(function)
        self._count += 1
        function_id = f"fu-{self._count:08d}"
        self._defined[function_id] = code
        self.send({"t": "code", "id": function_id}, code)
        return function_id

    def new_call(self) -> Call:
        self._count += 1
        call = Call(self, f"fc-{self._count:08d}")
        self.calls[call.id] = call
        return call

    def start(
        self,
        function: Callable[..., Any] | str,
        *args: Any,
        kind: str = "call",
        window: int = 1 << 20,
        retries: dict[str, Any] | None = None,
        payload: bytes | None = None,
        call: Call | None = None,
    ) -> Call:
        function_id = function if isinstance(function, str) else self.define(function)
        call = call or self.new_call()
        header = {"t": "call", "call": call.id, "code": function_id, "kind": kind}
        header.update(window=window, consumed=0, retries=retries)
        self.send(header, cloudpickle.dumps((args, {})) if payload is None else payload)
        return call

    def call(self, function: Callable[..., Any] | str, *args: Any, **options: Any) -> Call:
        return self.start(function, *args, **options).wait()

    def map(
        self,
        function: Callable[..., Any] | str,
        inputs: Iterable[Any],
        *,
        first: int = 0,
        window: int = 1 << 20,
        retries: dict[str, Any] | None = None,
        call: Call | None = None,
        raw: bool = False,
    ) -> Call:
        function_id = function if isinstance(function, str) else self.define(function)
        call = call or self.new_call()
        items = [item if raw else cloudpickle.dumps(((item,), {})) for item in inputs]
        header = {"t": "inputs", "call": call.id, "code": function_id, "window": window, "retries": retries}
        header.update(indexes=list(range(first, first + len(items))), lengths=[len(item) for item in items])
        self.send(header, b"".join(items))
        return call

    def start_cell(
        self, code: str = "", *, op: str = "run", send: dict[str, Any] | None = None, **options: Any
    ) -> Call:
        """`send`: values, pickled here; bytes go as they are; ``{"ref": id}`` as that."""
        pickles, entries = [], {}
        for name, value in (send or {}).items():
            if isinstance(value, dict) and set(value) == {"ref"}:
                entries[name] = value
            else:
                pickles.append(value if isinstance(value, bytes) else cloudpickle.dumps(value))
                entries[name] = {"length": len(pickles[-1])}
        window = options.pop("window", 1 << 20)
        header: dict[str, Any] = {"op": op, "send": entries}
        if op == "run":
            header.update(
                code=code,
                filename="cell.py",
                first_line=1,
                execution_count=1,
                assigned=[],
                limit=1 << 20,
                drop=[],
            )
            header["silent"] = False
        header.update(options)
        encoded = json.dumps(header).encode()
        call = self.new_call()
        payload = struct.pack(">I", len(encoded)) + encoded + b"".join(pickles)
        self.send({"t": "cell", "call": call.id, "window": window, "meta": {}}, payload)
        return call

    def cell(self, code: str = "", **options: Any) -> Call:
        return self.start_cell(code, **options).wait()


def _frame(header: dict[str, Any], payload: bytes = b"") -> bytes:
    encoded = json.dumps(header).encode()
    return _PREFIX.pack(len(encoded), len(payload)) + encoded + payload


def _read_exactly(sock: socket.socket, count: int) -> bytes | None:
    parts, missing = [], count
    while missing:
        try:
            part = sock.recv(min(missing, 1 << 20))
        except OSError:
            return None
        if not part:
            return None
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _read_frame(sock: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    prefix = _read_exactly(sock, 12)
    if prefix is None:
        return None
    header_length, payload_length = _PREFIX.unpack(prefix)
    header = _read_exactly(sock, header_length)
    payload = _read_exactly(sock, payload_length)
    return None if header is None or payload is None else (json.loads(header), payload)
