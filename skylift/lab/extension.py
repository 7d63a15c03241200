"""Puts the extension's routes into a Jupyter server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_server.utils import url_path_join

from skylift.gateway_process import skylift_home
from skylift.lab.gateway_link import GatewayLink
from skylift.lab.handler import SETTING, Parts
from skylift.lab.live_proxy import LiveProxy
from skylift.lab.proxy import FileHandler, RestProxy, StartHandler, StatusHandler
from skylift.lab.upload_handlers import FinishHandler, UploadHandler, UploadsHandler
from skylift.lab.upload_spool import UploadSpool

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

_ID = r"([0-9a-f]{32})"


def load(server: ServerApp) -> None:
    """Add the routes below ``{base_url}skylift/``."""
    link = GatewayLink()
    settings = server.web_app.settings
    settings[SETTING] = Parts(link, UploadSpool(skylift_home() / "uploads", link))
    routes = [
        ("status", StatusHandler),
        ("start", StartHandler),
        ("live", LiveProxy),
        ("uploads", UploadsHandler),
        (f"uploads/{_ID}", UploadHandler),
        (f"uploads/{_ID}/finish", FinishHandler),
        (r"files/([^/]+)", FileHandler),
        (r"(v1/.*)", RestProxy),
    ]
    base = url_path_join(settings["base_url"], "skylift")
    rules = [(url_path_join(base, path), handler) for path, handler in routes]
    server.web_app.add_handlers(".*$", rules)  # type: ignore[no-untyped-call]
