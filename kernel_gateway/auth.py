"""Who may speak to the gateway: the bearer token, and the origin of a page in a browser."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from tornado.httputil import HTTPHeaders

SUBPROTOCOL = "skylift.v1"
"""What a browser's WebSocket asks for beside its token; the gateway selects it."""

TOKEN_SUBPROTOCOL = "skylift.token."  # noqa: S105
"""``new WebSocket(url, ["skylift.v1", "skylift.token.<token>"])``: a browser cannot set headers there."""


def bearer_token(headers: HTTPHeaders) -> str:
    """The token of a request, from its ``Authorization`` header or a WebSocket's subprotocols; "" if none."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    for offered in headers.get("Sec-WebSocket-Protocol", "").split(","):
        if offered.strip().startswith(TOKEN_SUBPROTOCOL):
            return offered.strip()[len(TOKEN_SUBPROTOCOL) :]
    return ""


def own_origins(host: str, port: int) -> frozenset[str]:
    """The origins of pages that a gateway listening there would serve itself."""
    names = {host}
    if is_loopback(host):
        names |= {"localhost", "127.0.0.1", "[::1]"}
    return frozenset(f"http://{name}:{port}" for name in names)


def origin_allowed(headers: HTTPHeaders, allowed: Iterable[str]) -> bool:
    """Whether the request comes from no page (only browsers send an origin), or from one that is allowed."""
    origins = headers.get_list("Origin")
    if not origins:
        return headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
    return len(origins) == 1 and origins[0].rstrip("/").lower() in {
        origin.rstrip("/").lower() for origin in allowed
    }


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
