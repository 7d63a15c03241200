"""A control plane for each test, on its own loop and its own folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from control_harness import Plane


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def plane(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Plane]:
    """Parametrize it indirectly with fields of `GatewaySettings`, and ``prices``."""
    plane = Plane(tmp_path, **getattr(request, "param", {}))
    await plane.start()
    yield plane
    await plane.stop()
