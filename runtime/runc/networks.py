"""How containers reach the outside: the interface, and which kind this machine gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

from skylift.runtime.runc.commands import CommandError
from skylift.runtime.runc.namespaces import NamespacesOf
from skylift.runtime.settings import HostSettings

NetworkName = Literal["bridge", "user", "none"]


class Attachment(ABC):
    """One container's network."""

    address: str
    """Its IPv4 address, for ``/etc/hosts``."""

    @abstractmethod
    async def close(self) -> None:
        """Take it down and give the address back. Idempotent."""


class Network(ABC):
    """One way to connect containers. A container can reach what the machine reaches, but nothing on the
    machine itself, no other container, and no cloud's metadata service."""

    name: NetworkName
    name_server: str = ""
    """A name server that comes with it, where the machine's own cannot be reached through it."""

    @abstractmethod
    async def start(self) -> None:
        """Remove what a crashed host left, then set up what containers share. Raises `CommandError`."""

    @abstractmethod
    async def attach(self, namespaces: NamespacesOf) -> Attachment:
        """Give a container's new network namespace its interfaces. Raises `CommandError`."""

    @abstractmethod
    async def close(self) -> None:
        """Remove what all containers shared. Idempotent."""


async def start_network(settings: HostSettings, key: str, prefix: list[str], folder: Path) -> Network | None:
    """The network that the settings name, started; None for ``"none"``.

    `key` tells this host's devices from another's; `prefix` is what runs a command in the keeper's
    namespace, empty where the host is root. Raises `CommandError` that has what each kind lacks.
    """
    from skylift.runtime.runc.bridge import BridgeNetwork
    from skylift.runtime.runc.user_network import UserNetwork

    kinds: list[Network] = []
    if settings.network in ("auto", "bridge"):
        if not prefix:
            kinds.append(BridgeNetwork(settings.subnet, key))
        elif settings.network == "bridge":
            raise CommandError('network = "bridge" needs a host that runs as root; use "user".')
    if settings.network in ("auto", "user"):
        kinds.append(UserNetwork(prefix, folder))
    failures = []
    for network in kinds:
        try:
            await network.start()
        except CommandError as error:  # noqa: PERF203  (two rounds)
            failures.append(f"{network.name}: {error}")
        else:
            return network
    if settings.network == "none":
        return None
    raise CommandError(
        "Containers cannot be given a network here. "
        + " ".join(failures)
        + " Install iptables and iproute2 (where the host runs as root) or passt, "
        + 'or set network = "none" in [host] of config.toml.'
    )
