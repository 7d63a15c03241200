"""``/v1/live``: the live feed for whoever looks at it, as JSON in text frames. See docs/live.md.

Nothing of a call goes through here, so it is Tornado's own WebSocket. One task a connection writes: it takes
a frame of a watch when the one before has left for the network, so a slow reader holds up nobody.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from skylift.backend.control import VERSION
from skylift.backend.live_watches import UnwatchRequest, Watch, WatchRequest
from skylift.kernel_gateway.auth import SUBPROTOCOL
from skylift.kernel_gateway.handler import Handler, RequestError
from skylift.wire import Problem

FRAME_LIMIT = 16 * 1024
"""Bytes of a frame that comes in."""

WATCH_LIMIT = 256
"""Watches of a connection."""

_ID_LIMIT = 128
_SLOW_SECONDS = 60.0
"""That a frame may take to leave; then the reader is taken for lost."""
_PING_SECONDS = 20.0

log = logging.getLogger(__name__)


class LiveSockets:
    """The open connections."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[LiveHandler] = set()

    def full(self) -> bool:
        """Whether there are as many as are allowed."""
        return len(self._open) >= self._limit

    def opened(self, connection: LiveHandler) -> None:
        """Called by a connection at its start."""
        self._open.add(connection)

    def closed(self, connection: LiveHandler) -> None:
        """Called by a connection at its end."""
        self._open.discard(connection)

    def close_all(self, reason: str) -> None:
        """The gateway goes away."""
        for connection in tuple(self._open):
            connection.close(1001, reason)


class LiveHandler(WebSocketHandler, Handler):
    """One connection; towards the feed, its `LivePort`."""

    body_limit = 0

    @property
    def max_message_size(self) -> int:
        """See `FRAME_LIMIT`."""
        return FRAME_LIMIT

    @property
    def ping_interval(self) -> float:
        """Seconds."""
        return _PING_SECONDS

    def check_origin(self, origin: str) -> bool:
        """Called by Tornado; `Handler.prepare` has looked at it."""
        return True

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """A browser sends its token in one of these, and wants the other confirmed."""
        return SUBPROTOCOL if SUBPROTOCOL in subprotocols else None

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """The handshake."""
        if self.gateway.live.full():
            raise RequestError(
                503,
                "The gateway has as many connections for its live feed as it may have. Close pages that are "
                "not needed, or raise max_connections in [gateway] of config.toml.",
            )
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            raise RequestError(426, f"{self.request.path} is a WebSocket.", Upgrade="websocket")
        await super().get(*args, **kwargs)

    def open(self, *_args: str, **_kwargs: str) -> None:
        """Called by Tornado after the handshake."""
        self._feed = self.gateway.control.live
        self._watches: dict[str, Watch] = {}
        self._waiting: dict[Watch, None] = {}
        self._news = asyncio.Event()
        self.gateway.live.opened(self)
        self._writer = asyncio.get_running_loop().create_task(self._write_all())

    def on_message(self, message: str | bytes) -> None:
        """Called by Tornado with each frame."""
        if isinstance(message, bytes):
            self._refuse("the frames of this link are text")
            return
        try:
            request = _decode(message)
        except (msgspec.DecodeError, RecursionError) as error:
            self._refuse(f"malformed frame: {error}")
            return
        older = self._watches.pop(request.id, None)
        if older is not None:
            self._forget(older)
        if isinstance(request, UnwatchRequest):
            return
        if len(request.id) > _ID_LIMIT or len(self._watches) >= WATCH_LIMIT:
            self._refuse(
                f"a connection has at most {WATCH_LIMIT} watches, with ids of {_ID_LIMIT} characters"
            )
            return
        self._watches[request.id] = self._feed.watch(self, request)

    def on_close(self) -> None:
        """Called by Tornado, once."""
        self.gateway.live.closed(self)
        self._writer.cancel()
        for watch in self._watches.values():
            self._feed.unwatch(watch)
        self._watches.clear()
        self._waiting.clear()

    # --- the feed's side ---------------------------------------------------------------------------

    def ready(self, watch: Watch) -> None:
        """See `LivePort.ready`."""
        self._waiting[watch] = None
        self._news.set()

    # --- how it is done ----------------------------------------------------------------------------

    def _refuse(self, why: str) -> None:
        if len(self._waiting) > 2 * WATCH_LIMIT:
            self._abort()  # it does not read what is wrong with what it sends
            return
        refused = Watch(self, "")
        refused.fail(Problem(error="InvalidError", message=why))

    def _forget(self, watch: Watch) -> None:
        self._feed.unwatch(watch)
        self._waiting.pop(watch, None)

    async def _write_all(self) -> None:
        try:
            control = self.gateway.control
            hello = {"type": "hello", "gateway_id": control.gateway_id, "version": VERSION}
            await self._write(msgspec.json.encode(hello))
            while True:
                await self._news.wait()
                self._news.clear()
                while self._waiting:
                    watch = next(iter(self._waiting))
                    del self._waiting[watch]
                    frame = watch.take()
                    if frame is not None:
                        await self._write(frame)
                    if watch.over:
                        self._feed.unwatch(watch)
                        if self._watches.get(watch.watch_id) is watch:
                            del self._watches[watch.watch_id]
                    elif watch.more() and self._watches.get(watch.watch_id) is watch:
                        self._waiting[watch] = None
        except (WebSocketClosedError, StreamClosedError):
            pass
        except asyncio.TimeoutError:
            log.warning("Somebody who watches has read nothing for %g s: let go of.", _SLOW_SECONDS)
            self._abort()
        except Exception:
            log.exception("The live feed of %s failed", self.user)
            self.close(1011, "the gateway failed; gateway.log says more")

    async def _write(self, frame: bytes) -> None:
        await asyncio.wait_for(self.write_message(frame.decode()), _SLOW_SECONDS)

    def _abort(self) -> None:
        if self.ws_connection is not None and self.ws_connection.stream is not None:
            self.ws_connection.stream.close()


_decode = msgspec.json.Decoder(WatchRequest | UnwatchRequest).decode
