"""Where a container comes from: a fork of a template, a snapshot, or nothing but its image.

The host chooses by itself, the fastest first, and says why it was not faster. A way that fails is not tried
again: the container starts cold then, and the reason is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from pathlib import Path

import msgspec

from skylift.runtime.gpus import Gpu
from skylift.runtime.isolation import (
    CHILDREN_FOLDER,
    CheckpointError,
    ContainerPlan,
    ContainerProcess,
    Isolation,
    StartError,
)
from skylift.runtime.snapshot_errors import SnapshotError
from skylift.runtime.snapshots import Snapshots
from skylift.runtime.spare_forks import Spare
from skylift.runtime.template import Template, one_line
from skylift.runtime.template_link import TemplateGoneError, TemplateLink
from skylift.runtime.templates import NOTHING_TO_GAIN, Templates
from skylift.wire import FunctionSpec, SnapshotRef, StartPath


class Attempt(ABC):
    """One way to start one container."""

    path: StartPath
    reason = ""
    """Why it is not a faster one."""

    def __init__(self, container_id: str, folder: Path) -> None:
        self.container_id = container_id
        self.folder = folder
        """For the container; who starts it makes it."""

    def claim(self) -> None:  # noqa: B027  (optional)
        """It is about to start: from here on `folder` stays what it is, and `ended` is called."""

    @abstractmethod
    async def start(self, plan: ContainerPlan) -> ContainerProcess:
        """Start it. Raises `StartError`, `CheckpointError`, `SnapshotError`; nothing of it is left then."""

    def worked(self) -> None:  # noqa: B027  (optional)
        """Its runner has come."""

    async def failed(self, reason: str) -> None:  # noqa: B027  (optional)
        """It did not start this way, or its runner never came: nobody should try this again."""

    def ended(self) -> None:  # noqa: B027  (optional)
        """The container that was started is gone."""


class Cold(Attempt):
    """From the image alone."""

    path = "cold"

    def __init__(self, container_id: str, folder: Path, isolation: Isolation, reason: str) -> None:
        super().__init__(container_id, folder)
        self.reason = reason
        self._isolation = isolation

    async def start(self, plan: ContainerPlan) -> ContainerProcess:
        return await self._isolation.create(plan)


class Forked(Attempt):
    """From a template that is here, or has just been restored."""

    def __init__(
        self,
        container_id: str,
        templates: Templates,
        template: Template,
        isolation: Isolation,
        path: StartPath,
        spec: FunctionSpec,
        gpus: tuple[Gpu, ...],
    ) -> None:
        assert template.plan is not None
        super().__init__(container_id, template.plan.folder / CHILDREN_FOLDER / container_id)
        self._spec = spec
        self._gpus = gpus
        self._spare: Spare | None = None
        self.path = path
        self._templates = templates
        self._template = template
        self._isolation = isolation

    def claim(self) -> None:
        self._spare = self._templates.spares.take(self._template, self._spec, self._gpus)
        if self._spare is not None:
            self.folder = self._spare.folder

    async def start(self, plan: ContainerPlan) -> ContainerProcess:
        template = self._template
        if template.plan is None or template.link is None or not template.forkable:
            raise StartError(template.reason or "the template has ended")
        link = template.link
        template.forks.add(self.container_id)
        spare, self._spare = self._spare, None
        if spare is not None:
            with contextlib.suppress(StartError):
                return spare.go()
            await spare.discard()
        try:
            fork = await self._isolation.fork(template.plan, plan)
            try:
                await link.fork(self.container_id, fork.request, fork.descriptors)
            except BaseException as error:
                await fork.abandon()
                if isinstance(error, TemplateGoneError | OSError):
                    raise StartError(one_line(error)) from error
                raise
            return await fork.born(link.status(self.container_id))
        except BaseException:
            self.ended()
            raise

    def worked(self) -> None:
        self._templates.forked(self._template)
        self._templates.spares.want(self._template, self._spec, self._gpus)

    async def failed(self, reason: str) -> None:
        self._templates.fork_failed(self._template, reason)

    def ended(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            self._templates.spares.drop(spare)
        self._templates.fork_ended(self._template, self.container_id)


class Restored(Attempt):
    """From the snapshot of a template that cannot be forked: the restored process becomes the container."""

    path = "restore"

    def __init__(
        self, container_id: str, folder: Path, templates: Templates, template: Template, ref: SnapshotRef
    ) -> None:
        super().__init__(container_id, folder)
        self.reason = template.reason
        self._templates = templates
        self._template = template
        self._ref = ref
        self._error: Exception | None = None

    async def start(self, plan: ContainerPlan) -> ContainerProcess:
        snapshots = self._templates.snapshots
        assert snapshots is not None
        link = TemplateLink(self.folder / "run")
        link.listen()
        try:
            process = await self._templates.restore_snapshot(snapshots, plan, self._ref)
            try:
                await asyncio.wait_for(link.came(), 30.0)
                link.become({"fork": False, "env": dict(plan.env)})
            except BaseException:
                await process.remove()
                raise
        except (TemplateGoneError, asyncio.TimeoutError) as error:
            raise CheckpointError(one_line(error)) from error
        except (CheckpointError, SnapshotError) as error:
            self._error = error
            raise
        finally:
            link.close()
        return process

    async def failed(self, reason: str) -> None:
        template = self._template
        if await self._templates.retire(template, self._ref, self._error or CheckpointError(reason)):
            template.state, template.reason = "failed", f"its snapshot was retired: {reason}"
            template.snapshot = None


class Woken(Attempt):
    """A session that slept."""

    path = "restore"

    def __init__(self, container_id: str, folder: Path, templates: Templates, ref: SnapshotRef) -> None:
        super().__init__(container_id, folder)
        self._templates = templates
        self.ref = ref

    async def start(self, plan: ContainerPlan) -> ContainerProcess:
        snapshots = self._templates.snapshots
        if snapshots is None:
            raise CheckpointError("this host cannot restore containers")
        return await self._templates.restore_snapshot(snapshots, plan, self.ref)


class Found(msgspec.Struct, frozen=True):
    """A template's snapshot, and whether what is restored from it can be forked."""

    ref: SnapshotRef
    forkable: bool
    reason: str = ""


class StartPaths:
    """Chooses."""

    def __init__(self, folder: Path, isolation: Isolation, templates: Templates) -> None:
        """`folder` is that of containers' folders."""
        self._folder = folder
        self._isolation = isolation
        self._templates = templates

    def cold(self, container_id: str, reason: str = "") -> Cold:
        """From the image alone."""
        return Cold(container_id, self._folder / container_id, self._isolation, reason)

    def wake(self, container_id: str, ref: SnapshotRef) -> Woken:
        """From the snapshot of a session."""
        return Woken(container_id, self._folder / container_id, self._templates, ref)

    async def choose(
        self, container_id: str, spec: FunctionSpec, user: str, gpus: tuple[Gpu, ...] = ()
    ) -> Attempt:
        """The fastest way that there is now for a container of this spec, which has these GPUs."""
        templates = self._templates
        real_gpus = any(not gpu.simulated for gpu in gpus)
        why = templates.why_never(spec)
        if why:
            # Of what nobody would expect otherwise nothing is said.
            said = "" if self._isolation.name == "process" or why == NOTHING_TO_GAIN else why
            return self.cold(container_id, said)
        key = templates.key(spec, user, real_gpus=real_gpus)
        template = templates.find(key)
        if template is not None and template.restored and not template.settled.is_set():
            await template.settled.wait()
        if template is None:
            found = await self._find(key, spec)
            if isinstance(found, str):
                return self.cold(container_id, found)
            if not found.forkable:
                template = templates.note_unforkable(key, spec, found.ref, found.reason, real_gpus=real_gpus)
            else:
                try:
                    template = await templates.restore(key, spec, found.ref, real_gpus=real_gpus)
                except (CheckpointError, SnapshotError) as error:
                    return self.cold(container_id, one_line(error))
                return Forked(container_id, templates, template, self._isolation, "restore", spec, gpus)
        if template.forkable:
            return Forked(container_id, templates, template, self._isolation, "fork", spec, gpus)
        if template.state == "unforkable" and template.snapshot is not None:
            folder = self._folder / container_id
            return Restored(container_id, folder, templates, template, template.snapshot)
        reason = "its template is still being made" if template.state == "making" else template.reason
        return self.cold(container_id, reason)

    async def _find(self, key: str, spec: FunctionSpec) -> Found | str:
        snapshots = self._templates.snapshots
        if snapshots is None:
            return ""
        try:
            found: Found | str = await self._templates.in_thread(
                _look_up, snapshots, key, spec.image.fingerprint
            )
            return found
        except SnapshotError as error:
            return one_line(error)


def _look_up(snapshots: Snapshots, key: str, image: str) -> Found | str:
    found = snapshots.find("template", key, image)
    if found.ref is None:
        return found.reason
    metadata = snapshots.manifest(found.ref).metadata
    return Found(found.ref, bool(metadata.get("forkable", True)), str(metadata.get("reason", "")))
