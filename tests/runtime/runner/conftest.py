"""Hosts for the tests of the runner."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_host import FakeHost


@pytest.fixture(scope="module")
def host() -> Iterator[FakeHost]:
    """A host with a runner that the tests of one module share."""
    with FakeHost() as running:
        yield running


@pytest.fixture
def own_host() -> Iterator[FakeHost]:
    """A host with a runner of its own, for a test that ends it or counts its frames."""
    with FakeHost() as running:
        yield running
