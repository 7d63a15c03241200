"""The WebSocket of a notebook: its greeting, its frames, and how it is closed."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import msgspec
import pytest
import websockets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_client import RawClient, raw_client
from served_gateway import TOKEN, Served
from websockets.asyncio.client import connect

from skylift.kernel_gateway import client_socket
from skylift.wire import (
    MAX_FRAME,
    PROTOCOL,
    Accepted,
    CallStatus,
    Cancel,
    Consumed,
    Events,
    Hello,
    Inputs,
    Payload,
    Problem,
    Refused,
    Status,
    encode,
    new_id,
)

pytestmark = pytest.mark.anyio


async def refusal(client: RawClient) -> tuple[int, str, Problem]:
    """What a connection that is closed for a fault says: close code and reason, and the problem before."""
    refused = await client.expect(Refused)
    code, reason = await client.closed()
    return code, reason, refused.problem


# --- greeting ------------------------------------------------------------------------------------


async def test_a_client_is_welcomed(served: Served) -> None:
    async with served.client() as client:
        assert client.welcome is not None
        assert served.control.gateway_id == client.welcome.gateway_id
        port = await served.control.next("client connected")
        assert (client.client_id, "someone") == (port.client_id, port.user)
    assert port is await served.control.next("client disconnected")


async def test_another_protocol_is_named(served: Served) -> None:
    async with served.client(hello=False) as client:
        await client.send(Hello(protocol=PROTOCOL + 1, client_id=client.client_id))
        code, reason, problem = await refusal(client)
    assert 1002 == code
    assert "VersionError" == problem.error
    assert (
        f"protocol {PROTOCOL} is spoken here, not {PROTOCOL + 1}: upgrade Skylift where the gateway runs, "
        "and restart it there"
    ) == problem.message
    assert problem.message == reason


async def test_the_first_message_is_hello(served: Served) -> None:
    async with served.client(hello=False) as client:
        await client.send(Cancel(call_id="fc-00000000"))
        code, reason, _ = await refusal(client)
    assert (1002, "the first message must be Hello, not Cancel") == (code, reason)
    assert served.control.told.empty()


async def test_hello_comes_once(served: Served) -> None:
    async with served.client() as client:
        await client.send(Hello(protocol=PROTOCOL, client_id=client.client_id))
        code, reason, _ = await refusal(client)
    assert (1002, "Hello comes once in a connection") == (code, reason)


async def test_a_client_id_is_checked(served: Served) -> None:
    async with served.client(hello=False) as client:
        await client.send(Hello(protocol=PROTOCOL, client_id="../../etc"))
        code, reason, _ = await refusal(client)
    assert (1007, "malformed frame: not an id like cl-… - at `$.client_id`") == (code, reason)


async def test_who_says_nothing_is_let_go(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_socket, "HELLO_SECONDS", 0.05)
    async with served.client(hello=False) as client:
        code, reason, _ = await refusal(client)
    assert (1008, "no Hello within 0.05 seconds") == (code, reason)


async def test_a_newer_connection_of_a_client_takes_the_place_of_the_older(served: Served) -> None:
    async with served.client() as older:
        first = await served.control.next("client connected")
        async with served.client(client_id=older.client_id):
            assert first is await served.control.next("client disconnected")
            second = await served.control.next("client connected")
            assert (1008, "this client has a newer connection") == await older.closed()
            assert first is not second
        assert second is await served.control.next("client disconnected")
    assert served.control.told.empty()


# --- frames --------------------------------------------------------------------------------------


async def test_messages_come_as_they_were_sent(served: Served) -> None:
    messages = [Consumed(call_id=new_id("fc"), seq=number, total=number * 64) for number in range(500)]
    async with served.client() as client:
        await client.send(*messages)
        assert messages == [await served.control.next("client message") for _ in messages]


async def test_messages_go_out_in_order_whatever_their_size(served: Served) -> None:
    async with served.client() as client:
        port = await served.control.next("client connected")
        call_id = new_id("fc")
        sizes = [0, 100, 125, 126, 65_535, 65_536, 1_000_000, 3]
        sent = [Events(call_id=call_id, seq=seq, count=1, body=bytes(size)) for seq, size in enumerate(sizes)]
        for message in sent:
            port.send(message)
        port.send_encoded(encode(Accepted(call_id=call_id)))
        assert [*sent, Accepted(call_id=call_id)] == [await client.receive() for _ in range(len(sizes) + 1)]


async def test_a_message_in_fragments(served: Served) -> None:
    cancel = Cancel(call_id=new_id("fc"), reason="x" * 1000)
    frame = encode(cancel)
    async with served.client() as client:
        await client.websocket.send([frame[:10], frame[10:500], frame[500:]])
        assert cancel == await served.control.next("client message")


async def test_a_ping_is_answered(served: Served) -> None:
    async with served.client() as client:
        await asyncio.wait_for(await client.websocket.ping(), 10)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"t": "Hello", "protocol": "1", "client_id": "x"}, "Expected `int`, got `str` - at `$.protocol`"),
        ({"t": "Cancel"}, "Object missing required field `call_id`"),
        ({"t": "Nonsense"}, "Invalid value 'Nonsense' - at `$.t`"),
        ({"call_id": "fc-00000000"}, "Object missing required field `t`"),
        ([1, 2, 3], "Expected `object`, got `array`"),
        ({"t": "Cancel", "call_id": "fc", "mode": "kill"}, "Invalid enum value 'kill' - at `$.mode`"),
    ],
)
async def test_a_malformed_message_is_named_by_its_field(served: Served, message: Any, reason: str) -> None:
    async with served.client() as client:
        await client.websocket.send(msgspec.msgpack.encode(message))
        code, said, problem = await refusal(client)
    assert (1007, f"malformed frame: {reason}") == (code, said)
    assert ("InvalidError", said) == (problem.error, problem.message)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\x82\xa1t\xa6Inputs\xa5items\xdd\xff\xff\xff\xff",
        b"\x82\xa1t\xa6Cancel\xa7call_id\xa4\xff\xfe\xfd\xfc",
        b"\x91" * 100_000,
    ],
    ids=["empty", "reserved", "huge array", "huge tuple", "no UTF-8", "deep"],
)
async def test_garbage_closes_its_connection_alone(served: Served, frame: bytes) -> None:
    async with served.client() as bystander, served.client() as client:
        await client.websocket.send(frame)
        code, reason, _ = await refusal(client)
        assert 1007 == code
        assert reason.startswith("malformed frame: ")
        await bystander.send(Cancel(call_id="fc-00000000"))
        assert "fc-00000000" == (await served.control.next("client message")).call_id


async def test_an_oversized_frame_names_the_limit(served: Served) -> None:
    async with served.client() as bystander, served.client() as client:
        code, reason = await client.closed(bytes(MAX_FRAME + 1))
        assert 1009 == code
        assert str(MAX_FRAME) in reason
        await bystander.send(Cancel(call_id="fc-00000000"))
        assert "fc-00000000" == (await served.control.next("client message")).call_id


async def test_the_largest_frame_passes(served: Served) -> None:
    room = MAX_FRAME - len(
        encode(Inputs(call_id="fc-00000000", start=0, items=(Payload(data=b"x" * 70_000),)))
    )
    inputs = Inputs(call_id="fc-00000000", start=0, items=(Payload(data=bytes(room + 70_000)),))
    assert MAX_FRAME == len(encode(inputs))
    async with served.client() as client:
        await client.send(inputs)
        assert inputs == await served.control.next("client message")


async def test_fragments_cannot_add_up_to_more(served: Served) -> None:
    async with served.client() as client:
        assert 1009 == (await client.closed([bytes(MAX_FRAME // 2)] * 3))[0]


async def test_a_text_frame_is_refused(served: Served) -> None:
    async with served.client() as client:
        await client.websocket.send("hello")
        code, reason, _ = await refusal(client)
    assert (1003, "text frame: the messages of this link are binary") == (code, reason)


async def test_an_unmasked_frame_is_refused(served: Served) -> None:
    address = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(address[0], int(address[1]))
    writer.write(
        b"GET /v1/connect HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x82\x01x")
    head = await reader.readexactly(2)
    assert (0x88, 1002) == (head[0], struct.unpack(">H", await reader.readexactly(2))[0])
    assert b"" == (await reader.read())[head[1] - 2 :]
    writer.close()


async def test_a_fault_of_ours_closes_one_connection(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(port: Any, message: Any) -> None:
        if message.call_id == "fc-bad00000":
            raise ZeroDivisionError("a bug")

    served.control.on_client = fail
    async with served.client() as bystander, served.client() as client:
        await client.send(Cancel(call_id="fc-bad00000"))
        code, reason, problem = await refusal(client)
        assert (1011, "the gateway failed on a Cancel; gateway.log says more") == (code, reason)
        assert "InternalFailure" == problem.error
        await bystander.send(Cancel(call_id="fc-00000000"))
        while "fc-00000000" != (await served.control.next("client message")).call_id:
            pass
    assert "ZeroDivisionError: a bug" in caplog.text


async def test_any_bytes_leave_the_gateway_alive(served: Served) -> None:
    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=200))
    def feed(data: bytes) -> None:
        # Past the handshake, as raw bytes: broken WebSocket frames too.
        left, right = socket.socketpair()
        with left, right:
            right.setblocking(False)
            clients = served.application.clients
            connection = client_socket.ClientConnection(clients, "someone")
            connection.connection_made(_Discarding())
            connection.data_received(data)
            connection.connection_lost(None)

    feed()
    async with served.client():
        pass


class _Discarding(asyncio.Transport):
    """A transport whose other end takes everything."""

    def write(self, data: Any) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return False

    def abort(self) -> None:
        pass


# --- slow and silent clients ---------------------------------------------------------------------


async def test_a_client_that_does_not_read_is_disconnected(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_socket, "BACKLOG_LIMIT", 8 * 1024 * 1024)
    async with served.client() as client:
        port = await served.control.next("client connected")
        frame = encode(Events(call_id=new_id("fc"), seq=0, count=1, body=bytes(1024 * 1024)))
        client.websocket.transport.pause_reading()
        for _ in range(64):
            port.send_encoded(frame)
            await asyncio.sleep(0)
        assert port is await served.control.next("client disconnected")
        client.websocket.transport.resume_reading()
        code, reason = await client.closed()
    assert 1013 == code
    assert "too slow: over 8388608 bytes wait to be read; connect again to resume" == reason


async def test_nothing_is_read_from_a_client_that_does_not_read(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_socket, "PAUSE_ABOVE", 64 * 1024)
    async with served.client() as client:
        port = await served.control.next("client connected")
        client.websocket.transport.pause_reading()
        body = bytes(16 * 1024 * 1024)
        port.send(Events(call_id=new_id("fc"), seq=0, count=1, body=body))
        await asyncio.sleep(0)
        await client.send(Cancel(call_id="fc-00000000"))
        assert not port._transport.is_reading()
        assert served.control.told.empty()
        client.websocket.transport.resume_reading()
        assert body == (await client.expect(Events)).body
        assert "fc-00000000" == (await served.control.next("client message")).call_id


async def test_a_client_that_is_silent_is_taken_for_lost(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_socket, "PING_SECONDS", 0.05)
    async with served.client() as client:
        port = await served.control.next("client connected")
        client.websocket.transport.pause_reading()
        assert port is await served.control.next("client disconnected")
        client.websocket.transport.abort()


async def test_a_client_that_answers_pings_stays(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_socket, "PING_SECONDS", 0.02)
    async with served.client() as client:
        port = await served.control.next("client connected")
        pings = asyncio.get_running_loop().create_future()
        seen = 0
        ping = port._ping

        def count() -> None:
            nonlocal seen
            seen += 1
            ping()
            if seen == 10:
                pings.set_result(None)

        monkeypatch.setattr(port, "_ping", count)
        await asyncio.wait_for(pings, 10)
        await client.send(Cancel(call_id="fc-00000000"))
        assert "fc-00000000" == (await served.control.next("client message")).call_id


# --- ends ----------------------------------------------------------------------------------------


async def test_a_client_that_vanishes_is_noticed(served: Served) -> None:
    async with served.client() as client:
        port = await served.control.next("client connected")
        client.websocket.transport.abort()
        assert port is await served.control.next("client disconnected")


async def test_what_is_sent_to_a_closed_connection_is_dropped(served: Served) -> None:
    async with served.client():
        port = await served.control.next("client connected")
    await served.control.next("client disconnected")
    port.send(Status(status=CallStatus(call_id="fc-00000000", state="queued")))
    port.close(1001, "again")


async def test_a_stopping_gateway_says_so(served: Served) -> None:
    async with served.client() as client:
        port = await served.control.next("client connected")
        port.send(Accepted(call_id="fc-00000000"))
        served.application.clients.close_all("the gateway stops")
        assert "fc-00000000" == (await client.expect(Accepted)).call_id
        assert (1001, "the gateway stops") == await client.closed()


@pytest.mark.parametrize("served", [{"max_connections": 2}], indirect=True)
async def test_connections_have_a_limit(served: Served) -> None:
    async with served.client(), served.client():
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with served.client():
                pass
        assert 503 == refused.value.response.status_code
        assert b"max_connections" in (refused.value.response.body or b"")
    for _ in range(2):
        await served.control.next("client disconnected")
    async with served.client():
        pass


# --- handshake -----------------------------------------------------------------------------------


async def test_a_browser_sends_the_token_as_a_subprotocol(served: Served) -> None:
    address = served.url.replace("http://", "ws://") + "/v1/connect"
    protocols = ["skylift.v1", f"skylift.token.{TOKEN}"]
    async with connect(address, subprotocols=protocols, origin=served.url, proxy=None) as websocket:  # type: ignore[arg-type]
        assert "skylift.v1" == websocket.subprotocol
        await websocket.send(encode(Hello(protocol=PROTOCOL, client_id=new_id("cl"))))
        await websocket.recv()


async def test_compression_is_not_negotiated(served: Served) -> None:
    address = served.url.replace("http://", "ws://") + "/v1/connect"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with connect(address, additional_headers=headers, compression="deflate", proxy=None) as websocket:
        assert "Sec-WebSocket-Extensions" not in websocket.response.headers  # type: ignore[union-attr]


async def test_a_wrong_token_is_told_what_to_do(served: Served) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with raw_client(served.url, "wrong"):
            pass
    assert 401 == refused.value.response.status_code
    problem = msgspec.json.decode(refused.value.response.body or b"", type=Problem)
    assert "AuthError" == problem.error
    assert "The gateway does not know this token" in problem.message
    assert str(served.home / "token") in problem.message
