"""The disk under the store is full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from running_gateway import RunningGateway

from skylift import App
from skylift.exceptions import ResourceExhaustedError

SIZE = 8 * 1024 * 1024


@pytest.fixture
def small_store(gateway: RunningGateway) -> Iterator[RunningGateway]:
    """A gateway whose store has room for `SIZE` bytes."""
    gateway.kill()
    gateway.close()
    store = gateway.home / "store"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "skylift-test", store], check=True
    )
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.close()
        subprocess.run(["umount", "--lazy", store], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_full_store_is_said_and_passes(small_store: RunningGateway) -> None:
    app = App("full")

    @app.function()
    def length(data: bytes) -> int:
        return len(data)

    @app.function()
    def make(size: int) -> bytes:
        import os

        return os.urandom(size)

    with app.run():
        with pytest.raises(ResourceExhaustedError, match=f"store in {small_store.home / 'store'} is full"):
            length.remote(os.urandom(2 * SIZE))
        assert 1_000_000 == length.remote(os.urandom(1_000_000))
        with pytest.raises(ResourceExhaustedError, match="is full"):
            make.remote(2 * SIZE)
        assert 1_000_000 == len(make.remote(1_000_000))
