"""Calls that go on by themselves: what ``spawn`` returns, and what is found again by id."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from queue import Empty
from typing import Any, ClassVar, Generic, TypeVar

from skylift.call_graph import InputInfo, call_graph
from skylift.calls import CallMessage, RemoteCall, unexpected_end
from skylift.client import Client
from skylift.context import is_local
from skylift.dual import Blocking, Iterating, share_docs
from skylift.exceptions import InvalidError, PermissionDeniedError
from skylift.outputs import Output
from skylift.remote_errors import rebuild
from skylift.results import connected_client, event_data
from skylift.serialization import loads
from skylift.waiting import Mailbox, Waiter
from skylift.wire import FINAL_STATES, Cancel, CancelMode, Event, is_id

R = TypeVar("R")


@dataclass(frozen=True)
class TimelineEntry:
    """One thing that happened to a call."""

    time: float
    """Unix time in seconds."""
    what: str
    """Such as ``queued``, ``container ready``, ``started``, ``first output``, or how it ended."""
    detail: str = ""


@share_docs
class FunctionCall(Generic[R]):
    """One call of a function. `Function.spawn` makes one; `from_id` finds one again, in any process."""

    def __init__(self, call_id: str, *, name: str = "", shows_output: bool = False) -> None:
        self._call_id = call_id
        self._name = name or call_id
        self._shows_output = shows_output
        # How far its events have been shown, so that a second `get` does not print them again.
        self._seq = 0
        self._total = 0
        self._last: Event | None = None
        self._outcome: _Outcome | None = None

    @staticmethod
    def from_id(function_call_id: str) -> FunctionCall[Any]:
        """The call of that id, if there is one. Raises `InvalidError` for what is no id."""
        if not isinstance(function_call_id, str) or not is_id(function_call_id, "fc"):
            raise InvalidError(f"{function_call_id!r} is no call's id; one looks like fc-01jd3k5v7x…")
        return FunctionCall(function_call_id)

    @property
    def object_id(self) -> str:
        """Its id, for `from_id`."""
        return self._call_id

    @property
    def get(self) -> Blocking[..., R]:
        """Waits for the result and returns it, or raises what the function raised.

        ``get(timeout=None, index=0)``: after `timeout` seconds raises the builtin ``TimeoutError``; 0 only
        looks. The call goes on whatever happens here. `index`: 0, as a call has one result.
        """
        return Blocking(self._get)

    @property
    def iter(self) -> Iterating[..., Any]:
        """What the call gives, in order: the items of a generator, else its one result.

        ``iter(start=0, end=None)`` leaves out those before `start`, and those from `end` on. It can be
        iterated over again.
        """
        return Iterating(self._iter)

    @property
    def cancel(self) -> Blocking[..., None]:
        """Ends the call for good. ``cancel(terminate_containers=True)`` ends its container as well."""
        return Blocking(self._cancel)

    @property
    def num_inputs(self) -> Blocking[..., int]:
        """How many inputs the call has."""
        return Blocking(self._num_inputs)

    @property
    def cost(self) -> Blocking[..., float]:
        """What the call has cost so far, in US dollars."""
        return Blocking(self._cost)

    @property
    def timeline(self) -> Blocking[..., list[TimelineEntry]]:
        """What happened to the call, and when: queued, container started, started, first output, ended."""
        return Blocking(self._timeline)

    @property
    def get_call_graph(self) -> Blocking[..., list[InputInfo]]:
        """The call and, as its children, the calls that its code made, and theirs in turn."""
        return Blocking(self._get_call_graph)

    def __repr__(self) -> str:
        return f"<skylift.FunctionCall {self._call_id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._call_id, self._name)

    # --- how it is done --------------------------------------------------------------------------

    async def _get(self, waiter: Waiter, timeout: float | None = None, *, index: int = 0) -> R:
        if index != 0:
            raise InvalidError(f"index={index!r}: a call made by spawn has one result, of index 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._outcome is None:
            client = await connected_client(waiter)
            if timeout is not None and timeout <= 0 and not await self._is_over(waiter, client):
                raise TimeoutError(f"{self._name} has no result yet")
            await self._follow(waiter, client, None if timeout == 0 else deadline)
        assert self._outcome is not None
        result: R = await self._outcome.value(waiter)
        return result

    async def _follow(self, waiter: Waiter, client: Client, deadline: float | None) -> None:
        reading = _Reading(self, client, Mailbox())
        try:
            client.call(reading.call)
            while not reading.over:
                left = None if deadline is None else deadline - time.monotonic()
                poll = reading.output.poll
                wait = poll if left is None else left if poll is None else min(poll, left)
                try:
                    _, message = await waiter.take(reading.call.mailbox, wait)
                except Empty:
                    if deadline is not None and time.monotonic() >= deadline:
                        raise TimeoutError(f"{self._name} has no result yet") from None
                    reading.output.waiting(reading.call.status)
                    continue
                reading.take_in(message)
        finally:
            reading.close()

    async def _iter(
        self, waiter: Waiter, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[Any, None]:
        client = await connected_client(waiter)
        call = RemoteCall(client, self._call_id)
        position = 0
        try:
            client.call(call)
            while end is None or position < end:
                events = await call.events(waiter)
                if events is None:
                    break
                for event in events:
                    if event.kind == "error":
                        raise rebuild(event.meta, event_data(event, client))
                    if event.kind not in ("yield", "result") or (end is not None and position >= end):
                        continue
                    if event.kind == "result" and position:
                        continue
                    position += 1
                    if position > start:
                        yield loads(event_data(event, client), f"item {position - 1} of {self._name}")
            if call.end is not None and call.end.state != "done":
                raise unexpected_end(call, self._name)
        finally:
            call.detach()

    async def _cancel(self, waiter: Waiter, terminate_containers: bool = False) -> None:
        if terminate_containers and not is_local():
            raise PermissionDeniedError(
                "code in a container cannot end containers (terminate_containers=True)"
            )
        client = await connected_client(waiter)
        mode: CancelMode = "terminate" if terminate_containers else "cancel"
        client.send(Cancel(call_id=self._call_id, mode=mode, reason="cancelled by FunctionCall.cancel()"))

    async def _num_inputs(self, waiter: Waiter) -> int:
        row = await self._row(waiter)
        return int(row["call"].get("inputs") or 1)

    async def _cost(self, waiter: Waiter) -> float:
        row = await self._row(waiter)
        return float(row["call"]["cost"])

    async def _timeline(self, waiter: Waiter) -> list[TimelineEntry]:
        row = await self._row(waiter)
        return [TimelineEntry(**entry) for entry in row["timeline"]]

    async def _get_call_graph(self, waiter: Waiter) -> list[InputInfo]:
        client = await connected_client(waiter)
        graph = await waiter.call(client.http.get, f"/v1/calls/{self._call_id}/graph")
        return call_graph(graph["calls"])

    async def _row(self, waiter: Waiter) -> dict[str, Any]:
        client = await connected_client(waiter)
        row: dict[str, Any] = await waiter.call(client.http.get, f"/v1/calls/{self._call_id}")
        return row

    async def _is_over(self, waiter: Waiter, client: Client) -> bool:
        row = await waiter.call(client.http.get, f"/v1/calls/{self._call_id}")
        return row["call"]["state"] in FINAL_STATES

    @staticmethod
    async def _gather(waiter: Waiter, /, *function_calls: FunctionCall[Any]) -> list[Any]:
        """Waits for all calls; their results, in order. Raises as soon as one of them has failed."""
        client = await connected_client(waiter)
        mailbox: Mailbox[tuple[RemoteCall, CallMessage]] = Mailbox()
        unique = {id(call): call for call in function_calls if call._outcome is None}
        open_calls = {}
        try:
            for call in unique.values():
                reading = _Reading(call, client, mailbox)
                open_calls[reading.call] = reading
                client.call(reading.call)
            while open_calls:
                source, message = await waiter.take(mailbox)
                source_reading = open_calls.get(source)
                if source_reading is None:
                    continue
                source_reading.take_in(message)
                if source_reading.over:
                    del open_calls[source]
                    source_reading.close()
                    if source_reading.owner._failed():
                        await source_reading.owner._get(waiter)
        finally:
            for reading in open_calls.values():
                reading.close()
        return [await call._get(waiter) for call in function_calls]

    gather: ClassVar[Blocking[..., list[Any]]]

    def _failed(self) -> bool:
        return self._outcome is not None and self._outcome.error is not None


FunctionCall.gather = Blocking(FunctionCall._gather)


class _Outcome:
    """How a call ended; kept, so that every `get` gives the same."""

    def __init__(self, event: Event | None, client: Client, name: str, error: BaseException | None) -> None:
        self.error = error
        self._traceback = error.__traceback__ if error is not None else None
        self._event = event
        self._client = client
        self._name = name
        self._loaded: list[Any] = []

    async def value(self, waiter: Waiter) -> Any:
        if self.error is not None:
            # Each time with the remote frames alone, and not with those of who asked before.
            raise self.error.with_traceback(self._traceback)
        if not self._loaded and self._event is not None:
            data = self._event.data
            if self._event.blob:
                data = await waiter.call(event_data, self._event, self._client)
            self._loaded.append(loads(data, f"the result of {self._name}"))
            self._event = None
        return self._loaded[0] if self._loaded else None


class _Reading:
    """Follows a call's events until its end, from where the `FunctionCall` had got to."""

    def __init__(
        self, owner: FunctionCall[Any], client: Client, mailbox: Mailbox[tuple[RemoteCall, CallMessage]]
    ) -> None:
        self.owner = owner
        self.output = Output(owner._name)
        self.call = RemoteCall(
            client, owner._call_id, first_seq=owner._seq, first_total=owner._total, mailbox=mailbox
        )

    @property
    def over(self) -> bool:
        return self.call.end is not None

    def take_in(self, message: CallMessage) -> None:
        for event in self.call.take_in(message):
            self.output.began(self.call.status)
            if event.kind in ("result", "error"):
                self.owner._last = event
            elif self.owner._shows_output:
                self.output.event(event)
        self.owner._seq, self.owner._total = self.call.taken_seq, self.call.taken_total
        self.call.consume()
        if self.over:
            self._finish()

    def _finish(self) -> None:
        client, name, event = self.call.client, self.owner._name, self.owner._last
        error: BaseException | None = None
        if event is not None and event.kind == "error":
            error = rebuild(event.meta, event_data(event, client))
        elif event is None and self.call.end is not None and self.call.end.state != "done":
            error = unexpected_end(self.call, name)
        self.owner._outcome = _Outcome(event, client, name, error)

    def close(self) -> None:
        self.output.began(self.call.status)
        self.call.detach()


def _restore(call_id: str, name: str) -> FunctionCall[Any]:
    return FunctionCall(call_id, name=name)
