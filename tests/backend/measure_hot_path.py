"""What a warm call costs in the control plane: ``python tests/backend/measure_hot_path.py [CALLS]``.

Prints microseconds a call between two silent ports: from `Submit` to the command for the host, from the
host's last frame to the client, and over all with the writing of the log.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from control_harness import Plane, result_event, spec

from skylift.wire import CallTimes, End, Events, Payload, Submit, encode, encode_events, new_id


async def measure(folder: Path, calls: int) -> None:
    """Run so many calls, one after another."""
    plane = Plane(folder)
    await plane.start()
    host, client = plane.host(), plane.client()
    function_id = client.define(spec())
    first = client.submit(function_id)
    await host.run(first)
    host.finish(first)
    port, control = client.port, plane.control
    port.send = port.send_encoded = host.send = lambda message: None  # type: ignore[assignment,method-assign]
    args, body = Payload(data=b"args", size=4), encode_events([result_event()])
    there = back = 0.0
    began = time.perf_counter()
    for number in range(calls):
        call_id = new_id("fc")
        end = End(state="done", times=CallTimes(started=1.0, ended=2.0))
        last = Events(call_id=call_id, seq=0, count=1, body=body, cost=66, end=end)
        frame = encode(last)
        start = time.perf_counter()
        control.client_message(port, Submit(call_id=call_id, function_id=function_id, kind="call", args=args))
        middle = time.perf_counter()
        control.host_message(host, last, frame)
        there += middle - start
        back += time.perf_counter() - middle
        if number % 10 == 9:
            await asyncio.sleep(0)
    await plane.settle()
    total = time.perf_counter() - began
    print(
        f"submit {there / calls * 1e6:.1f} µs, end {back / calls * 1e6:.1f} µs, "
        f"with the log {total / calls * 1e6:.1f} µs a call"
    )
    await plane.stop()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
