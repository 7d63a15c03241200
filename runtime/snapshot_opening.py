"""The snapshots of a host as its settings say."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from pathlib import Path

from skylift.lazyfs.names import LocalNames
from skylift.lazyfs.store import LocalStore
from skylift.runtime.criu import CriuMissingError, find_criu
from skylift.runtime.nvml import Nvml
from skylift.runtime.settings import MIB, HostSettings
from skylift.runtime.snapshot_errors import SnapshotError
from skylift.runtime.snapshot_needs import needs_of
from skylift.runtime.snapshots import Snapshots


async def open_snapshots(settings: HostSettings, home: Path, host_id: str, threads: Executor) -> Snapshots:
    """Open them; finishes what a host before had begun. Raises `SnapshotError`, OSError."""
    try:
        criu = await find_criu(settings.criu, home / "host" / "criu.json")
    except CriuMissingError as error:
        raise SnapshotError(str(error)) from error
    shared = Path(settings.snapshots) if settings.snapshots else home / "snapshots"
    nvml = Nvml.load()
    here = needs_of(criu=criu.version, gpu_driver=nvml.driver() if nvml is not None else "")

    def opened() -> Snapshots:
        return Snapshots(
            LocalStore(shared / "blobs"),
            LocalNames(shared / "names"),
            home / "host" / "snapshots",
            here,
            host=host_id,
            store_budget=settings.snapshot_store * MIB,
            cache_budget=settings.snapshot_cache * MIB,
        )

    return await asyncio.get_running_loop().run_in_executor(threads, opened)
