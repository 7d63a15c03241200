"""The stream of one call: its events' numbers, the frames that the gateway has not logged yet, its window."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from skylift.wire import EVENT_OVERHEAD, End, Event, Events, encode_events, frame


class Producer:
    """One source of a stream's events: a runner that works on the call, or its container's pipes.

    A map has them for each of its containers. Each may be a whole window ahead of the consumer, and is
    credited with what was consumed of its own events: so none uses up the room that another needs to go on.
    """

    __slots__ = ("call_id", "consumed", "credited", "produced", "told", "window")

    def __init__(self, call_id: str, window: int, credited: Callable[[Producer], None]) -> None:
        """`credited` is called whenever `consumed` has grown."""
        self.call_id = call_id
        self.window = window
        """Bytes that it may be ahead."""
        self.credited = credited
        self.produced = 0
        """Bytes, as `event_cost` counts them."""
        self.consumed = 0
        self.told = 0
        """What of `consumed` the source itself has heard of."""

    def ahead(self) -> int:
        """Bytes between it and its consumer."""
        return self.produced - self.consumed


class _Stretch:
    """Neighbouring events of one producer; `end` is the stream's total cost after the last of them.

    `extra`: bytes by which they cost their producer more, credited when the last of them is consumed.
    """

    __slots__ = ("end", "extra", "producer")

    def __init__(self, producer: Producer, end: int, extra: int) -> None:
        self.producer = producer
        self.end = end
        self.extra = extra


class _Frame:
    __slots__ = ("after", "data", "ends", "seq")

    def __init__(self, seq: int, after: int, data: bytes, ends: bool) -> None:
        self.seq = seq
        self.after = after
        """The number that follows its last event."""
        self.data = data
        self.ends = ends


class Stream:
    """Numbers a call's events, and keeps each `Events` frame until the gateway has it in its log."""

    __slots__ = ("_consumed", "_frames", "_stretches", "call_id", "ended", "next_seq", "retained", "total")

    def __init__(self, call_id: str, first_seq: int = 0, first_total: int = 0) -> None:
        self.call_id = call_id
        self.next_seq = first_seq
        self.total = first_total
        """Cost of all events below `next_seq`."""
        self.retained = 0
        """Bytes of the frames that are kept."""
        self.ended = False
        self._consumed = first_total
        self._frames: deque[_Frame] = deque()
        self._stretches: deque[_Stretch] = deque()

    @property
    def held_from(self) -> int:
        """The lowest event that can still be sent."""
        return self._frames[0].seq if self._frames else self.next_seq

    def add(
        self,
        events: list[Event],
        cost: int,
        producer: Producer,
        done: tuple[int, ...] = (),
        end: End | None = None,
        extra: int = 0,
    ) -> bytes:
        """Number these events, and return their `Events` frame as it goes over the host's link.

        `cost` is the sum of `event_cost` over them. `extra`: how much more they cost their producer, whose
        data went to the store; it is credited when the consumer has consumed what stands for it.
        """
        count = len(events)
        seq = self.next_seq
        message = Events(
            call_id=self.call_id,
            seq=seq,
            count=count,
            body=encode_events(events),
            cost=cost,
            done=done,
            end=end,
        )
        data = frame(message)
        self.next_seq = seq + count
        if cost:
            self.total += cost
            producer.produced += cost + extra
            last = self._stretches[-1] if self._stretches else None
            if last is not None and last.producer is producer and not last.extra and not extra:
                last.end = self.total
            else:
                self._stretches.append(_Stretch(producer, self.total, extra))
        self.ended = end is not None
        self._frames.append(_Frame(seq, self.next_seq, data, self.ended))
        self.retained += len(data)
        return data

    def persisted(self, seq: int, end: bool) -> None:
        """Let go of the frames below `seq`, and of the last one where `end` is in the log."""
        frames = self._frames
        while frames:
            first = frames[0]
            if first.after > seq or (first.ends and not end and first.after == first.seq):
                break
            self.retained -= len(first.data)
            frames.popleft()

    def kept(self) -> bool:
        """Whether the log lacks anything of it."""
        return bool(self._frames)

    def since(self, seq: int) -> Iterator[bytes]:
        """The kept frames that have an event numbered `seq` or above, or the end."""
        for kept in self._frames:
            if kept.after > seq or kept.ends:
                yield kept.data

    def consumed(self, total: int) -> None:
        """The consumer has consumed `total` bytes of the stream: credit the producers."""
        total = min(total, self.total)
        credited: list[Producer] = []
        while self._stretches and self._consumed < total:
            stretch = self._stretches[0]
            upto = min(stretch.end, total)
            stretch.producer.consumed += upto - self._consumed
            self._consumed = upto
            credited.append(stretch.producer)
            if upto == stretch.end:
                stretch.producer.consumed += stretch.extra
                self._stretches.popleft()
        for producer in credited:
            producer.credited(producer)


def cost_of(events: Sequence[Event]) -> int:
    """The sum of `event_cost` over events that are still whole."""
    return sum(len(event.data) for event in events) + EVENT_OVERHEAD * len(events)
