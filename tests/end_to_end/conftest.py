"""A gateway with a home of its own for each test; its processes and mounts are gone afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_gateway import BreakingNetwork, RunningGateway

from scripts.own_gateway import left_behind
from skylift.client import close_client

# For raw_client and oci_setup.
sys.path += [str(Path(__file__).parent.parent / name) for name in ("kernel_gateway", "lazyfs")]

CONFIG = """
[gateway]
client_grace = 3

[host]
simulate_gpus = { H100 = 1 }
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts real containers."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[RunningGateway]:
    """A running gateway, to which the SDK in this process speaks. Parametrize it indirectly with more of
    ``[host]``, in which TMP_PATH is the test's folder."""
    more = getattr(request, "param", "").replace("TMP_PATH", str(tmp_path))
    gateway = RunningGateway(tmp_path / "home", CONFIG + more)
    monkeypatch.setenv("SKYLIFT_HOME", str(gateway.home))
    try:
        gateway.start()
        # Named, so that the SDK does not start another one while a test has killed this one.
        monkeypatch.setenv("SKYLIFT_GATEWAY_URL", gateway.url)
        monkeypatch.setenv("SKYLIFT_TOKEN", gateway.token)
        yield gateway
    finally:
        close_client()
        gateway.close()
        print(gateway.logs())
    assert [] == left_behind(gateway.home)


@pytest.fixture
def network(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[BreakingNetwork]:
    """What stands between the SDK in this process and the gateway."""
    network = BreakingNetwork(gateway.url)
    monkeypatch.setenv("SKYLIFT_GATEWAY_URL", network.url)
    try:
        yield network
    finally:
        close_client()
        network.close()
