"""What a container's ``/etc/resolv.conf`` says."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

import msgspec

RESOLV_CONF = Path("/etc/resolv.conf")
SYSTEMD_RESOLV_CONF = Path("/run/systemd/resolve/resolv.conf")
"""The servers behind systemd-resolved's own, which listens on a loopback that no container reaches."""

PUBLIC_SERVERS = ("1.1.1.1", "8.8.8.8")
"""Taken only where the machine's resolver is reachable from the machine alone, as other container engines
do."""


class NameServers(msgspec.Struct, frozen=True, kw_only=True):
    """Name servers for containers and where they are from."""

    servers: tuple[str, ...]
    rest: tuple[str, ...] = ()
    """Lines such as ``search example.org`` and ``options ndots:2``."""
    public: bool = False
    """Whether they are `PUBLIC_SERVERS`, for want of others."""

    def resolv_conf(self) -> str:
        """The file."""
        return "".join(f"{line}\n" for line in (*(f"nameserver {each}" for each in self.servers), *self.rest))


def name_servers(
    configured: Sequence[str] = (),
    resolv_conf: Path = RESOLV_CONF,
    systemd_resolv_conf: Path = SYSTEMD_RESOLV_CONF,
) -> NameServers:
    """The servers that are configured, else the machine's own that are not on its loopback."""
    if configured:
        return NameServers(servers=tuple(configured))
    rest: tuple[str, ...] = ()
    for path in (resolv_conf, systemd_resolv_conf):
        servers, lines = _read(path)
        rest = rest or lines
        if servers:
            return NameServers(servers=servers, rest=rest)
    return NameServers(servers=PUBLIC_SERVERS, rest=rest, public=True)


def _read(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return (), ()
    servers, rest = [], []
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver" and not _loopback(words[1]):
            servers.append(words[1])
        elif words and words[0] in ("search", "domain", "options"):
            rest.append(" ".join(words))
    return tuple(servers), tuple(rest)


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return True
