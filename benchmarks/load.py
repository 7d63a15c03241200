"""100 notebooks with 5 calls each at a time, 50,000 calls in all: ``python -m benchmarks.load``.

Rates and latencies, and the memory of gateway and host as the calls go by. The notebooks are connections of
one process that speaks `skylift.wire` itself, since 100 interpreters would measure themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import time
from collections.abc import AsyncIterator
from pathlib import Path

import cloudpickle
import psutil
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.harness import print_result, print_table, quantile
from benchmarks.skylift_side import skylift_side
from skylift.environment import collect
from skylift.wire import (
    MAX_FRAME,
    PROTOCOL,
    Consumed,
    Define,
    Events,
    FunctionSpec,
    Hello,
    Payload,
    Refused,
    Submit,
    decode_events,
    decode_gateway_message,
    encode,
    new_id,
)

NOTEBOOKS = 100
AT_A_TIME = 5
ROUNDS = 100
SAMPLES = 5
"""Memory is read at the end of each fifth of the rounds, when nothing runs."""


class Notebook:
    """One connection with `AT_A_TIME` calls under way."""

    def __init__(self, websocket: ClientConnection, number: int, define: Define) -> None:
        self._websocket = websocket
        self._number = number
        self._define = define

    async def greet(self) -> None:
        hello = Hello(protocol=PROTOCOL, client_id=new_id("cl"), notebook=f"load-{self._number}.ipynb")
        await self._websocket.send(encode(hello))
        await self._websocket.send(encode(self._define))

    async def round(self) -> list[float]:
        """Milliseconds that each call took. Raises RuntimeError where one is refused or answers wrongly."""
        started: dict[str, tuple[int, float]] = {}
        for value in range(AT_A_TIME):
            call_id = new_id("fc")
            data = pickle.dumps(((self._number, value), {}))
            started[call_id] = (value, time.perf_counter())
            await self._websocket.send(
                encode(
                    Submit(
                        call_id=call_id,
                        function_id=self._define.function_id,
                        kind="call",
                        args=Payload(data=data, size=len(data)),
                    )
                )
            )
        times = []
        while started:
            message = decode_gateway_message(await self._websocket.recv(decode=False))
            if isinstance(message, Refused):
                raise RuntimeError(message.problem.message)
            if not isinstance(message, Events) or message.end is None:
                continue
            value, start = started.pop(message.call_id)
            times.append((time.perf_counter() - start) * 1e3)
            answers = [pickle.loads(event.data) for event in decode_events(message.body)]
            if answers != [self._number * 1000 + value]:
                raise RuntimeError(f"notebook {self._number}, call {value}: {answers}")
            await self._websocket.send(
                encode(Consumed(call_id=message.call_id, seq=message.seq + message.count, total=message.cost))
            )
        return times


def main() -> None:
    with skylift_side() as skylift:
        skylift.call(1)
        asyncio.run(measure(Path(os.environ["SKYLIFT_HOME"])))


async def measure(home: Path) -> None:
    described = json.loads((home / "gateway.json").read_bytes())
    gateway = described["pid"]
    host = json.loads((home / "host" / "host.json").read_bytes())["pid"]
    times: list[float] = []
    rows: list[tuple[str, float, float, float]] = []
    began = time.perf_counter()
    async with notebooks(described["url"], (home / "token").read_text().strip()) as clients:
        await asyncio.gather(*(client.round() for client in clients))
        for _ in range(SAMPLES):
            for _ in range(ROUNDS // SAMPLES):
                for found in await asyncio.gather(*(client.round() for client in clients)):
                    times += found
            rate = len(times) / (time.perf_counter() - began)
            rows.append((f"{len(times):,}", rate, megabytes(gateway), megabytes(host)))
    print_table(
        f"{NOTEBOOKS} notebooks, {NOTEBOOKS * AT_A_TIME} calls at a time",
        ("calls", "calls a second", "gateway, MB", "host, MB"),
        rows,
    )
    print_result(
        {
            "calls_per_s": rows[-1][1],
            "p50_ms": quantile(times, 0.5),
            "p99_ms": quantile(times, 0.99),
            "gateway_first_mb": rows[0][2],
            "gateway_last_mb": rows[-1][2],
            "host_first_mb": rows[0][3],
            "host_last_mb": rows[-1][3],
        }
    )


def megabytes(pid: int) -> float:
    """Resident memory of a process."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6


@contextlib.asynccontextmanager
async def notebooks(url: str, token: str) -> AsyncIterator[list[Notebook]]:
    """The connections, greeted."""

    def combine(notebook: int, value: int) -> int:
        return notebook * 1000 + value

    code = cloudpickle.dumps(combine)
    define = Define(
        function_id=new_id("fu"),
        spec=FunctionSpec(app="benchmarks", name="combine", image=collect(), max_containers=2),
        code=Payload(data=code, size=len(code)),
    )
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for number in range(NOTEBOOKS):
            websocket = await stack.enter_async_context(
                connect(
                    url.replace("http", "ws", 1) + "/v1/connect",
                    additional_headers={"Authorization": f"Bearer {token}"},
                    max_size=4 * MAX_FRAME,
                    compression=None,
                    proxy=None,
                )
            )
            client = Notebook(websocket, number, define)
            await client.greet()
            clients.append(client)
        yield clients


if __name__ == "__main__":
    main()
