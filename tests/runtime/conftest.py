from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_gateway import FakeGateway
from host_process import HostProcess, running_host

ISOLATIONS = ["process", pytest.param("runc", marks=[pytest.mark.slow, pytest.mark.root])]


@pytest.fixture(params=ISOLATIONS)
def isolation(request: pytest.FixtureRequest) -> str:
    """The kinds of containers that a test of the host runs in."""
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=ISOLATIONS)
def shared_host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[HostProcess, FakeGateway]]:
    """One host for the tests of a module; each starts its own containers."""
    with running_host(tmp_path_factory.mktemp("home"), request.param) as both:
        yield both


@pytest.fixture
def gateway(shared_host: tuple[HostProcess, FakeGateway]) -> Iterator[FakeGateway]:
    """The gateway of the shared host. Containers that a test leaves behind are ended."""
    _, gateway = shared_host
    yield gateway
    gateway.consumes = gateway.persists = True
    gateway.reads.set()
    left = [each for each, seen in gateway.containers.items() if seen.info.state != "exited"]
    for container_id in left:
        gateway.stop(container_id, grace=0.0)
    for container_id in left:
        gateway.exited(container_id)


@pytest.fixture
def host_home(tmp_path: Path) -> Path:
    """A home of this test's own."""
    return tmp_path / "home"
