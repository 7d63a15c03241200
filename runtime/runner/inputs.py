"""The inputs of maps: one frame of them, one after another, each with an answer of its own."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

from .cancel import Request
from .functions import Caller, described, lasting
from .stream import Stream

if TYPE_CHECKING:
    from .link import Header


class Inputs:
    """The inputs of one frame that have not begun."""

    def __init__(self, header: Header, payload: bytes | memoryview) -> None:
        self.call: str = header["call"]
        view = memoryview(payload)
        position = 0
        self._waiting: deque[tuple[int, memoryview]] = deque()
        for index, length in zip(header["indexes"], header["lengths"], strict=True):
            self._waiting.append((index, view[position : position + length]))
            position += length

    def next(self) -> tuple[int, memoryview] | None:
        """Takes the first: it begins. None when there is no more."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def recall(self) -> list[int]:
        """Takes all that have not begun, from the last to the first, so that no other thread can begin
        them."""
        indexes: list[int] = []
        with contextlib.suppress(IndexError):
            while True:
                indexes.append(self._waiting.pop()[0])
        return indexes[::-1]


def run_inputs(caller: Caller, header: Header, inputs: Inputs, stream: Stream) -> None:
    """Runs the inputs of a frame; each is answered by a result or an error."""
    guard = caller.guard
    while (taken := inputs.next()) is not None:
        index, payload = taken
        stream.begin_input(index)
        early = guard.begin(inputs.call, index)
        try:
            data = caller.value(header, payload, stream) if early is None else b""
            stream.settle()
        except BaseException as error:
            guard.active = False
            _fail(stream, guard.delivered, error, index)
            continue
        if early is None and not lasting(guard.delivered):
            stream.add("result", f'{{"index":{index}}}', data, done=index, wait=False)
        else:
            _fail(stream, guard.delivered, None, index)


def _fail(stream: Stream, request: Request | None, error: BaseException | None, index: int) -> None:
    _, event = described(request, error)
    stream.settle()
    stream.add(*event.event(index), done=index, wait=False)
