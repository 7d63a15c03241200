"""Containers on a bridge of the host's, behind its address (NAT). Needs root, iproute2 and iptables."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import itertools
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from skylift.runtime.runc.commands import CommandError, run
from skylift.runtime.runc.namespaces import NamespacesOf
from skylift.runtime.runc.netlink import delete_link, hardware_address, make_pair
from skylift.runtime.runc.networks import Attachment, Network

PART_PREFIX = 22
"""Each host takes a /22 of the configured subnet: 1021 containers."""

DEVICE_PREFIX = "sky-"
CHAIN_PREFIX = "SKYLIFT-"

_PAUSES = (0.05, 0.2, 0.0)
"""Seconds between attempts to remove rules."""

LOCK = Path("/run/skylift/network.lock")
LOOK_AGAIN = 1.0
"""Seconds: looking takes longer than forking a container."""

METADATA = "169.254.0.0/16"
"""Where clouds serve a machine's credentials to whoever asks from it (and names, on port 53)."""


class BridgeNetwork(Network):
    """One bridge, one pair of interfaces for each container, two iptables chains."""

    name = "bridge"

    def __init__(self, subnet: str, key: str) -> None:
        """`subnet` in the form ``"10.213.0.0/16"``; `key` is 8 characters. Raises ValueError."""
        self._subnet = ipaddress.IPv4Network(subnet)
        if self._subnet.prefixlen > PART_PREFIX:
            raise ValueError(
                f"subnet in [host] of config.toml must be a /{PART_PREFIX} or larger, not {subnet}."
            )
        self._key = key
        self.device = f"{DEVICE_PREFIX}{key}"
        self._chain = f"{CHAIN_PREFIX}{key}"
        self._part: ipaddress.IPv4Network | None = None
        self._mtu = 1500
        self._numbers = itertools.count(1)
        self._hosts: Iterator[ipaddress.IPv4Address] = iter(())
        self._taken: set[ipaddress.IPv4Address] = set()
        self._setting_up = asyncio.Lock()
        self._repairing: asyncio.Task[None] | None = None
        self._looked = 0.0
        """When bridge and rules were last looked at."""

    async def start(self) -> None:
        await remove_bridge(self._key)
        try:
            async with _machine_lock():
                addresses = json.loads((await run(["ip", "-json", "-4", "addr"])).stdout)
                routes = json.loads((await run(["ip", "-json", "-4", "route"])).stdout)
                self._part = free_part(self._subnet, networks_in_use(addresses, routes))
                self._mtu = uplink_mtu(addresses, routes)
                await self._set_up()
            forward_packets()
        except (CommandError, OSError) as error:
            await remove_bridge(self._key)
            raise CommandError(str(error)) from error

    async def _set_up(self) -> None:
        """Make what is missing of bridge and rules: all of it at first, and what others have taken away
        later.

        A firewall that is reloaded, say, drops the rules of all others.
        """
        assert self._part is not None
        if not Path("/sys/class/net", self.device).exists():  # noqa: ASYNC240
            # Else it has that of a port, another's when that goes, and the kernel forgets neighbours then.
            hardware = hardware_address(str(self._part[1])).hex(":")
            batch = f"link add {self.device} address {hardware} mtu {self._mtu} type bridge\n"
            batch += f"addr add {self._part[1]}/{self._part.prefixlen} dev {self.device}\n"
            batch += f"link set {self.device} up\n"
            for name in await _links():
                if name.startswith(f"v{self._key}"):
                    batch += _join_bridge(name, self.device)
            await run(["ip", "-batch", "-"], given=batch)
            without_ipv6(self.device)
        jumps = {f"-A {parent} -j {chain}" for _, parent, chain in _chains(self._key)}
        if not jumps <= set((await run(["iptables-save"])).stdout.splitlines()):
            await _remove_rules(self._key)
            await run(["iptables-restore", "--wait", "--noflush"], given=self.rules())

    def rules(self) -> str:
        """The firewall, in the form of ``iptables-restore``."""
        chain, device = self._chain, self.device
        return f"""*nat
:{chain} - [0:0]
-A {chain} -s {self._part} ! -d {self._part} -j MASQUERADE
-I POSTROUTING 1 -j {chain}
COMMIT
*filter
:{chain} - [0:0]
:{chain}-IN - [0:0]
-A {chain} -i {device} -o {device} -j REJECT
-A {chain} -i {device} -d {METADATA} -p udp --dport 53 -j ACCEPT
-A {chain} -i {device} -d {METADATA} -p tcp --dport 53 -j ACCEPT
-A {chain} -i {device} -d {METADATA} -j REJECT
-A {chain} -i {device} -j ACCEPT
-A {chain} -o {device} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A {chain} -o {device} -j REJECT
-A {chain}-IN -i {device} -p icmp -j ACCEPT
-A {chain}-IN -i {device} -j REJECT
-I FORWARD 1 -j {chain}
-I INPUT 1 -j {chain}-IN
COMMIT
"""

    async def attach(self, namespaces: NamespacesOf) -> Attachment:
        await self._repair()
        address = self._take_address()
        assert self._part is not None
        device = self._next_device()
        hardware = hardware_address(str(address)).hex(":")
        try:
            await run(
                ["ip", "-batch", "-"],
                given=(
                    f"link add {device} mtu {self._mtu} type veth "
                    f"peer name eth0 address {hardware} mtu {self._mtu} netns {namespaces.pid}\n"
                    + _join_bridge(device, self.device)
                    + f"neigh replace {address} lladdr {hardware} dev {self.device} nud permanent\n"
                ),
            )
            await run(
                ["nsenter", f"--net={namespaces.path('net')}", "--", "ip", "-batch", "-"],
                given=(
                    "link set lo up\n"
                    f"addr add {address}/{self._part.prefixlen} dev eth0\n"
                    "link set eth0 up\n"
                    f"route add default via {self._part[1]}\n"
                ),
            )
        except BaseException:
            self._taken.discard(address)
            with contextlib.suppress(CommandError):
                await run(["ip", "link", "delete", device])
            raise
        return Pair(self, device, address)

    @property
    def mask(self) -> str:
        """Of the containers' addresses."""
        assert self._part is not None
        return str(self._part.netmask)

    @property
    def gateway(self) -> str:
        """The bridge's own address."""
        assert self._part is not None
        return str(self._part[1])

    def reserve(self) -> Pair:
        """An address and a name, for a container that is to be; see `Pair.connect`. Raises `CommandError`."""
        return Pair(self, self._next_device(), self._take_address())

    async def connect(self, device: str, address: str, pid: int) -> None:
        """Make a pair of which ``eth0`` is in a process's network namespace, and has no address yet.

        Raises `CommandError`, OSError.
        """
        if not Path("/sys/class/net", self.device).exists():  # noqa: ASYNC240
            await self._repair()
        elif time.monotonic() - self._looked > LOOK_AGAIN and (
            self._repairing is None or self._repairing.done()
        ):
            self._repairing = asyncio.ensure_future(self._repair_quietly())
        await asyncio.to_thread(make_pair, device, self.device, self._mtu, "eth0", pid, address)

    async def _repair(self) -> None:
        async with self._setting_up:
            self._looked = time.monotonic()
            await self._set_up()

    async def _repair_quietly(self) -> None:
        with contextlib.suppress(CommandError):  # it is said to whoever needs it next
            await self._repair()

    async def close(self) -> None:
        if self._repairing is not None:
            await self._repairing
        await remove_bridge(self._key)

    def release(self, address: ipaddress.IPv4Address) -> None:
        """An address may be taken again."""
        self._taken.discard(address)

    def _next_device(self) -> str:
        return f"v{self._key}{next(self._numbers) % 0x100000:x}"

    def _take_address(self) -> ipaddress.IPv4Address:
        """The next one in turn, so that one just released rests."""
        if self._part is None:
            raise CommandError(f"The bridge {self.device} has not been set up.")
        for _ in range(self._part.num_addresses):
            address = next(self._hosts, None)
            if address is None:
                self._hosts = itertools.islice(self._part.hosts(), 1, None)
                continue
            if address not in self._taken:
                self._taken.add(address)
                return address
        raise CommandError(f"All {len(self._taken)} addresses of {self._part} are in use by containers.")


class Pair(Attachment):
    """A container's pair of interfaces."""

    def __init__(self, network: BridgeNetwork, device: str, address: ipaddress.IPv4Address) -> None:
        self.address = str(address)
        self.device = device
        """The outer end."""
        self._network = network
        self._closed = False
        self._number = address

    async def connect(self, pid: int) -> None:
        """Make it, where it was only reserved (see `BridgeNetwork.connect`)."""
        await self._network.connect(self.device, self.address, pid)

    def describe(self) -> Mapping[str, str]:
        """What a newborn container needs to set its end up (see `runner/newborn.py`)."""
        network = self._network
        return {"address": self.address, "mask": network.mask, "gateway": network.gateway}

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                # It goes with the container's namespace, but that may take the kernel a while.
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(delete_link, self.device)
            finally:
                self._network.release(self._number)


def networks_in_use(
    addresses: list[dict[str, Any]], routes: list[dict[str, Any]]
) -> list[ipaddress.IPv4Network]:
    """The networks of a machine's interfaces and routes, from what ``ip -json`` says."""
    texts = [
        f"{each['local']}/{each['prefixlen']}" for link in addresses for each in link.get("addr_info", ())
    ]
    texts += [route["dst"] for route in routes if route.get("dst") != "default"]
    networks = []
    for text in texts:
        with contextlib.suppress(ValueError):
            networks.append(ipaddress.IPv4Network(text, strict=False))
    return networks


def free_part(subnet: ipaddress.IPv4Network, used: list[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The first part of a subnet that nothing uses. Raises `CommandError`."""
    for part in subnet.subnets(new_prefix=PART_PREFIX):
        if not any(part.overlaps(network) for network in used):
            return part
    raise CommandError(
        f"Every part of {subnet} is in use here; set subnet in [host] of config.toml to a free one."
    )


def uplink_mtu(addresses: list[dict[str, Any]], routes: list[dict[str, Any]]) -> int:
    """Bytes that a packet to the outside may have: more would be lost where a path does not tell."""
    uplinks = {route.get("dev") for route in routes if route.get("dst") == "default"}
    return min((int(link["mtu"]) for link in addresses if link["ifname"] in uplinks), default=1500)


def forward_packets() -> None:
    """Let the kernel pass packets from and to containers. Raises OSError.

    This stays on when the host ends, as other container engines leave it: something else may need it by then.
    """
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    if forward.read_text(encoding="ascii").strip() != "1":
        forward.write_text("1", encoding="ascii")


def without_ipv6(device: str) -> None:
    """Containers have IPv4 alone: a bridge that speaks IPv6 would let them reach the host past the rules."""
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
        Path("/proc/sys/net/ipv6/conf", device, "disable_ipv6").write_text("1", encoding="ascii")


@contextlib.asynccontextmanager
async def _machine_lock() -> AsyncIterator[None]:
    """Held while addresses are chosen: several hosts of one machine choose apart."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


async def remove_bridge(key: str) -> None:
    """Remove the bridge of the host with this key, its containers' interfaces and its firewall rules.

    Raises `CommandError` where ip or iptables is missing.
    """
    device = f"{DEVICE_PREFIX}{key}"
    for program in ("ip", "iptables"):
        if shutil.which(program) is None:
            raise CommandError(f"{program} is not installed.")
    mine = [name for name in await _links() if name == device or name.startswith(f"v{key}")]
    if mine:
        batch = "".join(f"link delete {name}\n" for name in mine)
        with contextlib.suppress(CommandError):  # some are gone already, with their namespaces
            await run(["ip", "-force", "-batch", "-"], given=batch)
    await _remove_rules(key)


async def bridge_keys() -> set[str]:
    """The keys of all hosts that have a bridge on this machine. Raises `CommandError`."""
    return {name.removeprefix(DEVICE_PREFIX) for name in await _links() if name.startswith(DEVICE_PREFIX)}


async def _links() -> set[str]:
    found = json.loads((await run(["ip", "-json", "link"])).stdout or "[]")
    return {link["ifname"] for link in found}


def _join_bridge(device: str, bridge: str) -> str:
    """For ``ip -batch``. Isolated ports of a bridge do not reach each other."""
    return (
        f"link set {device} master {bridge}\n"
        f"link set {device} type bridge_slave isolated on\n"
        f"link set {device} up\n"
    )


def _chains(key: str) -> tuple[tuple[str, str, str], ...]:
    """Table, chain of the kernel's, and chain of ours that is called from it."""
    chain = f"{CHAIN_PREFIX}{key}"
    return ("nat", "POSTROUTING", chain), ("filter", "FORWARD", chain), ("filter", "INPUT", f"{chain}-IN")


async def _remove_rules(key: str) -> None:
    for table, parent, chain in _chains(key):
        iptables = ["iptables", "--wait", "--table", table]
        with contextlib.suppress(CommandError):  # there is no such chain
            await run([*iptables, "--delete", parent, "--jump", chain])
        for pause in _PAUSES:
            try:
                await run([*iptables, "--flush", chain])
                await run([*iptables, "--delete-chain", chain])
            except CommandError as error:  # noqa: PERF203  (up to three rounds)
                if "No chain" in str(error) or "does not exist" in str(error):
                    break
                # Somebody else has just changed the rules.
                await asyncio.sleep(pause)
            else:
                break
