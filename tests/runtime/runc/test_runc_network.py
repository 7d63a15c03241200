"""What containers reach over the network, and what they do not."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from workshop import PYTHON, Workshop, in_workshop, read_line

from skylift.runtime.isolation import Bind, StartError
from skylift.runtime.runc.bridge import BridgeNetwork, free_part, networks_in_use, uplink_mtu
from skylift.runtime.runc.commands import CommandError

ROOT = os.geteuid() == 0
NETWORKS = ["bridge", "user"] if ROOT else ["user"]

CONNECT = """
import json, socket, sys
found = {}
for name, host, port in json.loads(sys.argv[1]):
    try:
        with socket.create_connection((host, port), timeout=2):
            found[name] = "connected"
    except OSError as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""


@pytest.fixture
def services() -> Iterator[dict[str, tuple[str, int]]]:
    """Servers of the machine: on its loopback, and on all its addresses."""
    with (
        socket.create_server(("127.0.0.1", 0)) as loopback,
        socket.create_server(("0.0.0.0", 0)) as everywhere,
    ):
        yield {
            "loopback": ("127.0.0.1", loopback.getsockname()[1]),
            "outside": (outside_address(), everywhere.getsockname()[1]),
        }


def outside_address() -> str:
    """This machine's address towards the outside (nothing is sent)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.254", 9))
        address: str = probe.getsockname()[0]
        return address


async def connect(shop: Workshop, targets: list[tuple[str, str, int]], **plan: Any) -> dict[str, str]:
    finished = await shop.run(PYTHON, "-I", "-c", CONNECT, json.dumps(targets), **plan)
    assert "" == finished.stderr
    found: dict[str, str] = json.loads(finished.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_the_machines_services_are_out_of_reach(
    home: Path, network: str, services: dict[str, tuple[str, int]]
) -> None:
    async def body(shop: Workshop) -> None:
        container = await shop.start("sh", "-c", "ip -4 route show default | cut -d' ' -f3")
        gateway = (await shop.finish(container)).stdout.strip()
        port = services["outside"][1]
        targets = [
            ("own loopback", *services["loopback"]),
            ("gateway", gateway, services["loopback"][1]),
            ("gateway, open to all", gateway, port),
            ("metadata", "169.254.169.254", 80),
        ]
        if network == "bridge":
            targets.append(("machine's address", services["outside"][0], port))
        found = await connect(shop, targets)
        assert {} == {name: said for name, said in found.items() if said == "connected"}

    in_workshop(home, body, network=network)


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("network", NETWORKS)
def test_the_outside_is_reached_from_the_machines_address(
    home: Path, network: str, upstream: tuple[str, int]
) -> None:
    host, port = upstream
    code = f"import socket; print(socket.create_connection(({host!r}, {port}), 5).recv(100).decode())"

    async def body(shop: Workshop) -> None:
        finished = await shop.python(code)
        assert (f"{host.rpartition('.')[0]}.1\n", "") == (finished.stdout, finished.stderr)
        blocked = await connect(shop, [("upstream", host, port)], block_network=True)
        assert {"upstream": "OSError"} == blocked

    in_workshop(home, body, network=network)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_containers_do_not_reach_each_other(home: Path, network: str) -> None:
    code = """
import socket
server = socket.create_server(("0.0.0.0", 0))
print(socket.gethostbyname(socket.gethostname()), server.getsockname()[1], flush=True)
while True: server.accept()
"""

    async def body(shop: Workshop) -> None:
        server = await shop.start(PYTHON, "-I", "-c", code)
        address, port = (await read_line(server.output[0])).split()
        found = await connect(shop, [("other", address, int(port))])
        assert found["other"] != "connected"

    in_workshop(home, body, network=network)


@pytest.mark.slow
def test_without_a_network_there_is_a_loopback(home: Path) -> None:
    code = """
import socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).sendall(b"x")
print([name for _, name in socket.if_nameindex()])
"""

    async def body(shop: Workshop) -> None:
        finished = await shop.python(code)
        assert ("['lo']\n", "") == (finished.stdout, finished.stderr)

    in_workshop(home, body, network="none")


@pytest.mark.slow
def test_name_servers_are_the_configured_ones(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        finished = await shop.run("cat", "/etc/resolv.conf")
        assert "nameserver 192.0.2.53\n" == finished.stdout

    in_workshop(home, body, dns=("192.0.2.53",))


@pytest.mark.slow
@pytest.mark.root
def test_a_subnet_in_use_is_named(home: Path) -> None:
    ours = ipaddress.ip_interface(f"{outside_address()}/22").network

    async def body(shop: Workshop) -> None:
        raise AssertionError("it must not start")

    with pytest.raises(StartError, match=rf"Every part of {ours} is in use here; set subnet"):
        in_workshop(home, body, subnet=str(ours), network="bridge")


def test_a_free_part_of_the_subnet_is_taken() -> None:
    addresses = [
        {"ifname": "eth0", "mtu": 1400, "addr_info": [{"local": "10.213.1.7", "prefixlen": 24}]},
        {"ifname": "sky-1", "mtu": 9000, "addr_info": [{"local": "10.213.4.1", "prefixlen": 22}]},
    ]
    routes = [{"dst": "default", "dev": "eth0"}, {"dst": "10.213.8.0/24", "dev": "vpn"}, {"dst": "broken"}]
    used = networks_in_use(addresses, routes)
    assert ipaddress.IPv4Network("10.213.12.0/22") == free_part(ipaddress.IPv4Network("10.213.0.0/16"), used)
    assert 1400 == uplink_mtu(addresses, routes)


def test_no_free_part() -> None:
    subnet = ipaddress.IPv4Network("10.213.0.0/22")
    with pytest.raises(CommandError, match=r"Every part of 10\.213\.0\.0/22 is in use here"):
        free_part(subnet, [ipaddress.IPv4Network("10.213.0.0/24")])


def test_a_subnet_that_is_too_small() -> None:
    with pytest.raises(
        ValueError, match=r"subnet in \[host\] of config\.toml must be a /22 or larger, not 10\.0\.0\.0/24"
    ):
        BridgeNetwork("10.0.0.0/24", "01234567")


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(not ROOT, reason="a bridge needs root")
def test_what_others_take_away_is_made_again(home: Path, tmp_path: Path, upstream: tuple[str, int]) -> None:
    host, port = upstream
    (tmp_path / "gate").mkdir()
    code = f"import socket; print(socket.create_connection(({host!r}, {port}), 5).recv(100).decode())"

    async def body(shop: Workshop) -> None:
        key = shop.isolation._key
        gate = Bind(tmp_path / "gate", "/gate")
        wait = "import os, time\nwhile not os.path.exists('/gate/open'): time.sleep(0.02)\n"
        old = await shop.start(PYTHON, "-I", "-c", wait + code, binds=(gate,))
        sandboxes = shop.isolation._sandboxes
        assert sandboxes is not None
        await sandboxes._refilling  # type: ignore[misc]
        remove_bridge_and_rules(key)
        for _ in range(3):  # more than are kept ready
            new = await shop.python(code)
        assert (f"{host.rpartition('.')[0]}.1\n", "") == (new.stdout, new.stderr)
        (tmp_path / "gate" / "open").touch()
        again = await shop.finish(old)
        assert new.stdout == again.stdout

    in_workshop(home, body, network="bridge")


def remove_bridge_and_rules(key: str) -> None:
    chain = f"SKYLIFT-{key}"
    subprocess.run(["ip", "link", "delete", f"sky-{key}"], check=True)
    for table, parent, each in (
        ("nat", "POSTROUTING", chain),
        ("filter", "FORWARD", chain),
        ("filter", "INPUT", f"{chain}-IN"),
    ):
        subprocess.run(["iptables", "-w", "-t", table, "-D", parent, "-j", each], check=True)
