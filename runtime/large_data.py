"""The events of a runner's frame; data that is too large for the link goes to the store."""

from __future__ import annotations

from typing import Any

from skylift.lazyfs.store import Store, StoreError, StoreFullError
from skylift.runtime.deaths import error_event
from skylift.wire import INLINE_LIMIT, Event, Problem

_FRAME_BYTES = 1024 * 1024

RawEvents = list[tuple[str, dict[str, Any], int]]


def read_events(raw: RawEvents, payload: memoryview) -> list[Event]:
    """The events of a runner's frame; none is over `INLINE_LIMIT`."""
    if len(raw) == 1:
        kind, meta, _ = raw[0]
        return [Event(kind, meta, bytes(payload))]
    events = []
    start = 0
    for kind, meta, length in raw:
        events.append(Event(kind, meta, bytes(payload[start : start + length])))
        start += length
    return events


def has_large(raw: RawEvents, payload: memoryview) -> bool:
    """Whether an event's data has to go through the store."""
    return len(payload) > INLINE_LIMIT and any(length > INLINE_LIMIT for _, _, length in raw)


def store_large(raw: RawEvents, payload: memoryview, store: Store) -> tuple[list[Event], bool]:
    """The events of a runner's frame, with large data put into the store. Blocks.

    Where the store is full or does not answer, an error stands in the place of the event that was lost, and
    the second value is False; only for an input of a map do the events after it still count.
    """
    events: list[Event] = []
    start = 0
    stored = True
    for kind, meta, length in raw:
        data = payload[start : start + length]
        start += length
        if length <= INLINE_LIMIT:
            events.append(Event(kind, meta, bytes(data)))
            continue
        if kind == "output":
            events.extend(Event(kind, meta, piece) for piece in _pieces(bytes(data)))
            continue
        try:
            events.append(Event(kind, meta, b"", store.put(data)))
        except StoreError as error:
            stored = False
            problem = Problem(
                error="ResourceExhaustedError" if isinstance(error, StoreFullError) else "ConnectionError",
                message=f"A {_NAMES.get(kind, kind)} of {length:,} bytes could not be kept. {error}",
            )
            events.append(error_event(problem, meta.get("index", -1)))
            if "index" not in meta:
                break
    return events, stored


def batches(events: list[Event]) -> list[list[Event]]:
    """Consecutive events, in as many lists as it takes for none to hold over 1 MiB."""
    result: list[list[Event]] = [[]]
    size = 0
    for event in events:
        if size + len(event.data) > _FRAME_BYTES and result[-1]:
            result.append([])
            size = 0
        result[-1].append(event)
        size += len(event.data)
    return result


_NAMES = {"yield": "yielded item", "names": "set of assigned names", "value": "cell's value"}


def _pieces(text: bytes) -> list[bytes]:
    """UTF-8 text cut between characters, into pieces that fit a frame."""
    pieces = []
    start = 0
    while start < len(text):
        end = min(start + INLINE_LIMIT, len(text))
        while end < len(text) and text[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(text[start:end])
        start = end
    return pieces
