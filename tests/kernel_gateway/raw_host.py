"""A host's end of its link, without a host: what it says is up to the test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from served_gateway import HOST_TOKEN

from skylift.wire import (
    PROTOCOL,
    CallTimes,
    CancelCall,
    ContainerChanged,
    ContainerInfo,
    End,
    Event,
    Events,
    FrameBuffer,
    HostCommand,
    HostFacts,
    HostHello,
    HostMessage,
    RunCall,
    SessionSlept,
    SleepContainer,
    SleepingSession,
    SnapshotRef,
    StartContainer,
    StopContainer,
    decode_host_command,
    encode_events,
    event_cost,
    frame,
    machine_id,
)

FACTS = HostFacts(
    host_id="ho-00000000",
    machine=machine_id(),
    hostname="here",
    cpus=4,
    memory=4096,
    gpus=(),
    isolation="process",
    rootless=False,
    kernel="",
)


class RawHost:
    """A host's end of the link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._frames = FrameBuffer()
        self._commands: list[HostCommand] = []

    def send(self, *messages: HostMessage) -> None:
        self.writer.write(b"".join(frame(message) for message in messages))

    async def receive(self) -> HostCommand | None:
        """The next command, or None at the end."""
        while not self._commands:
            data = await asyncio.wait_for(self.reader.read(65536), 10)
            if not data:
                return None
            self._commands = [decode_host_command(each) for each in self._frames.feed(data)]
        return self._commands.pop(0)


@asynccontextmanager
async def raw_host(home: Path, token: str = HOST_TOKEN, hello: bool = True) -> AsyncIterator[RawHost]:
    reader, writer = await asyncio.open_unix_connection(home / "gateway.sock")
    host = RawHost(reader, writer)
    try:
        if hello:
            host.send(HostHello(protocol=PROTOCOL, token=token, facts=FACTS))
        yield host
    finally:
        writer.close()


async def serve_calls(host: RawHost) -> None:
    """Do what a host does, without containers: calls of kind ``call`` return what they were given, others
    print something and go on until they are cancelled. Sessions sleep at once."""
    started: dict[str, StartContainer] = {}
    while (command := await host.receive()) is not None:
        if isinstance(command, StartContainer):
            started[command.container_id] = command
            host.send(ContainerChanged(info=_info(command)))
        elif isinstance(command, RunCall) and command.kind == "call":
            host.send(_events(command.call_id, 0, Event("result", {}, command.args.data), state="done"))
        elif isinstance(command, RunCall):
            host.send(_events(command.call_id, 0, Event("output", {"stream": "stdout"}, b"going on\n")))
        elif isinstance(command, CancelCall):
            error = Event("error", {"type": "InputCancellation", "message": command.reason})
            host.send(_events(command.call_id, 1, error, state="cancelled"))
        elif isinstance(command, SleepContainer):
            start = started[command.container_id]
            ref = SnapshotRef(manifest="0" * 64, size=210_000_000, unpacked=600_000_000)
            session = SleepingSession(pool_id=start.pool_id, spec=start.spec, snapshot=ref)
            host.send(SessionSlept(container_id=command.container_id, session=session, seconds=0.8))
        elif isinstance(command, StopContainer):
            info = ContainerInfo(
                container_id=command.container_id,
                host_id=FACTS.host_id,
                state="exited",
                app="",
                function="",
                exit_reason=command.reason,
            )
            host.send(ContainerChanged(info=info))


def _info(command: StartContainer) -> ContainerInfo:
    return ContainerInfo(
        container_id=command.container_id,
        host_id=FACTS.host_id,
        state="ready",
        app=command.spec.app,
        function=command.spec.name,
        session=command.spec.session,
        started=time.time(),
    )


def _events(call_id: str, seq: int, event: Event, state: str = "") -> Events:
    now = time.time()
    end = End(state=state, times=CallTimes(started=now, ended=now)) if state else None  # type: ignore[arg-type]
    return Events(
        call_id=call_id,
        seq=seq,
        count=1,
        body=encode_events([event]),
        cost=event_cost(len(event.data)),
        end=end,
    )
