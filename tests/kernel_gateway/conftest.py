"""A gateway's server for each test, in its own loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from served_gateway import Served

from skylift.backend.settings import GatewaySettings


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def served(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """Parametrize it indirectly with fields of `GatewaySettings` where the defaults do not do."""
    served = Served(tmp_path, GatewaySettings(**getattr(request, "param", {})))
    await served.hosts.listen()
    yield served
    served.server.stop_listening()
    await served.hosts.close()
    await served.server.close()
