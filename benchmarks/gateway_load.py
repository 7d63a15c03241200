"""100 notebooks, 5 calls of each at a time; the gateway's memory: ``python -m benchmarks.gateway_load``."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import cloudpickle
from blake3 import blake3
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.harness import print_result, print_table, quantile
from scripts.own_gateway import own_gateway
from skylift.environment import collect
from skylift.wire import (
    PROTOCOL,
    Consumed,
    Define,
    Events,
    FunctionSpec,
    Hello,
    Payload,
    Submit,
    decode_events,
    decode_gateway_message,
    encode,
    new_id,
)

CONNECTIONS = 100
CALLS_AT_A_TIME = 5
"""Of each connection."""
WARM_UP = 5_000
CALLS = 50_000
STEPS = 5
"""Parts in which the calls are made, with a look at the gateway's memory after each."""


class Notebook:
    """One connection. It speaks the protocol itself: the SDK has one connection a process."""

    def __init__(self, websocket: ClientConnection, define: Define) -> None:
        self._websocket = websocket
        self._define = define
        self.times: list[float] = []
        """Milliseconds that each call took."""
        self.wrong = 0

    async def run(self, count: int) -> None:
        """Make `count` calls, `CALLS_AT_A_TIME` of them at any time, and check what they return."""
        under_way: dict[str, tuple[int, float]] = {}
        results: dict[str, object] = {}
        begun = 0
        while begun < count or under_way:
            while begun < count and len(under_way) < CALLS_AT_A_TIME:
                call_id = new_id("fc")
                under_way[call_id] = begun, time.perf_counter()
                await self._submit(call_id, begun)
                begun += 1
            message = decode_gateway_message(await self._websocket.recv(decode=False))
            if not isinstance(message, Events):
                continue
            for event in decode_events(message.body):
                results[message.call_id] = pickle.loads(event.data)
            if message.end is None:
                consumed = Consumed(
                    call_id=message.call_id, seq=message.seq + message.count, total=message.cost
                )
                await self._websocket.send(encode(consumed))
                continue
            number, start = under_way.pop(message.call_id)
            self.times.append((time.perf_counter() - start) * 1e3)
            self.wrong += results.pop(message.call_id, None) != number + 1

    async def _submit(self, call_id: str, number: int) -> None:
        data = pickle.dumps(((number,), {}))
        submit = Submit(
            call_id=call_id,
            function_id=self._define.function_id,
            kind="call",
            args=Payload(data=data, size=len(data)),
        )
        await self._websocket.send(encode(submit))


@asynccontextmanager
async def notebook(url: str, token: str, define: Define) -> AsyncIterator[Notebook]:
    """A connection that has been welcomed and has defined the function."""
    headers = {"Authorization": f"Bearer {token}"}
    address = url.replace("http", "ws", 1) + "/v1/connect"
    async with connect(address, additional_headers=headers, compression=None, proxy=None) as websocket:
        await websocket.send(encode(Hello(protocol=PROTOCOL, client_id=new_id("cl"), notebook="load")))
        await websocket.recv()
        await websocket.send(encode(define))
        yield Notebook(websocket, define)


async def load(home: Path) -> None:
    gateway = json.loads((home / "gateway.json").read_text())
    token = (home / "token").read_text().strip()
    define = definition()
    rows = []
    async with AsyncExitStack() as stack:
        notebooks = [
            await stack.enter_async_context(notebook(gateway["url"], token, define))
            for _ in range(CONNECTIONS)
        ]
        await asyncio.gather(*(each.run(WARM_UP // CONNECTIONS) for each in notebooks))
        memory = [resident_mb(gateway["pid"])]
        for step in range(STEPS):
            for each in notebooks:
                each.times.clear()
            start = time.perf_counter()
            await asyncio.gather(*(each.run(CALLS // STEPS // CONNECTIONS) for each in notebooks))
            seconds = time.perf_counter() - start
            times = [value for each in notebooks for value in each.times]
            memory.append(resident_mb(gateway["pid"]))
            rows.append(
                (
                    f"{(step + 1) * CALLS // STEPS:,}",
                    len(times) / seconds,
                    quantile(times, 0.5),
                    quantile(times, 0.99),
                    memory[-1],
                )
            )
    print_table(
        f"{CONNECTIONS} connections, {CONNECTIONS * CALLS_AT_A_TIME} calls at a time",
        ("calls so far", "calls a second", "p50, ms", "p99, ms", "gateway, MB"),
        rows,
    )
    print_result(
        {
            "connections": CONNECTIONS,
            "concurrent": CONNECTIONS * CALLS_AT_A_TIME,
            "calls": CALLS,
            "wrong": sum(each.wrong for each in notebooks),
            "rss_start_mb": memory[0],
            "rss_end_mb": memory[-1],
        }
    )


def definition() -> Define:
    """A function that adds one, in two containers."""

    def increment(number: int) -> int:
        return number + 1

    code = cloudpickle.dumps(increment)
    spec = FunctionSpec(app="load", name="increment", image=collect(), max_containers=2)
    return Define(
        function_id=f"fu-{blake3(code).hexdigest()[:40]}",
        spec=spec,
        code=Payload(data=code, size=len(code)),
    )


def resident_mb(pid: int) -> float:
    """MB of a process that are in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="skylift-benchmark-") as folder:
        home = Path(folder) / "home"
        with own_gateway(home):
            asyncio.run(load(home))


if __name__ == "__main__":
    main()
