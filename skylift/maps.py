"""``map`` and its relatives: one call with many inputs.

Inputs are drawn in a thread of their own (async iterators: in a task), so that an iterator that waits for
earlier outputs, or for the world, never holds up outputs that are there. The call is submitted with its first
input; an empty map says nothing to the gateway.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from queue import Empty
from typing import Any, Protocol, TypeAlias

from skylift.calls import CallMessage, Nudge, RemoteCall, unexpected_end
from skylift.map_inputs import MapInputs, Stopped
from skylift.outputs import Output
from skylift.remote_errors import rebuild
from skylift.results import event_data
from skylift.serialization import loads
from skylift.waiting import Mailbox, Waiter
from skylift.wire import INLINE_LIMIT, Event, Payload

_FLUSH_POLL = 0.005
_TELL_EVERY = 64

CallMailbox: TypeAlias = "Mailbox[tuple[RemoteCall, CallMessage]]"


class _InputsEnded(Nudge):
    """The user's iterator has ended, perhaps with an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class MapTarget(Protocol):
    """What a map needs of the function."""

    def dump(self, arguments: tuple[Any, ...]) -> bytes:
        """One input's pickle."""

    def seal(self, data: bytes) -> Payload:
        """The pickle as it travels; may upload it."""

    def open(self, waiter: Waiter, mailbox: CallMailbox) -> Any:
        """Awaitable: the call, which is still to be made, and its inputs."""


@dataclass(frozen=True)
class MapOptions:
    """What a map is asked for."""

    name: str
    order_outputs: bool = True
    return_exceptions: bool = False


async def run_map(
    waiter: Waiter,
    drawn: Iterator[tuple[Any, ...]] | AsyncIterator[tuple[Any, ...]],
    target: MapTarget,
    options: MapOptions,
) -> AsyncGenerator[Any, None]:
    """The outputs of a map over `drawn`. See `Function.map`."""
    first = await _first(waiter, drawn)
    if first is None:
        return
    mailbox: CallMailbox = Mailbox()
    data = target.dump(first)
    call, inputs = await target.open(waiter, mailbox)
    feeder = _Feeder(inputs, target, lambda message: mailbox.put((call, message)))
    outputs = _Outputs(options)
    output = Output(options.name)
    finished = False
    try:
        call.client.call(call)
        inputs.add(await waiter.call(target.seal, data))
        feeder.start(drawn)
        told = 0
        while not (inputs.total == outputs.yielded and feeder.ended):
            inputs.yielded(outputs.yielded - told)
            told = outputs.yielded
            call.consume()
            try:
                _, message = await waiter.take(mailbox, _FLUSH_POLL if inputs.unsent else output.poll)
            except Empty:
                if inputs.unsent:
                    inputs.flush()
                else:
                    output.waiting(call.status)
                continue
            if isinstance(message, _InputsEnded):
                feeder.ended = True
                if message.error is not None:
                    raise message.error
                continue
            for event in call.take_in(message):
                output.began(call.status)
                if event.kind not in ("result", "error"):
                    output.event(event)
                    continue
                for value in outputs.take(event, call):
                    yield value
                    if outputs.yielded - told >= _TELL_EVERY:
                        inputs.yielded(outputs.yielded - told)
                        told = outputs.yielded
            if call.end is not None and outputs.yielded != inputs.total:
                raise unexpected_end(call, f"{options.name}.map()")
        finished = True
    finally:
        output.began(call.status)
        feeder.stop()
        if not finished:
            call.abandon("the map was not iterated to its end")


async def _first(
    waiter: Waiter, drawn: Iterator[tuple[Any, ...]] | AsyncIterator[tuple[Any, ...]]
) -> tuple[Any, ...] | None:
    if isinstance(drawn, AsyncIterator):
        async for arguments in drawn:
            return arguments
        return None
    found: tuple[Any, ...] | None = await waiter.call(next, drawn, None)
    return found


class _Outputs:
    """Puts outputs in order, each once."""

    def __init__(self, options: MapOptions) -> None:
        self._options = options
        self._ready: dict[int, Event] = {}
        self._next = 0
        self._seen: set[int] = set()
        self.yielded = 0

    def take(self, event: Event, call: RemoteCall) -> Iterator[Any]:
        """The outputs that can be handed out now that `event` has come.

        Raises what an input raised, as soon as it is known, unless exceptions are to be returned.
        """
        index = event.meta.get("index")
        if index is None or (event.kind == "error" and not self._options.return_exceptions):
            raise rebuild(event.meta, event_data(event, call.client))
        # What ran twice because a container was lost may have two results.
        if index < self._next or index in self._seen:
            return
        self._seen.add(index)
        if self._options.order_outputs:
            self._ready[index] = event
        else:
            self.yielded += 1
            yield self._value(event, call)
        while self._next in self._seen:
            self._seen.discard(self._next)
            ready = self._ready.pop(self._next, None)
            self._next += 1
            if ready is not None:
                self.yielded += 1
                yield self._value(ready, call)

    def _value(self, event: Event, call: RemoteCall) -> Any:
        data = event_data(event, call.client)
        if event.kind == "error":
            return rebuild(event.meta, data)
        return loads(data, f"a result of {self._options.name}.map()")


class _Feeder:
    """Draws the inputs, in a thread or in a task of the running event loop."""

    def __init__(self, inputs: MapInputs, target: MapTarget, tell: Callable[[Nudge], None]) -> None:
        self.ended = False
        self._inputs = inputs
        self._target = target
        self._tell = tell
        self._task: asyncio.Task[None] | None = None

    def start(self, drawn: Iterator[tuple[Any, ...]] | AsyncIterator[tuple[Any, ...]]) -> None:
        if isinstance(drawn, AsyncIterator):
            self._task = asyncio.get_running_loop().create_task(self._feed_aio(drawn))
        else:
            threading.Thread(target=self._feed, args=(drawn,), name="skylift-map-inputs", daemon=True).start()

    def stop(self) -> None:
        """Draws no more. An iterator that is blocked is left behind."""
        self._inputs.stop()
        if self._task is not None:
            self._task.cancel()

    def _feed(self, drawn: Iterator[tuple[Any, ...]]) -> None:
        try:
            self._inputs.wait_for_room()
            for arguments in drawn:
                self._inputs.add(self._target.seal(self._target.dump(arguments)))
                self._inputs.wait_for_room()
            self._inputs.finish()
        except Stopped:
            return
        except BaseException as error:
            self._tell(_InputsEnded(error))
        else:
            self._tell(_InputsEnded())

    async def _feed_aio(self, drawn: AsyncIterator[tuple[Any, ...]]) -> None:
        room = asyncio.Event()
        self._inputs.on_room = room.set
        try:
            async for arguments in drawn:
                data = self._target.dump(arguments)
                if len(data) <= INLINE_LIMIT:
                    payload = self._target.seal(data)
                else:
                    payload = await asyncio.to_thread(self._target.seal, data)
                self._inputs.add(payload)
                while not self._inputs.has_room():
                    room.clear()
                    await room.wait()
            self._inputs.finish()
        except (Stopped, asyncio.CancelledError):
            return
        except BaseException as error:
            self._tell(_InputsEnded(error))
        else:
            self._tell(_InputsEnded())
