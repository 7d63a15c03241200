"""The calls that a host holds, and the work that each of its containers was given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from skylift.runtime.streams import Producer, Stream
from skylift.wire import CallKind, CallReport, End, Event, Payload

_SLACK = 1024 * 1024


class Call:
    """One call: its stream, what its producers may do, and which inputs are without a result."""

    __slots__ = (
        "_held_back",
        "_outlet",
        "call_id",
        "careful",
        "container_id",
        "dropped",
        "function_id",
        "kind",
        "map_over",
        "pending",
        "runners",
        "started",
        "stream",
        "timeout",
        "window",
    )

    def __init__(
        self,
        *,
        call_id: str,
        function_id: str,
        kind: CallKind,
        container_id: str,
        timeout: float,
        window: int,
        first_seq: int,
        first_total: int,
        outlet: Callable[[bytes], None],
    ) -> None:
        """`outlet` takes each frame to the gateway, or drops it while there is none."""
        self.call_id = call_id
        self.function_id = function_id
        self.kind: CallKind = kind
        self.container_id = container_id
        """For a map: of the container that it came to last."""
        self.timeout = timeout
        """Seconds, of the call or of one input."""
        self.window = window
        self.stream = Stream(call_id, first_seq, first_total)
        self.pending: set[int] = set()
        """Inputs of a map that this host has and that are without result."""
        self.runners: dict[str, Producer] = {}
        """By container."""
        self.dropped = False
        """Nobody wants its events any more."""
        self.careful = False
        """One of its inputs ended a container, and which is not known: runners get them one by one."""
        self.map_over = False
        self.started = False
        """Whether the gateway was told that it began."""
        self._outlet = outlet
        self._held_back: list[Callable[[], None]] = []

    @property
    def over(self) -> bool:
        """Whether events that still come belong to nothing."""
        return self.dropped or self.stream.ended

    def emit(
        self,
        events: list[Event],
        cost: int,
        producer: Producer,
        done: tuple[int, ...] = (),
        end: End | None = None,
        extra: int = 0,
    ) -> None:
        """Number events, keep them until they are in the log, and send them. See `Stream.add`."""
        data = self.stream.add(events, cost, producer, done, end, extra)
        if done:
            self.pending.difference_update(done)
        self._outlet(data)

    def log_is_behind(self) -> bool:
        """Whether so much waits for the gateway's log that its producers should stop."""
        return self.stream.retained > 2 * self.window + _SLACK

    def when_log_caught_up(self, resume: Callable[[], None]) -> None:
        """Call `resume` once `log_is_behind` is no longer so."""
        self._held_back.append(resume)

    def persisted(self, seq: int, end: bool) -> None:
        """Events below `seq` are in the log."""
        self.stream.persisted(seq, end)
        if self._held_back and not self.log_is_behind():
            self.let_go()

    def drop(self) -> None:
        """Nobody wants it: its producers run on freely until they are ended."""
        self.dropped = True
        self.let_go()

    def let_go(self) -> None:
        """Let go of whoever waits for the log."""
        waiting, self._held_back = self._held_back, []
        for resume in waiting:
            resume()

    def forgotten(self) -> bool:
        """Whether nothing of it is needed any more."""
        if self.kind == "map":
            return self.map_over and not self.stream.kept()
        return self.stream.ended and not self.stream.kept()

    def report(self) -> CallReport:
        """What a gateway is told of it when the link comes up."""
        return CallReport(
            call_id=self.call_id,
            container_id=self.container_id,
            next_seq=self.stream.next_seq,
            held_from=self.stream.held_from,
            inputs=tuple(sorted(self.pending)),
            ended=self.stream.ended,
        )


class Task:
    """Work for one container: a call, or consecutive inputs of a map."""

    __slots__ = ("announced", "begun", "call", "indexes", "payloads", "pipes", "runner")

    def __init__(self, call: Call, payloads: tuple[Payload, ...], indexes: tuple[int, ...] = ()) -> None:
        self.call = call
        self.payloads = payloads
        """Of a call, its arguments alone. Let go of when they are sent."""
        self.indexes = deque(indexes)
        """Inputs without result, in the order in which they run."""
        self.begun = False
        """Whether the runner was told."""
        self.announced = -1
        """The input that the runner last said it had begun."""
        self.runner: Producer | None = None
        self.pipes: Producer | None = None

    @property
    def index(self) -> int:
        """The input in hand; -1 for what is no map."""
        return self.indexes[0] if self.indexes else -1
