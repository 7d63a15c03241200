"""The Jupyter server that one user sees: jupyter_server's own handlers over that user's hosted kernels.

Who asks has been checked before any of it is reached (`jupyter_side`), so its own identity provider takes
every request to be the user's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment
from jupyter_server.auth.authorizer import AllowAllAuthorizer
from jupyter_server.auth.identity import IdentityProvider, User
from jupyter_server.base.handlers import APIHandler, APIVersionHandler
from jupyter_server.kernelspecs.handlers import default_handlers as resource_handlers
from jupyter_server.services.api.handlers import default_handlers as api_handlers
from jupyter_server.services.contents.handlers import ContentsHandler
from jupyter_server.services.contents.handlers import default_handlers as contents_handlers
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server.services.kernels.handlers import default_handlers as kernel_handlers
from jupyter_server.services.kernels.websocket import KernelWebsocketHandler
from jupyter_server.services.kernelspecs.handlers import default_handlers as spec_handlers
from jupyter_server.services.sessions.handlers import default_handlers as session_handlers
from tornado.web import Application, HTTPError, RequestHandler

from skylift.backend.settings import GatewaySettings
from skylift.kernel_gateway.hosted_kernels import KernelStarter
from skylift.kernel_gateway.jupyter_contents import ScratchContents
from skylift.kernel_gateway.jupyter_kernels import (
    HostedKernelManager,
    HostedSessions,
    HostedSpecs,
    register_provisioner,
)
from skylift.kernel_gateway.kernel_book import KernelRecord
from skylift.kernel_gateway.kernel_choices import CPU, KernelChoice

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of one message of a kernel's WebSocket: a widget may send a picture."""

_NEVER = 10**9

log = logging.getLogger(__name__)


class JupyterApplication(Application):
    """Of one user."""

    def __init__(
        self,
        user: str,
        base_url: str,
        starter: KernelStarter,
        choices: Callable[[], dict[str, KernelChoice]],
        settings: GatewaySettings,
        connections: Path,
    ) -> None:
        """`connections`: the folder for the connection files of running kernels."""
        register_provisioner()
        self._starter = starter
        specs = HostedSpecs(choices=choices)
        self.kernels: HostedKernelManager = HostedKernelManager(
            kernel_starter=starter,
            kernel_spec_manager=specs,
            connection_dir=str(connections),
            default_kernel_name=CPU,
            **_culling(settings, choices()),
        )
        contents = ScratchContents()
        sessions = HostedSessions(  # type: ignore[no-untyped-call]
            kernel_manager=self.kernels,
            contents_manager=contents,
            database_filepath=str(starter.book.sessions),
        )
        identity = KnownUser(user)
        super().__init__(
            _routes(base_url),
            default_handler_class=NotServed,
            log_function=lambda handler: None,
            base_url=base_url,
            kernel_manager=self.kernels,
            kernel_spec_manager=specs,
            session_manager=sessions,
            contents_manager=contents,
            identity_provider=identity,
            authorizer=AllowAllAuthorizer(identity_provider=identity),
            kernel_websocket_connection_class=ZMQChannelsWebsocketConnection,
            websocket_max_message_size=MAX_MESSAGE,
            jinja2_env=Environment(loader=DictLoader({"error.html": "{{ message }}"}), autoescape=True),
            # Which Host a request names says nothing here: nobody gets in without a token.
            allow_remote_access=True,
            headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"},
            started=datetime.now(timezone.utc),
            last_activity_times={},
            serverapp=None,
            config=None,
        )

    def last_activity(self) -> datetime:
        """Called for ``/api/status``."""
        latest: datetime = max(self.settings["started"], self.kernels.last_kernel_activity)
        return latest

    async def take_up(self) -> None:
        """The kernels that an earlier gateway had started for the user."""
        book = self._starter.book
        for kernel_id, record in book.kernels.items():
            taking = self._take_up(kernel_id, record)
            (failed,) = await asyncio.gather(taking, return_exceptions=True)
            if failed is not None:
                log.warning("Kernel %s is not taken up: %s", kernel_id, failed)
                book.drop(kernel_id)

    async def _take_up(self, kernel_id: str, record: KernelRecord) -> None:
        if kernel_id not in self.kernels:
            await self.kernels.take_up(kernel_id, record)

    async def close(self, *, end_kernels: bool) -> None:
        """End all kernels, or leave them to the next gateway."""
        self.kernels.let_go()
        if end_kernels:
            ids = self.kernels.list_kernel_ids()
            ending = [self.kernels.shutdown_kernel(each, now=True) for each in ids]  # type: ignore[no-untyped-call]
            for kernel_id, failed in zip(
                ids, await asyncio.gather(*ending, return_exceptions=True), strict=True
            ):
                if failed is not None:
                    log.error("Kernel %s could not be ended.", kernel_id, exc_info=failed)
        self.settings["session_manager"].close()


class KnownUser(IdentityProvider):
    """Every request that comes this far is this user's, and has shown a token."""

    def __init__(self, user: str) -> None:
        super().__init__(token="")
        self._user = User(user)

    def get_user(self, handler: Any) -> User:
        return self._user

    def is_token_authenticated(self, handler: Any) -> bool:
        return True

    def should_check_origin(self, handler: Any) -> bool:
        return False


class NotServed(APIHandler):
    """What of a Jupyter server is not here."""

    async def prepare(self) -> None:  # type: ignore[override]
        await super().prepare()
        raise HTTPError(404, "Of a Jupyter server, a Skylift gateway has the kernels only.")


class Channels(KernelWebsocketHandler):
    """A kernel's WebSocket; what is wrong with a handshake is said as JSON."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        APIHandler.write_error(self, status_code, **kwargs)  # type: ignore[arg-type]


def _routes(base_url: str) -> list[tuple[Any, ...]]:
    routes: list[tuple[Any, ...]] = [("/api/?", APIVersionHandler)]
    for handlers in (api_handlers, kernel_handlers, spec_handlers, session_handlers, resource_handlers):
        routes += [(each[0], _ours(each[1]), *each[2:]) for each in handlers]
    routes += [each for each in contents_handlers if each[1] is ContentsHandler]
    prefix = base_url.rstrip("/")
    return [(prefix + each[0], *each[1:]) for each in routes]


def _ours(handler: type[RequestHandler]) -> type[RequestHandler]:
    return Channels if handler is KernelWebsocketHandler else handler


def _culling(settings: GatewaySettings, choices: dict[str, KernelChoice]) -> dict[str, Any]:
    own = [each.settings.idle_timeout for each in choices.values() if each.settings.idle_timeout]
    usual = settings.kernel_idle_timeout
    shortest = min([*own, usual] if usual else own, default=0.0)
    if not shortest:
        return {}
    return {
        "cull_idle_timeout": max(1, round(usual)) if usual else _NEVER,
        "cull_interval": max(1, min(60, round(shortest / 4))),
        "cull_connected": settings.kernel_idle_connected,
    }
