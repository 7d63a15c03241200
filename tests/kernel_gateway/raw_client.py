"""A client of the gateway without the SDK: a WebSocket of websockets, and the structs of skylift.wire."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import site
import sys
import sysconfig
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import cloudpickle
import websockets
from blake3 import blake3
from websockets.asyncio.client import ClientConnection, connect

from skylift.wire import (
    MAX_FRAME,
    PROTOCOL,
    Accepted,
    CallKind,
    ClientMessage,
    Consumed,
    Define,
    Event,
    Events,
    FunctionSpec,
    GatewayMessage,
    Hello,
    ImageSpec,
    MountSpec,
    Payload,
    Submit,
    Welcome,
    decode_events,
    decode_gateway_message,
    encode,
    machine_id,
    new_id,
)

M = TypeVar("M")
PATIENCE = 30.0
"""Seconds after which something that should have come is missed."""


class RawClient:
    """One connection. Messages that nobody has waited for yet are kept in order."""

    def __init__(self, websocket: ClientConnection, client_id: str) -> None:
        self.websocket = websocket
        self.client_id = client_id
        self.welcome: Welcome | None = None

    async def send(self, *messages: ClientMessage) -> None:
        for message in messages:
            await self.websocket.send(encode(message))

    async def receive(self) -> GatewayMessage:
        frame = await asyncio.wait_for(self.websocket.recv(), PATIENCE)
        assert isinstance(frame, bytes)
        return decode_gateway_message(frame)

    async def expect(self, kind: type[M]) -> M:
        """The next message of that kind; others are dropped."""
        while True:
            message = await self.receive()
            if isinstance(message, kind):
                return message

    async def closed(self, frame: bytes | list[bytes] = b"") -> tuple[int, str]:
        """Send `frame`, if any, and wait until the gateway closes the connection: its code and reason."""
        with contextlib.suppress(websockets.ConnectionClosed):
            if frame:
                await self.websocket.send(frame)
            while True:
                await asyncio.wait_for(self.websocket.recv(), PATIENCE)
        return self.websocket.close_code or 0, self.websocket.close_reason or ""

    async def hello(self) -> Welcome:
        await self.send(Hello(protocol=PROTOCOL, client_id=self.client_id, notebook="test.ipynb"))
        self.welcome = await self.expect(Welcome)
        return self.welcome

    async def submit(
        self, function: Callable[..., Any], *args: Any, kind: CallKind = "call", durable: bool = False
    ) -> str:
        """Define and submit; returns the call's id once it is accepted."""
        define = definition(function)
        call_id = new_id("fc")
        await self.send(
            define,
            Submit(
                call_id=call_id,
                function_id=define.function_id,
                kind=kind,
                args=payload((args, {})),
                durable=durable,
                detached=durable,
            ),
        )
        assert call_id == (await self.expect(Accepted)).call_id
        return call_id

    async def events(self, call_id: str, seq: int = 0) -> AsyncIterator[Event]:
        """The events of a call to its end, each checked to come once and in its turn, and consumed."""
        total = 0
        while True:
            frame = await self.expect(Events)
            if frame.call_id != call_id:
                continue
            assert seq == frame.seq
            for event in decode_events(frame.body):
                yield event
            seq += frame.count
            total += frame.cost
            await self.send(Consumed(call_id=call_id, seq=seq, total=total))
            if frame.end is not None:
                return


@contextlib.asynccontextmanager
async def raw_client(
    url: str, token: str, *, client_id: str = "", hello: bool = True
) -> AsyncIterator[RawClient]:
    """A connection to the gateway at `url`, greeted unless `hello` is False."""
    address = url.replace("http://", "ws://") + "/v1/connect"
    headers = {"Authorization": f"Bearer {token}"}
    websocket = await connect(
        address, additional_headers=headers, max_size=4 * MAX_FRAME, compression=None, proxy=None
    )
    try:
        client = RawClient(websocket, client_id or new_id("cl"))
        if hello:
            await client.hello()
        yield client
    finally:
        if websocket.close_code is None:
            await websocket.close()


def payload(value: object) -> Payload:
    """A value, pickled."""
    data = cloudpickle.dumps(value)
    return Payload(data=data, size=len(data))


def definition(function: Callable[..., Any], **spec: Any) -> Define:
    """A function that runs in containers of this environment."""
    code = payload(function)
    fields: dict[str, Any] = {"app": "raw", "name": function.__name__, "image": environment(), **spec}
    digest = blake3(code.data + repr(sorted(spec.items())).encode()).hexdigest()
    return Define(function_id=f"fu-{digest[:32]}", spec=FunctionSpec(**fields), code=code)


def environment() -> ImageSpec:
    """This interpreter's environment, roughly as `Image.from_environment` describes it."""
    folders = {sys.prefix, sys.base_prefix, sysconfig.get_path("purelib"), *site.getsitepackages()}
    return ImageSpec(
        kind="environment",
        machine=machine_id(),
        python=sys.executable,
        python_version=platform.python_version(),
        mounts=tuple(MountSpec(path=path) for path in sorted(folders) if os.path.isdir(path)),
        sys_path=(),
    )
