"""A host and a client that keep to the protocol as the real ones do, for histories that nobody would
write."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from control_harness import FakeClient, FakeHost, Plane, result_event, text_event
from msgspec.structs import replace

from skylift.wire import (
    Attach,
    CallLost,
    CallReport,
    CancelCall,
    ContainerInfo,
    End,
    EndMap,
    Event,
    Events,
    HostWelcome,
    Payload,
    Persisted,
    Refused,
    Returned,
    RunCall,
    RunInputs,
    StartContainer,
    StopContainer,
    Submit,
    encode_events,
    event_cost,
)

Task = tuple[str, int | None]
"""A call, or one input of a map."""


class HostCall:
    """A call as its host knows it."""

    def __init__(self, call_id: str, container_id: str, first_seq: int, is_map: bool) -> None:
        self.call_id = call_id
        self.container_id = container_id
        self.next_seq = first_seq
        self.is_map = is_map
        self.frames: list[Events] = []
        self.ended = False
        self.pending: set[int] = set()
        self.map_over = False


class ModelHost(FakeHost):
    """Runs one task of a container after another, when it is told to."""

    def __init__(self, plane: Plane) -> None:
        super().__init__(plane, gpus={}, cpus=1.0, slow=True)
        self.up = False
        self.sent: deque[Any] = deque()
        """What is on its way to the gateway."""
        self.calls: dict[str, HostCall] = {}
        self.tasks: dict[str, deque[Task]] = {}
        self.ran: Counter[Task] = Counter()
        """How often each task was run."""

    # --- what the gateway says -----------------------------------------------------------------------

    def send(self, message: Any) -> None:
        if isinstance(message, StartContainer):
            self.specs[message.container_id] = message
            self.tasks[message.container_id] = deque()
        elif isinstance(message, RunCall):
            self._run(message.call_id, message.container_id, message.first_seq, None)
        elif isinstance(message, RunInputs):
            for index in message.indexes:
                self._run(message.call_id, message.container_id, message.first_seq, index)
        elif isinstance(message, Persisted):
            self._persisted(message)
        elif isinstance(message, EndMap):
            self._end_map(message.call_id)
        elif isinstance(message, CancelCall):
            self._cancel(message.call_id)
        elif isinstance(message, StopContainer):
            self.plane.soon(self.die, message.container_id)
        elif isinstance(message, HostWelcome):
            self._welcomed(message)

    def _run(self, call_id: str, container_id: str, first_seq: int, index: int | None) -> None:
        if container_id not in self.infos:
            self.plane.soon(self._not_here, call_id, index)
            return
        call = self.calls.get(call_id)
        if call is None:
            call = self.calls[call_id] = HostCall(call_id, container_id, first_seq, index is not None)
        elif index is None or index in call.pending:
            return
        call.container_id = container_id
        if index is not None:
            call.pending.add(index)
        self.tasks[container_id].append((call_id, index))

    def _not_here(self, call_id: str, index: int | None) -> None:
        if index is None:
            self.say(CallLost(call_id=call_id, reason="no such container"))
        else:
            self.say(Returned(call_id=call_id, inputs=(index,)))

    def _persisted(self, message: Persisted) -> None:
        call = self.calls.get(message.call_id)
        if call is None:
            return
        call.frames = [
            frame
            for frame in call.frames
            if frame.seq + frame.count > message.seq or (frame.end is not None and not message.end)
        ]
        if (call.ended or call.map_over) and not call.frames:
            del self.calls[message.call_id]

    def _end_map(self, call_id: str) -> None:
        call = self.calls.get(call_id)
        if call is None:
            return
        call.map_over = True
        if call.pending or not call.frames:
            self._drop(call_id)

    def _drop(self, call_id: str) -> None:
        self.calls.pop(call_id, None)
        for tasks in self.tasks.values():
            for task in [task for task in tasks if task[0] == call_id]:
                tasks.remove(task)

    def _cancel(self, call_id: str) -> None:
        for tasks in self.tasks.values():
            for task in [task for task in tasks if task[0] == call_id]:
                tasks.remove(task)
                self._finish(task, "cancelled")

    # --- what happens on it ----------------------------------------------------------------------------

    def say(self, message: Any) -> None:
        """Send a message, behind those that were sent before."""
        if self.up:
            self.sent.append(message)
            self.plane.soon(self._arrive)

    def _arrive(self) -> None:
        if self.sent:
            super().say(self.sent.popleft())

    def give(self, call_id: str, *events: Event, done: tuple[int, ...] = (), end: Any = None) -> None:
        """Number events, keep them, and send them."""
        call = self.calls[call_id]
        message = Events(
            call_id=call_id,
            seq=call.next_seq,
            count=len(events),
            body=encode_events(list(events)),
            cost=sum(event_cost(len(event.data)) for event in events),
            done=done,
            end=end,
        )
        call.next_seq += len(events)
        call.frames.append(message)
        call.ended = end is not None
        self.say(message)

    def _finish(self, task: Task, state: str) -> None:
        call_id, index = task
        if call_id not in self.calls:
            return
        if index is None:
            self.give(call_id, result_event(b"r"), end=End(state=state))  # type: ignore[arg-type]
        else:
            self.calls[call_id].pending.discard(index)
            self.give(call_id, result_event(b"r", index), done=(index,))

    def starting(self) -> list[str]:
        return [key for key in self.specs if key not in self.infos and key in self.tasks]

    def start_one(self) -> None:
        """A container becomes ready."""
        for container_id in self.starting()[:1]:
            if self.up:
                self.ready(container_id)

    def work_one(self, which: int = 0) -> None:
        """A container does its next task."""
        busy = [key for key in self.infos if self.tasks[key]]
        if not busy:
            return
        task = self.tasks[busy[which % len(busy)]].popleft()
        self.ran[task] += 1
        self._finish(task, "done")

    def print_one(self) -> None:
        """Something that runs prints."""
        for container_id in self.infos:
            if self.tasks[container_id]:
                call_id = self.tasks[container_id][0][0]
                self.give(call_id, text_event("x"))
                return

    def die(self, container_id: str) -> None:
        """A container ends: what it had begun fails, what it had not can run elsewhere."""
        if container_id not in self.tasks:
            return
        tasks = self.tasks.pop(container_id)
        was_ready = self.infos.pop(container_id, None) is not None
        if tasks and was_ready:
            begun = tasks.popleft()
            self.ran[begun] += 1
            self._finish(begun, "failed")
        for call_id, index in tasks:
            if index is None:
                self.calls.pop(call_id, None)
                self.say(CallLost(call_id=call_id, reason="died"))
            elif call_id in self.calls:
                self.calls[call_id].pending.discard(index)
                self.say(Returned(call_id=call_id, inputs=(index,)))
        if self.up:
            self.exited(container_id, "died")

    def die_one(self) -> None:
        for container_id in list(self.infos)[:1]:
            self.die(container_id)

    # --- its link ----------------------------------------------------------------------------------------

    def link(self) -> None:
        """Say hello."""
        if self.up:
            return
        starting = [self._info(key) for key in self.starting()]
        self.up = True
        infos = dict(self.infos)
        for info in starting:
            self.infos[info.container_id] = info
        try:
            self.connect(
                calls=tuple(
                    CallReport(
                        call_id=call.call_id,
                        container_id=call.container_id,
                        next_seq=call.next_seq,
                        held_from=call.frames[0].seq if call.frames else call.next_seq,
                        inputs=tuple(sorted(call.pending)),
                        ended=call.ended,
                    )
                    for call in self.calls.values()
                )
            )
        finally:
            self.infos = {key: info for key, info in self.infos.items() if key in infos}

    def _info(self, container_id: str) -> ContainerInfo:
        start = self.specs[container_id]
        return ContainerInfo(
            container_id=container_id,
            host_id=self.facts.host_id,
            state="starting",
            app=start.spec.app,
            function=start.spec.name,
        )

    def _welcomed(self, welcome: HostWelcome) -> None:
        for call_id, call in list(self.calls.items()):
            first = welcome.calls.get(call_id)
            if first is None:
                self._drop(call_id)
                continue
            for frame in call.frames:
                if frame.seq + frame.count > first or frame.end is not None:
                    self.say(frame)

    def unlink(self) -> None:
        """The link is gone."""
        if self.up:
            self.up = False
            self.sent.clear()
            self.disconnect()

    def restart(self) -> None:
        """The process ends and another takes its place."""
        self.unlink()
        self.calls.clear()
        self.infos.clear()
        self.tasks.clear()


class ModelCall:
    """A call as its client knows it."""

    def __init__(self, submit: Submit, inputs: int) -> None:
        self.submit = submit
        self.inputs = inputs
        self.done: set[int] = set()
        self.next_seq = 0
        self.total = 0
        self.ended = 0
        self.refused = ""


class ModelClient(FakeClient):
    """Takes in what comes, once, and says after a reconnect what is needed to go on."""

    def __init__(self, plane: Plane) -> None:
        self.calls: dict[str, ModelCall] = {}
        self.up = True
        super().__init__(plane)

    def add(self, message: Any) -> None:
        if isinstance(message, Refused) and message.call_id in self.calls:
            self.calls[message.call_id].refused = message.problem.message
        if not isinstance(message, Events):
            return
        call = self.calls[message.call_id]
        assert message.seq <= call.next_seq, f"a gap before event {message.seq} of {message.call_id}"
        old = call.next_seq - message.seq
        if old > message.count or (old == message.count and message.end is None and message.count):
            return
        assert old in (0, message.count), "frames are sent whole"
        call.next_seq = message.seq + message.count
        if not old:
            call.total += message.cost
        call.done.update(message.done)
        call.ended += message.end is not None

    def start(self, function_id: str, call_id: str, kind: str, inputs: int, durable: bool) -> None:
        """Submit a call."""
        submit = Submit(
            call_id=call_id,
            function_id=function_id,
            kind=kind,  # type: ignore[arg-type]
            args=Payload(data=b"args", size=4) if kind == "call" else Payload(),
            durable=durable,
        )
        self.calls[call_id] = ModelCall(submit, inputs)
        self.say(submit)
        if durable:
            self.say(Attach(call_id=call_id))
        if kind == "map":
            self._send_inputs(call_id)

    def _send_inputs(self, call_id: str) -> None:
        call = self.calls[call_id]
        for index in range(call.inputs):
            if index not in call.done:
                self.inputs(call_id, index, 1)
        self.inputs(call_id, call.inputs, 0, total=call.inputs)

    def link(self) -> None:
        """Connect again, and take up what is open."""
        if self.up:
            return
        self.up = True
        self.connect()
        for spec in self.specs:
            self.define(spec)
        for call_id, call in self.calls.items():
            if call.ended or call.refused:
                continue
            if call.next_seq:
                self.say(Attach(call_id=call_id, seq=call.next_seq, total=call.total))
            else:
                self.say(replace(call.submit, resubmitted=True))
                if call.submit.durable:
                    self.say(Attach(call_id=call_id))
            if call.submit.kind == "map":
                self._send_inputs(call_id)

    def unlink(self) -> None:
        """The connection is gone."""
        if self.up:
            self.up = False
            self.disconnect()

    specs: list[Any] = []
