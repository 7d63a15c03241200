from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skylift.runtime.streams import Producer, Stream, cost_of
from skylift.wire import EVENT_OVERHEAD, End, Event, Events, FrameBuffer, decode_events, decode_host_message


def nobody(producer: Producer) -> None:
    pass


def output(text: str) -> Event:
    return Event("output", {"stream": "stdout"}, text.encode())


def decoded(data: bytes) -> Events:
    (frame,) = FrameBuffer().feed(data)
    message = decode_host_message(frame)
    assert isinstance(message, Events)
    return message


def add(stream: Stream, producer: Producer, *texts: str, end: End | None = None, extra: int = 0) -> bytes:
    events = [output(text) for text in texts]
    return stream.add(events, cost_of(events), producer, (), end, extra)


def test_events_are_numbered_on_from_the_first() -> None:
    stream, producer = Stream("fc-1", first_seq=5, first_total=100), Producer("fc-1", 1000, nobody)
    first = decoded(add(stream, producer, "a", "b"))
    second = decoded(add(stream, producer, "c", end=End(state="done")))

    assert (5, 2, None) == (first.seq, first.count, first.end)
    assert (7, 1, "done") == (second.seq, second.count, second.end and second.end.state)
    assert [output("a"), output("b")] == decode_events(first.body)
    assert 2 * (EVENT_OVERHEAD + 1) == first.cost
    assert 100 + 3 * (EVENT_OVERHEAD + 1) == stream.total
    assert stream.ended


class TestRetention:
    def test_frames_are_kept_until_they_are_in_the_log(self) -> None:
        stream, producer = Stream("fc-1"), Producer("fc-1", 1000, nobody)
        frames = [add(stream, producer, text) for text in "abc"]

        assert frames == list(stream.since(0))
        assert frames[1:] == list(stream.since(1))
        stream.persisted(2, end=False)
        assert (2, frames[2:]) == (stream.held_from, list(stream.since(0)))
        assert len(frames[2]) == stream.retained
        stream.persisted(3, end=False)
        assert not stream.kept()
        assert (3, 0) == (stream.held_from, stream.retained)

    def test_a_frame_that_is_half_in_the_log_is_kept_whole(self) -> None:
        stream, producer = Stream("fc-1"), Producer("fc-1", 1000, nobody)
        frame = add(stream, producer, "a", "b")
        stream.persisted(1, end=False)
        assert [frame] == list(stream.since(1))

    def test_an_end_without_events_is_kept_until_the_log_says_it_has_it(self) -> None:
        stream, producer = Stream("fc-1"), Producer("fc-1", 1000, nobody)
        add(stream, producer, "a")
        last = stream.add([], 0, producer, (), End(state="done"))

        stream.persisted(1, end=False)
        assert [last] == list(stream.since(1))
        stream.persisted(1, end=True)
        assert not stream.kept()

    def test_an_end_with_events_is_in_the_log_with_them(self) -> None:
        stream, producer = Stream("fc-1"), Producer("fc-1", 1000, nobody)
        add(stream, producer, "a", end=End(state="done"))
        stream.persisted(1, end=False)
        assert not stream.kept()


class TestWindow:
    def test_a_producer_is_credited_with_what_was_consumed_of_its_own(self) -> None:
        told: list[Producer] = []
        stream = Stream("fc-1")
        one, two = Producer("fc-1", 1000, told.append), Producer("fc-1", 1000, told.append)
        add(stream, one, "x" * 36)
        add(stream, two, "y" * 136)
        add(stream, one, "z" * 36)

        stream.consumed(150)
        assert (100, 50) == (one.consumed, two.consumed)
        assert (100, 150) == (one.ahead(), two.ahead())
        stream.consumed(150)
        assert [one, two] == told
        stream.consumed(10_000)
        assert (0, 0) == (one.ahead(), two.ahead())

    def test_what_a_moved_call_had_produced_before_counts_for_nobody(self) -> None:
        stream, producer = Stream("fc-1", first_seq=9, first_total=1000), Producer("fc-1", 1000, nobody)
        add(stream, producer, "x" * 36)
        stream.consumed(1000)
        assert 0 == producer.consumed
        stream.consumed(1040)
        assert 40 == producer.consumed

    def test_data_in_the_store_is_credited_with_the_event_that_stands_for_it(self) -> None:
        stream, producer = Stream("fc-1"), Producer("fc-1", 1000, nobody)
        add(stream, producer, "", extra=1_000_000)
        add(stream, producer, "")

        assert 1_000_000 + 2 * EVENT_OVERHEAD == producer.produced
        stream.consumed(EVENT_OVERHEAD - 1)
        assert EVENT_OVERHEAD - 1 == producer.consumed
        stream.consumed(EVENT_OVERHEAD)
        assert 1_000_000 + EVENT_OVERHEAD == producer.consumed

    @given(
        pieces=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 500), st.integers(0, 3)), max_size=30),
        reads=st.lists(st.integers(0, 20_000), max_size=10),
    )
    def test_credits_are_exact(self, pieces: list[tuple[int, int, int]], reads: list[int]) -> None:
        """Whoever consumes everything, in whatever steps, has credited everyone with all they produced."""
        stream = Stream("fc-1")
        producers = [Producer("fc-1", 1000, nobody) for _ in range(3)]
        for who, length, extra in pieces:
            add(stream, producers[who], "x" * length, extra=extra)
        for total in [*sorted(reads), stream.total]:
            stream.consumed(total)
            assert all(0 <= producer.consumed <= producer.produced for producer in producers)
        assert [producer.produced for producer in producers] == [producer.consumed for producer in producers]
