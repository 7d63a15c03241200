"""What is wrong at the gateway's door, against the real process: it says so and lives."""

from __future__ import annotations

import pickle

import msgspec
import pytest
import websockets
from raw_client import RawClient, raw_client
from running_gateway import RunningGateway
from websockets.asyncio.client import connect

from skylift.exceptions import AuthError
from skylift.wire import MAX_FRAME, Refused

pytestmark = pytest.mark.anyio


async def works(gateway: RunningGateway) -> bool:
    """Whether a call runs, as if nothing had happened."""

    def double(number: int) -> int:
        return 2 * number

    async with raw_client(gateway.url, gateway.token) as client:
        call_id = await client.submit(double, 21)
        return [42] == [pickle.loads(event.data) async for event in client.events(call_id)]


async def refused(client: RawClient, frame: bytes) -> tuple[int, str]:
    code, reason = await client.closed(frame)
    return code, reason


async def test_frames_that_are_none(gateway: RunningGateway) -> None:
    async with raw_client(gateway.url, gateway.token) as client:
        code, reason = await client.closed(bytes(MAX_FRAME + 1))
        assert (1009, True) == (code, str(MAX_FRAME) in reason)
    async with raw_client(gateway.url, gateway.token) as client:
        await client.websocket.send(msgspec.msgpack.encode({"t": "Consumed", "call_id": "fc", "seq": "x"}))
        problem = (await client.expect(Refused)).problem
        assert "malformed frame: Expected `int`, got `str` - at `$.seq`" == problem.message
        assert (1007, problem.message) == await client.closed()
    assert await works(gateway)


async def test_tokens_and_origins_that_are_wrong(gateway: RunningGateway) -> None:
    for token in ("", "wrong", gateway.token[:-1]):
        with pytest.raises(websockets.InvalidStatus) as answer:
            async with raw_client(gateway.url, token):
                pass
        assert 401 == answer.value.response.status_code
    headers = {"Authorization": f"Bearer {gateway.token}"}
    with pytest.raises(websockets.InvalidStatus) as answer:
        async with connect(
            gateway.url.replace("http", "ws") + "/v1/connect",
            additional_headers=headers,
            origin="https://evil.example",  # type: ignore[arg-type]
            proxy=None,
        ):
            pass
    assert 403 == answer.value.response.status_code
    assert b"add the origin to `origins`" in (answer.value.response.body or b"")
    assert await works(gateway)


def test_the_sdk_says_what_to_do_about_a_token(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skylift import App

    monkeypatch.setenv("SKYLIFT_TOKEN", "wrong")
    app = App("token")

    @app.function()
    def double(number: int) -> int:
        return 2 * number

    with pytest.raises(AuthError, match="does not know this token") as refused, app.run():
        double.remote(1)
    assert str(gateway.home / "token") in str(refused.value)
