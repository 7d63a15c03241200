"""The control plane: what the gateway's links and REST handlers speak to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from skylift.backend.database import Database
from skylift.backend.engines.base import Engine
from skylift.backend.settings import Settings
from skylift.backend.views import (
    CallDetail,
    CallFilter,
    CallPage,
    ContainerView,
    HostView,
    OutputPage,
    SessionView,
    Spend,
    SpendBy,
)
from skylift.lazyfs.store import Store

from skylift.wire import (
    CancelMode,
    ClientMessage,
    GatewayMessage,
    Hello,
    HostCommand,
    HostHello,
    HostMessage,
)


class ClientPort(Protocol):
    """A client's connection, as the gateway's WebSocket handler offers it. `send` never blocks or raises."""

    client_id: str
    user: str

    def send(self, message: GatewayMessage) -> None:
        """Encode and send a message."""

    def send_encoded(self, frame: bytes) -> None:
        """Send a message that is encoded already."""


class HostPort(Protocol):
    """A host's link, as the gateway's socket server offers it. `send` never blocks or raises."""

    def send(self, message: HostCommand) -> None:
        """Encode and send a message."""

    def close(self, reason: str) -> None:
        """Close the link; the host dials again."""


class ControlPlane:
    """Takes in what clients and hosts say, and decides. All methods are called on one event loop."""

    gateway_id: str

    def __init__(
        self, settings: Settings, database: Database, store: Store, engines: Sequence[Engine]
    ) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        """Open the database, take up what was unfinished, start the engines.

        Call it before listening. Raises `DatabaseError` when the database cannot be opened.
        """
        raise NotImplementedError

    async def stop(self, end_hosts: bool) -> None:
        """Write what is still to be written, stop the engines and close the database. With `end_hosts`, hosts
        and their containers end too; without, they go on and wait for the next gateway."""
        raise NotImplementedError

    def authenticate(self, token: str) -> str | None:
        """The user whose token this is, or None."""
        raise NotImplementedError

    # --- clients ---------------------------------------------------------------------------------

    def client_connected(self, port: ClientPort, hello: Hello) -> None:
        """A client with a valid token and our protocol number is there. Sends `Welcome`."""
        raise NotImplementedError

    def client_message(self, port: ClientPort, message: ClientMessage) -> None:
        """Never raises for bad input: answers `Refused`."""
        raise NotImplementedError

    def client_disconnected(self, port: ClientPort) -> None:
        """The connection is gone; its calls wait for `client_grace` seconds for it to come back."""
        raise NotImplementedError

    # --- hosts -----------------------------------------------------------------------------------

    def host_connected(self, port: HostPort, hello: HostHello) -> None:
        """A host has said hello. Sends `HostWelcome`.

        Raises `PermissionError` on a wrong token or protocol.
        """
        raise NotImplementedError

    def host_message(self, port: HostPort, message: HostMessage, frame: bytes = b"") -> None:
        """A message of a host that was welcomed.

        `frame`: the bytes that an `Events` message was decoded from; it is the same on the client's link, so
        with it the message need not be encoded again.
        """
        raise NotImplementedError

    def host_disconnected(self, port: HostPort) -> None:
        """The link is gone; its calls wait for `host_grace` seconds for it to come back."""
        raise NotImplementedError

    # --- REST: what there is, for one user ---------------------------------------------------------

    async def calls(self, user: str, which: CallFilter, before: str = "", limit: int = 100) -> CallPage:
        """Calls, newest first. `before`: `CallPage.next` of the page before. `limit`: 1 to 1000."""
        raise NotImplementedError

    async def call(self, user: str, call_id: str) -> CallDetail | None:
        """One call, or None where the user has no such call."""
        raise NotImplementedError

    async def output(
        self, user: str, call_id: str, from_seq: int = 0, limit: int = 1000
    ) -> OutputPage | None:
        """A call's output from an event on, or None where the user has no such call."""
        raise NotImplementedError

    async def containers(
        self, user: str, running: bool = True, limit: int = 100
    ) -> tuple[ContainerView, ...]:
        """Containers, newest first; with `running` only those that are up."""
        raise NotImplementedError

    def sessions(self, user: str) -> tuple[SessionView, ...]:
        """Sessions that are up or waited for."""
        raise NotImplementedError

    def hosts(self) -> tuple[HostView, ...]:
        """The machines, their GPUs and who uses them."""
        raise NotImplementedError

    async def spend(self, user: str, by: SpendBy = "day", days: int = 30) -> Spend:
        """What containers cost in the last days, today included."""
        raise NotImplementedError

    # --- REST: what can be done --------------------------------------------------------------------

    def cancel_call(self, user: str, call_id: str, mode: CancelMode = "cancel", reason: str = "") -> bool:
        """Cancel a call as `Cancel` does. False where the user has no such unfinished call."""
        raise NotImplementedError

    def stop_session(self, user: str, session_id: str) -> bool:
        """End a session's container. False where the user has no such session."""
        raise NotImplementedError

    def stop_container(self, user: str, container_id: str) -> bool:
        """End a container: its calls fail. False where the user has no such container."""
        raise NotImplementedError
