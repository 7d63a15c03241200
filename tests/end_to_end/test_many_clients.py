"""Many notebooks at once, notebooks with one name, and notebooks that vanish."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from raw_client import RawClient, definition, payload, raw_client
from running_gateway import RunningGateway

from skylift.wire import Consumed, Events, Submit, decode_events, new_id

pytestmark = pytest.mark.anyio

CONNECTIONS = 100
CALLS = 5


async def results(client: RawClient, call_ids: list[str]) -> list[Any]:
    """What calls that run at the same time returned, in their order."""
    found: dict[str, Any] = {}
    open_calls = set(call_ids)
    while open_calls:
        frame = await client.expect(Events)
        for event in decode_events(frame.body):
            assert event.kind == "result", event
            found[frame.call_id] = pickle.loads(event.data)
        if frame.end is not None:
            assert "done" == frame.end.state
            open_calls.remove(frame.call_id)
    return [found[call_id] for call_id in call_ids]


async def test_five_hundred_calls_at_once(gateway: RunningGateway) -> None:
    def multiply(left: int, right: int) -> int:
        return left * right

    define = definition(multiply, max_containers=2)

    async def notebook(number: int) -> list[Any]:
        async with raw_client(gateway.url, gateway.token) as client:
            await client.send(define)
            submits = [
                Submit(
                    call_id=new_id("fc"),
                    function_id=define.function_id,
                    kind="call",
                    args=payload(((number, other), {})),
                )
                for other in range(CALLS)
            ]
            await client.send(*submits)
            return await results(client, [submit.call_id for submit in submits])

    got = await asyncio.gather(*(notebook(number) for number in range(CONNECTIONS)))
    assert [[number * other for other in range(CALLS)] for number in range(CONNECTIONS)] == got


async def test_a_client_that_vanishes_in_a_stream_is_waited_for_then_its_call_is_cancelled(
    gateway: RunningGateway,
) -> None:
    def numbers() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    async with raw_client(gateway.url, gateway.token) as client:
        call_id = await client.submit(numbers, kind="generator")
        seen = 0
        async for _ in client.events(call_id):
            seen += 1
            if seen == 1_000:
                break
        client.websocket.transport.abort()
    path = f"/v1/calls/{call_id}"
    assert "running" == (await asyncio.to_thread(gateway.get, path))["call"]["state"]
    ended = await asyncio.to_thread(
        gateway.wait_for, path, lambda answer: answer["call"]["state"] == "cancelled"
    )
    assert "its client was gone for 3 s" in ended["call"]["error"]
    # It could not run away meanwhile: the window held it.
    assert ended["output_bytes"] < 4 * 1024 * 1024


async def test_two_notebooks_with_one_name_do_not_mix(gateway: RunningGateway) -> None:
    def first(number: int) -> tuple[str, int]:
        return "first", number

    def second(number: int) -> tuple[str, int]:
        return "second", number

    second.__name__ = "first"

    async def notebook(function: Any, word: str) -> None:
        async with raw_client(gateway.url, gateway.token) as client:
            define = definition(function)
            await client.send(define)
            for number in range(100):
                submit = Submit(
                    call_id=new_id("fc"),
                    function_id=define.function_id,
                    kind="call",
                    args=payload(((number,), {})),
                )
                await client.send(submit)
                assert [(word, number)] == await results(client, [submit.call_id])

    await asyncio.gather(notebook(first, "first"), notebook(second, "second"))


async def test_no_client_sees_calls_of_another_connection(gateway: RunningGateway) -> None:
    def sleep(seconds: float) -> None:
        import time

        time.sleep(seconds)

    async with (
        raw_client(gateway.url, gateway.token) as one,
        raw_client(gateway.url, gateway.token) as other,
    ):
        call_id = await one.submit(sleep, 0.2)
        await other.send(Consumed(call_id=call_id, seq=0, total=0))
        async for _ in one.events(call_id):
            pass
        with contextlib.suppress(asyncio.TimeoutError):
            while True:
                message = await asyncio.wait_for(other.receive(), 0.2)
                assert not isinstance(message, Events)
