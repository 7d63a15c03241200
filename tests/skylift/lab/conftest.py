"""A gateway and a Jupyter server, which the tests of a module share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "end_to_end"))

from jupyter_side import LocalGateway, Page, jupyter_server


@pytest.fixture(scope="module")
def local_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalGateway]:
    gateway = LocalGateway(tmp_path_factory.mktemp("lab") / "home")
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.close()


@pytest.fixture(scope="module")
def shared_page(local_gateway: LocalGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("jupyter") / "server"
    with jupyter_server(folder, {"SKYLIFT_HOME": str(local_gateway.home)}) as page:
        yield page


@pytest.fixture
def page(shared_page: Page, local_gateway: LocalGateway) -> Iterator[Page]:
    """At the end of each test: no token of the gateway has come to the page."""
    yield shared_page
    seen, token = shared_page.seen, local_gateway.token.encode()
    assert not [text for text in seen if token in text]
    seen.clear()
