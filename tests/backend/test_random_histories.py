"""Arbitrary histories of clients, hosts, containers and gateways that come and go.

Whatever happens: every call ends, exactly once, with all its events in order; nothing runs twice; and in
the end nothing is left over.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from control_harness import Plane, spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_parties import ModelClient, ModelHost

from skylift.wire import Cancel, new_id

SPECS = [spec("f"), spec("g", max_containers=1), spec("h", cpu=0.5)]

STEPS = st.sampled_from(
    [
        "call",
        "call",
        "map",
        "spawn",
        "cancel",
        "start",
        "start",
        "work",
        "work",
        "work",
        "print",
        "die",
        "client goes",
        "client comes",
        "host goes",
        "host comes",
        "turn",
        "turn",
        "commit",
        "gateway is killed",
    ]
)


class History:
    """One world, and what happens in it."""

    def __init__(self, folder: Path) -> None:
        self.plane = Plane(folder)

    async def run(self, steps: list[str], restart_host: bool) -> None:
        self.restart_host = restart_host
        await self.plane.start()
        self.host = ModelHost(self.plane)
        self.client = ModelClient(self.plane)
        self.client.specs = SPECS
        self.functions = [self.client.define(each) for each in SPECS]
        self.host.link()
        try:
            for number, step in enumerate(steps):
                await self.step(step, number)
            if restart_host:
                await self.plane.settle()
                self.host.restart()
            await self.finish()
        finally:
            await self.plane.stop()

    async def step(self, step: str, number: int) -> None:
        host, client, plane = self.host, self.client, self.plane
        if step in ("call", "map", "spawn"):
            if client.up:
                kind = "map" if step == "map" else "call"
                function_id = self.functions[number % len(SPECS)]
                client.start(function_id, new_id("fc"), kind, number % 6, step == "spawn")
        elif step == "cancel":
            for call_id in list(client.calls)[number % 3 :: 3]:
                if client.up:
                    client.say(Cancel(call_id=call_id))
        elif step == "start":
            host.start_one()
        elif step == "work":
            host.work_one(number)
        elif step == "print":
            host.print_one()
        elif step == "die":
            host.die_one()
        elif step == "client goes":
            client.unlink()
        elif step == "client comes":
            client.link()
        elif step == "host goes":
            host.unlink()
        elif step == "host comes":
            host.link()
        elif step == "turn":
            await asyncio.sleep(0)
        elif step == "commit":
            await plane.settle()
        elif step == "gateway is killed":
            client.up = host.up = False
            host.sent.clear()
            if self.restart_host:
                # What neither a host nor the disk has any more may run again: nobody knows that it ran. A
                # commit may set more going, so one is not enough.
                for _ in range(3):
                    await plane.settle()
            await plane.crash()
            await plane.start()

    async def finish(self) -> None:
        """Let everything come back and go on, until all calls have ended."""
        host, client = self.host, self.client
        client.link()
        host.link()
        for _ in range(400):
            await self.plane.settle()
            host.start_one()
            for number in range(4):
                host.work_one(number)
            ended = all(call.ended or call.refused for call in client.calls.values())
            if ended and not any(call.durable for call in self.plane.control.registry.calls.values()):
                break
        self.plane.control._recovery.cancel_unasked()
        await self.plane.settle()
        self.check()

    def check(self) -> None:
        registry = self.plane.control.registry
        for call_id, call in self.client.calls.items():
            if call.refused:
                continue
            assert 1 == call.ended, f"{call_id} ({call.submit.kind}) ended {call.ended} times"
        twice = {task: count for task, count in self.host.ran.items() if count > 1}
        assert {} == twice
        assert {} == registry.calls
        assert 0 == registry.queued_bytes
        for pool in registry.pools.values():
            assert not pool.queue
            assert 0 == pool.queued_units
            for container in pool.members.values():
                assert container.call is None, f"{container.container_id} is {container.phase}"
                assert container.phase in ("idle", "starting", "stopping")


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=60), st.booleans())
def test_every_call_ends_once_and_nothing_runs_twice(steps: list[str], restart_host: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(asyncio.wait_for(History(Path(folder)).run(steps, restart_host), 60))
