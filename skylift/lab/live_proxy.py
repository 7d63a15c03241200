"""``skylift/live``: the gateway's live feed for the page. It stays while the gateway is away, and says so."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from jupyter_server.auth.decorator import ws_authenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError, WebSocketHandler
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from skylift import exceptions
from skylift.gateway_process import Gateway
from skylift.lab.gateway_link import GatewayLink, away, sentence
from skylift.lab.handler import SETTING

FRAME_LIMIT = 16 * 1024
"""Bytes of a frame from the page, as the gateway takes them."""
_LARGEST = 64 * 1024 * 1024
"""Of a frame of the gateway."""
_FIRST_PAUSE = 0.25
_PAUSE_HERE = 1.0
_PAUSE_ELSEWHERE = 5.0
_DIAL_SECONDS = 10.0


class LiveProxy(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """One page's connection."""

    @property
    def max_message_size(self) -> int:
        """See `FRAME_LIMIT`."""
        return FRAME_LIMIT

    @ws_authenticated
    async def get(self, *args: Any, **kwargs: Any) -> None:
        """The handshake."""
        await super().get(*args, **kwargs)

    def open(self, *args: Any, **kwargs: Any) -> None:
        """Called by Tornado after the handshake."""
        super().open(*args, **kwargs)
        self._link: GatewayLink = self.settings[SETTING].link
        self._gateway: ClientConnection | None = None
        self._told: tuple[str, str] | None = None
        self._task = asyncio.get_running_loop().create_task(self._stay_connected())

    async def on_message(self, message: str | bytes) -> None:
        """Called by Tornado: to the gateway. While that is away it is dropped: the page says it again."""
        gateway = self._gateway
        if gateway is not None:
            with contextlib.suppress(ConnectionClosed):
                await gateway.send(message)

    def on_close(self) -> None:
        """Called by Tornado, once."""
        super().on_close()
        if hasattr(self, "_task"):
            self._task.cancel()

    # --- how it is done ----------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        pause = 0.0
        try:
            while True:
                problem, was_connected = await self._connect_once()
                await self._tell("away", problem)
                most = _PAUSE_HERE if self._link.is_here() else _PAUSE_ELSEWHERE
                pause = _FIRST_PAUSE if was_connected or not pause else min(most, 2 * pause)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._link.started.wait(), pause)
        except (WebSocketClosedError, StreamClosedError):
            pass  # the page is gone
        except Exception:
            self.log.exception("Skylift's live feed failed")
            self.close(1011, "the Jupyter server's log says more")

    async def _connect_once(self) -> tuple[str, bool]:
        """Connect, and pass on what comes until that ends: why it did, and whether there was a connection."""
        try:
            gateway = await self._link.run(self._link.find)
        except exceptions.Error as error:
            return sentence(error), False
        connected = False
        try:
            async with _dial(gateway) as connection:
                connected = True
                self._gateway = connection
                await self._tell("connected", "")
                async for frame in connection:
                    await self.write_message(frame)
            return f"The gateway at {gateway.url} has stopped.", True
        except InvalidStatus as error:
            return _refused(gateway, error), False
        except ConnectionClosed as error:
            return f"The connection to the gateway at {gateway.url} is lost ({error}).", True
        except (OSError, InvalidHandshake, TimeoutError, asyncio.TimeoutError) as error:
            return away(gateway, error), connected
        finally:
            self._gateway = None

    async def _tell(self, state: str, problem: str) -> None:
        if self._told != (state, problem):
            self._told = (state, problem)
            await self.write_message(json.dumps({"type": "gateway", "state": state, "problem": problem}))


def _dial(gateway: Gateway) -> connect:
    scheme, _, rest = gateway.url.partition("://")
    return connect(
        f"{'wss' if scheme == 'https' else 'ws'}://{rest}/v1/live",
        additional_headers={"Authorization": f"Bearer {gateway.token}"},
        compression=None if gateway.home is not None else "deflate",
        max_size=_LARGEST,
        open_timeout=_DIAL_SECONDS,
        proxy=None if gateway.home is not None else True,
    )


def _refused(gateway: Gateway, error: InvalidStatus) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(error.response.body or b"")["message"])
    return f"The gateway at {gateway.url} refuses its live feed ({error.response.status_code})."
