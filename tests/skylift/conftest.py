"""A gateway for each test, and a client that talks to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sdk_gateway import FakeGateway

import skylift
from skylift.client import close_client


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    """A gateway that runs functions in threads of this process."""
    fake = FakeGateway(tmp_path / "home")
    fake.start()
    monkeypatch.setenv("SKYLIFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SKYLIFT_GATEWAY_URL", fake.url)
    monkeypatch.setenv("SKYLIFT_TOKEN", fake.token)
    close_client()
    yield fake
    close_client()
    fake.close()


@pytest.fixture
def app(gateway: FakeGateway) -> Iterator[skylift.App]:
    """A running app."""
    app = skylift.App("tests")
    with app.run():
        yield app
