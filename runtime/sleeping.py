"""Sleeping sessions: a session's whole container in the store, until its next cell."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Protocol

import msgspec

from skylift.runtime.bucket_keys import without_keys
from skylift.runtime.isolation import CheckpointError, ContainerProcess
from skylift.runtime.snapshot_errors import SnapshotError
from skylift.runtime.snapshots import Snapshots
from skylift.wire import FunctionSpec, SleepingSession, SnapshotRef

log = logging.getLogger(__name__)


class Sleeper(Protocol):
    """A container that is a session."""

    container_id: str
    pool_id: str
    spec: FunctionSpec


class Slept(msgspec.Struct, frozen=True):
    """A session that was written."""

    session: SleepingSession
    seconds: float


class SessionSnapshots:
    """Writes sessions, and knows those that sleep. Methods are called on the event loop."""

    def __init__(self, folder: Path, threads: Executor) -> None:
        """`folder` is for what is being written; on the disk of the host's snapshots."""
        self.snapshots: Snapshots | None = None
        """None until it is opened, and where containers cannot be written."""
        self.why_not = ""
        """Why sessions cannot sleep here; "" where they can."""
        self._folder = folder
        self._threads = threads
        self._known: dict[str, SleepingSession] = {}

    def known(self) -> tuple[SleepingSession, ...]:
        """The sessions that sleep in this host's store."""
        return tuple(self._known.values())

    async def read(self) -> None:
        """Look up which there are. Raises `SnapshotError`."""
        if self.snapshots is not None:
            found = await self._in_thread(_read, self.snapshots)
            self._known = {session.pool_id: session for session in reversed(found)}

    async def write(self, container: Sleeper, process: ContainerProcess, counts: tuple[int, int]) -> Slept:
        """Write a session's container, whose runner has let go of its link after so many frames.

        It is stopped after that, for good. Raises `CheckpointError`: it runs on then.
        """
        snapshots = self.snapshots
        if snapshots is None:
            raise CheckpointError(self.why_not)
        began = time.monotonic()
        folder = self._folder / container.container_id
        folder.mkdir(mode=0o711, parents=True)
        try:
            await process.checkpoint(folder)
            try:
                ref = await self._in_thread(
                    lambda: snapshots.write(
                        "session",
                        container.pool_id,
                        folder,
                        gpu_driver=process.gpu_driver,
                        metadata={
                            "spec": msgspec.to_builtins(without_keys(container.spec)),
                            "sent": counts[0],
                            "got": counts[1],
                        },
                        durable=True,
                    )
                )
            except BaseException as error:
                await process.resume()
                if isinstance(error, SnapshotError):
                    raise CheckpointError(str(error)) from error
                raise
        finally:
            await self._in_thread(_remove, folder)
        session = SleepingSession(pool_id=container.pool_id, spec=container.spec, snapshot=ref)
        self._known[container.pool_id] = session
        return Slept(session, time.monotonic() - began)

    async def counts(self, ref: SnapshotRef) -> tuple[int, int]:
        """With how many frames sent and received the link to the session's runner goes on."""
        if self.snapshots is None:
            return 0, 0
        manifest = await self._in_thread(self.snapshots.manifest, ref)
        return int(manifest.metadata["sent"]), int(manifest.metadata["got"])

    def woken(self, container: Sleeper, ref: SnapshotRef) -> None:
        """A session is up again: what it was while it slept is no longer of use."""
        self.forget(container.pool_id, ref)

    def forget(self, pool_id: str, ref: SnapshotRef | None = None) -> None:
        """Delete a sleeping session."""
        session = self._known.pop(pool_id, None)
        ref = ref or (session.snapshot if session is not None else None)
        if ref is not None and self.snapshots is not None:
            self._threads.submit(_delete, self.snapshots, ref)

    async def _in_thread(self, function: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def _read(snapshots: Snapshots) -> list[SleepingSession]:
    found = []
    for record in snapshots.all():
        if record.kind == "session":
            try:
                metadata = snapshots.manifest(record.ref).metadata
                spec = msgspec.convert(metadata["spec"], FunctionSpec)
            except (SnapshotError, KeyError, msgspec.MsgspecError) as error:
                log.warning("The sleeping session %s cannot be read: %s", record.key, error)
                continue
            found.append(
                SleepingSession(pool_id=record.key, spec=spec, snapshot=record.ref, problem=record.retired)
            )
    return found


def _delete(snapshots: Snapshots, ref: SnapshotRef) -> None:
    with contextlib.suppress(SnapshotError):  # it is deleted when the session sleeps again
        snapshots.delete(ref)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
