"""What comes of a call: its result, its items, or its exception; and its output on the way."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from queue import Empty
from typing import Any

from skylift.calls import RemoteCall, unexpected_end
from skylift.client import Client
from skylift.outputs import Output, new_line
from skylift.remote_errors import rebuild
from skylift.serialization import loads
from skylift.waiting import Waiter
from skylift.wire import Event


async def connected_client(waiter: Waiter) -> Client:
    """This process's client, connected. Says so when it takes long."""
    client = Client.current()
    if not client.connected:
        line = new_line()
        await waiter.call(client.connect, line.show)
        line.finish_if_shown("skylift: the gateway is up")
    return client


def event_data(event: Event, client: Client) -> bytes:
    """The event's data, fetched from the store where it is there."""
    return client.http.get_blob(event.blob) if event.blob else event.data


async def result_of(call: RemoteCall, waiter: Waiter, name: str) -> Any:
    """Makes a call and gives its result. Raises what the call raised. Who is interrupted cancels the call."""
    output = Output(name)
    outcome: Event | None = None
    try:
        # In here, so that an interrupt right behind it cancels the call as well.
        call.client.call(call)
        while True:
            try:
                events = await call.events(waiter, output.poll)
            except Empty:
                output.waiting(call.status)
                continue
            if events is None:
                break
            if events:
                output.began(call.status)
            for event in events:
                if event.kind == "result" or event.kind == "error":
                    outcome = event
                else:
                    output.event(event)
    except BaseException:
        output.began(call.status)
        call.abandon("its caller no longer waits for it")
        raise
    if outcome is None:
        raise unexpected_end(call, f"{name}()")
    if outcome.kind == "error":
        raise rebuild(outcome.meta, event_data(outcome, call.client))
    data = outcome.data if not outcome.blob else await waiter.call(event_data, outcome, call.client)
    return loads(data, f"the result of {name}()")


async def items_of(call: RemoteCall, waiter: Waiter, name: str) -> AsyncGenerator[Any, None]:
    """Calls a generator and gives its items, each once; then raises what it raised. Closing ends the call."""
    output = Output(name)
    what = f"an item of {name}()"
    error: Event | None = None
    try:
        call.client.call(call)
        while True:
            try:
                events = await call.events(waiter, output.poll)
            except Empty:
                output.waiting(call.status)
                continue
            if events is None:
                break
            if events:
                output.began(call.status)
            for event in events:
                if event.kind == "yield":
                    data = event.data
                    if event.blob:
                        data = await waiter.call(event_data, event, call.client)
                    yield loads(data, what)
                elif event.kind == "error":
                    error = event
                else:
                    output.event(event)
    except BaseException:
        output.began(call.status)
        call.abandon("its caller no longer iterates over it")
        raise
    if error is not None:
        raise rebuild(error.meta, event_data(error, call.client))
    if call.end is not None and call.end.state != "done":
        raise unexpected_end(call, f"{name}()")
