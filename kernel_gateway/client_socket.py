"""A notebook's WebSocket, after its handshake: one `asyncio.Protocol` around websockets' Sans-I/O protocol.

Every call of a kernel goes through here, so a message costs no task, no future and no lock: bytes in, struct
out, and back. Why it is not Tornado's `WebSocketHandler`: docs/adr/0010-websocket-without-tasks.md.

A connection that is closed for a fault gets a `Refused` first, with a `Problem` that says it all; the close
frame has a short form of it. The close codes, so that a client knows whether to come back:

====  =====================================================================  ===========
code  when                                                                   come back?
====  =====================================================================  ===========
1001  the gateway stops                                                      yes
1002  protocol broken: another version, `Hello` missing or repeated          no
1003  a text frame                                                           no
1007  a frame that is no message of ours; the reason names the field         no
1008  nothing said for `HELLO_SECONDS`                                       yes
1008  the client has a newer connection, or was in a container that ended    no
1009  a frame over `MAX_FRAME`                                               no
1011  a fault of the gateway, which is in its log                            yes
1013  more than `BACKLOG_LIMIT` bytes wait for a client that does not read   yes
====  =====================================================================  ===========
"""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import msgspec
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from skylift.backend.control import ControlPlane
from skylift.kernel_gateway.outbox import Outbox
from skylift.wire import (
    MAX_FRAME,
    PROTOCOL,
    ClientMessage,
    GatewayMessage,
    Hello,
    Problem,
    Refused,
    decode_client_message,
    encode,
    is_id,
)

HELLO_SECONDS = 10.0
"""A connection that has not said `Hello` by then is closed."""

PING_SECONDS = 20.0
"""Between two pings. After three without a sign of life the connection is taken for lost."""

CLOSE_SECONDS = 5.0
"""A client that was told to close has so long to do it."""

PAUSE_ABOVE = 4 * 1024 * 1024
"""Bytes. While more wait to be written to a client, nothing more is read from it."""

BACKLOG_LIMIT = 64 * 1024 * 1024
"""Bytes. A client for which more are waiting is disconnected; it resumes from the log when it comes back."""

_REASON_LIMIT = 123
"""Bytes that fit into a close frame beside the code."""

log = logging.getLogger(__name__)


class Clients:
    """The open connections of a gateway, by the client that they belong to."""

    def __init__(self, control: ControlPlane, outbox: Outbox, limit: int) -> None:
        self.control = control
        self.outbox = outbox
        self._limit = limit
        self._connections: set[ClientConnection] = set()
        self._by_client: dict[tuple[str, str], ClientConnection] = {}

    def full(self) -> bool:
        """Whether there are as many connections as are allowed."""
        return len(self._connections) >= self._limit

    def opened(self, connection: ClientConnection) -> None:
        """Called by a connection when it has its transport."""
        self._connections.add(connection)

    def greeted(self, connection: ClientConnection, hello: Hello) -> None:
        """Called by a connection that has said `Hello`: it takes the place of an older one of its client."""
        older = self._by_client.get((connection.user, connection.client_id))
        if older is not None:
            self.lost(older)
            older.close(1008, "this client has a newer connection")
        self._by_client[connection.user, connection.client_id] = connection
        self.control.client_connected(connection, hello)

    def lost(self, connection: ClientConnection) -> None:
        """Called by a connection that is over; a second time does nothing."""
        self._connections.discard(connection)
        key = (connection.user, connection.client_id)
        if self._by_client.get(key) is connection:
            del self._by_client[key]
            self.control.client_disconnected(connection)

    def close_all(self, reason: str) -> None:
        """Tell every client that the gateway goes away. They may come back."""
        for connection in tuple(self._connections):
            connection.close(1001, reason)


class ClientConnection(asyncio.Protocol):
    """One client's connection; towards the control plane, its `ClientPort`."""

    def __init__(self, clients: Clients, user: str, container_id: str = "") -> None:
        self.user = user
        self.container_id = container_id
        self.client_id = ""
        self._clients = clients
        self._control = clients.control
        self._outbox = clients.outbox
        self._loop = asyncio.get_running_loop()
        self._websocket = Protocol(Side.SERVER, max_size=MAX_FRAME, logger=_QUIET)
        self._parts: list[bytes] = []
        self._dirty = False
        self._heard = True
        self._silent = 0
        self._waiting = 0

    # --- the control plane's side ------------------------------------------------------------------

    def send(self, message: GatewayMessage) -> None:
        """See `ClientPort.send`."""
        self.send_encoded(encode(message))

    def send_encoded(self, frame: bytes) -> None:
        """See `ClientPort.send_encoded`."""
        if self._websocket.state is State.OPEN:
            self._websocket.send_binary(frame)
            if not self._dirty:
                self._dirty = True
                self._outbox.add(self)

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, and let go of the socket when the client has answered or `CLOSE_SECONDS` are
        over. What was sent before still arrives; nothing more is read."""
        if self._websocket.state is State.OPEN:
            self._websocket.fail(code, reason.encode()[:_REASON_LIMIT].decode(errors="ignore"))
            self.flush()

    def _refuse(self, code: int, error: str, message: str) -> None:
        self.send(Refused(problem=Problem(error=error, message=message)))
        self.close(code, message)

    # --- the transport's side ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio, once."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=PAUSE_ABOVE)
        self._clients.opened(self)
        self._timer = self._loop.call_later(HELLO_SECONDS, self._hello_overdue)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio with what one read brought: part of a frame, or many."""
        self._heard = True
        websocket = self._websocket
        websocket.receive_data(data)
        answered = False
        with self._outbox:
            for frame in cast("list[Frame]", websocket.events_received()):
                opcode = frame.opcode
                if websocket.state is not State.OPEN and opcode is not Opcode.CLOSE:
                    break
                if opcode is Opcode.BINARY and frame.fin:
                    self._take(bytes(frame.data))
                elif opcode is Opcode.BINARY or opcode is Opcode.CONT:
                    self._take_part(frame)
                elif opcode is Opcode.TEXT:
                    self._refuse(1003, "InvalidError", "text frame: the messages of this link are binary")
                else:
                    answered = True
            if answered or websocket.state is not State.OPEN:
                # Pongs and close frames are websockets' own answers: no `send` has announced them.
                self.flush()

    def eof_received(self) -> bool:
        """Called by asyncio when the client has closed its side."""
        self._websocket.receive_eof()
        self.flush()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio, last."""
        self._timer.cancel()
        if self._websocket.state is State.OPEN:
            self._websocket.receive_eof()
        self._clients.lost(self)

    def pause_writing(self) -> None:
        """Called by asyncio when more than `PAUSE_ABOVE` wait to be written."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Called by asyncio when that has drained."""
        self._transport.resume_reading()

    def flush(self) -> None:
        """See `Buffered.flush`."""
        self._dirty = False
        pieces = self._websocket.data_to_send()
        if not pieces or self._transport.is_closing():
            return
        if len(pieces) == 1 and pieces[0]:
            self._transport.write(pieces[0])
        else:
            self._transport.writelines([piece for piece in pieces if piece])
        if self._websocket.state is not State.OPEN:
            self._let_go()
        elif self._transport.get_write_buffer_size() > BACKLOG_LIMIT:
            self.close(1013, f"too slow: over {BACKLOG_LIMIT} bytes wait to be read; connect again to resume")

    # --- messages ----------------------------------------------------------------------------------

    def _take_part(self, frame: Frame) -> None:
        self._parts.append(bytes(frame.data))
        if frame.fin:
            parts, self._parts = self._parts, []
            self._take(b"".join(parts))

    def _take(self, frame: bytes) -> None:
        try:
            message = decode_client_message(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._refuse(1007, "InvalidError", f"malformed frame: {error}")
            return
        try:
            if self.client_id and type(message) is not Hello:
                self._control.client_message(self, message)
            else:
                self._greet(message)
        except Exception:
            log.exception("A %s of client %s failed.", type(message).__name__, self.client_id)
            name = type(message).__name__
            self._refuse(1011, "InternalFailure", f"the gateway failed on a {name}; gateway.log says more")

    def _greet(self, message: ClientMessage) -> None:
        name = type(message).__name__
        if self.client_id:
            self._refuse(1002, "InvalidError", "Hello comes once in a connection")
        elif not isinstance(message, Hello):
            self._refuse(1002, "InvalidError", f"the first message must be Hello, not {name}")
        elif message.protocol != PROTOCOL:
            older = "where the notebook runs" if message.protocol < PROTOCOL else "where the gateway runs"
            self._refuse(
                1002,
                "VersionError",
                f"protocol {PROTOCOL} is spoken here, not {message.protocol}: upgrade Skylift {older}, "
                "and restart it there",
            )
        elif not is_id(message.client_id, "cl"):
            self._refuse(1007, "InvalidError", "malformed frame: not an id like cl-… - at `$.client_id`")
        else:
            self._timer.cancel()
            self._timer = self._loop.call_later(PING_SECONDS, self._ping)
            self.client_id = message.client_id
            self._clients.greeted(self, message)

    # --- time --------------------------------------------------------------------------------------

    def _hello_overdue(self) -> None:
        self._refuse(1008, "InvalidError", f"no Hello within {HELLO_SECONDS:g} seconds")

    def _ping(self) -> None:
        waiting = self._transport.get_write_buffer_size()
        self._silent = 0 if self._heard or waiting < self._waiting else self._silent + 1
        if self._silent == 3:
            self._transport.abort()
            return
        self._heard, self._waiting = False, waiting
        self._timer = self._loop.call_later(PING_SECONDS, self._ping)
        if self._websocket.state is State.OPEN:
            self._websocket.send_ping(b"")
            self.flush()

    def _let_go(self) -> None:
        self._timer.cancel()
        self._clients.lost(self)
        # The client reads the close frame only if the socket is not closed over what it has still sent.
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._timer = self._loop.call_later(CLOSE_SECONDS, self._transport.abort)


_QUIET = logging.getLogger(f"{__name__}.protocol")
_QUIET.setLevel(logging.CRITICAL)
