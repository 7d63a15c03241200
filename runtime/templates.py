"""The templates of a host: made, written to the store, restored from it, let go.

A template is for all containers whose specs have equal keys (`template_key`). It is made in the background,
once a container of that key has been started cold and has had its first call; then it is written to the
store, before its first fork (what is written must have no children). A host that finds it there restores it
instead of making it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import msgspec

from skylift.runtime.code_cache import CodeCache
from skylift.runtime.container_files import SOCKET_FOLDER, remove_folder
from skylift.runtime.container_output import ContainerOutput
from skylift.runtime.container_plan import runner_binds, runner_command
from skylift.runtime.gpus import GpuInventory
from skylift.runtime.isolation import (
    Bind,
    CheckpointError,
    ContainerPlan,
    ContainerProcess,
    Isolation,
    StartError,
)
from skylift.runtime.settings import HostSettings
from skylift.runtime.snapshot_errors import SnapshotDamagedError, SnapshotError, SnapshotMissingError
from skylift.runtime.snapshots import Snapshots
from skylift.runtime.spare_forks import SpareForks
from skylift.runtime.template import Template, one_line, template_key
from skylift.runtime.template_link import SOCKET_NAME, Prepared, TemplateGoneError, TemplateLink
from skylift.wire import FunctionSpec, SnapshotRef, TemplateInfo, new_id

MIB = 1024 * 1024
MAX_TEMPLATES = 16
MAX_NOTES = 256
"""Of templates that failed or cannot be forked, so many are known."""
MAX_FAILURES = 3
"""So many forks in a row may fail, and templates of a key end by themselves, before no more are tried."""
NOTHING_TO_GAIN = "it imports nothing"

log = logging.getLogger(__name__)


class TemplateServices(msgspec.Struct, frozen=True, kw_only=True):
    """What templates are made with."""

    host_id: str
    folder: Path
    """Theirs."""
    settings: HostSettings
    isolation: Isolation
    gpus: GpuInventory
    codes: CodeCache
    threads: Executor
    changed: Callable[[], None]
    """One came, went, or became another."""


class Templates:
    """Keeps them."""

    def __init__(self, services: TemplateServices) -> None:
        self.snapshots: Snapshots | None = None
        """None until it is opened, and where containers cannot be written."""
        self._services = services
        self._isolation = services.isolation
        self._known: dict[str, Template] = {}
        self._deaths: dict[str, int] = {}
        """How often templates of a key have ended by themselves."""
        self.spares = SpareForks(
            services.isolation, self._run, services.changed, wanted=services.settings.spare_forks
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.Future[None]] = set()
        self._closed = False

    def infos(self) -> tuple[TemplateInfo, ...]:
        """What there is now."""
        return tuple(template.info(self._services.host_id) for template in self._known.values())

    def why_never(self, spec: FunctionSpec) -> str:
        """Why containers of this spec cannot come from a template here; "" where they can."""
        if not self._services.settings.templates:
            return "templates are switched off (templates = false in [host] of config.toml)"
        if self._isolation.cannot_fork:
            return self._isolation.cannot_fork
        if not spec.session and not spec.preload and not spec.template_code:
            return NOTHING_TO_GAIN
        return ""

    def find(self, key: str) -> Template | None:
        """The template with that key, in whatever state."""
        template = self._known.get(key)
        if template is None:
            return None
        template.used = time.monotonic()
        if template.ended and self._deaths.get(key, 0) < MAX_FAILURES:
            # Something befell it (the machine ran out of memory, say): it may be restored, or made anew.
            self._deaths[key] = self._deaths.get(key, 0) + 1
            del self._known[key]
            return None
        return template

    def note_unforkable(
        self, key: str, spec: FunctionSpec, ref: SnapshotRef, reason: str, *, real_gpus: bool
    ) -> Template:
        """A snapshot was found of a template that only its snapshot can stand for."""
        template = self._new(key, spec, real_gpus=real_gpus)
        template.state, template.reason, template.snapshot = "unforkable", reason, ref
        template.settled.set()
        self._services.changed()
        return template

    # --- making ----------------------------------------------------------------------------------

    def key(self, spec: FunctionSpec, user: str, *, real_gpus: bool) -> str:
        """Of the template for containers of this spec."""
        gpus = self._services.gpus.real() if real_gpus else ()
        devices = [(gpu.index, gpu.model) for gpu in gpus]
        return template_key(spec, user, f"{self._services.gpus.driver} {devices}" if gpus else "")

    def want(self, spec: FunctionSpec, user: str, function_id: str, *, real_gpus: bool) -> None:
        """A container of this spec has been started cold, and works: make a template, if there is none.

        `function_id` has the code of its class, where its spec has ``template_code``.
        """
        key = self.key(spec, user, real_gpus=real_gpus)
        known = self._known.get(key)
        if self._closed or (known is not None and not known.again) or self.why_never(spec):
            return
        template = self._new(key, spec, real_gpus=real_gpus)
        self._run(self._make(template, function_id))

    def _new(self, key: str, spec: FunctionSpec, *, real_gpus: bool) -> Template:
        gpus = self._services.gpus.real() if real_gpus else ()
        template = self._known[key] = Template(key, spec, gpus)
        return template

    async def restore(self, key: str, spec: FunctionSpec, ref: SnapshotRef, *, real_gpus: bool) -> Template:
        """The template that a snapshot is of, running here. Raises `CheckpointError`, `SnapshotError`."""
        template = self._known.get(key)
        if template is None or template.state == "failed":
            template = self._new(key, spec, real_gpus=real_gpus)
            template.snapshot, template.restored = ref, True
            self._run(self._restore(template, ref))
        await template.settled.wait()
        if not template.forkable:
            raise CheckpointError(template.reason or "it has ended")
        return template

    async def _make(self, template: Template, function_id: str) -> None:
        try:
            code = None
            if template.spec.template_code:
                loop = asyncio.get_running_loop()
                data = await loop.run_in_executor(
                    self._services.threads, self._services.codes.read, function_id
                )
                code = (function_id, data)
            prepared = await self._start_and_preload(template, code, forkable=True)
            if prepared.unforkable and self._may_write(template):
                # What is not forked needs none of the rights that forking takes.
                await self._end(template)
                template.template_id = new_id("tp")
                await self._start_and_preload(template, code, forkable=False)
            await self._write(template, forkable=not prepared.unforkable)
            if prepared.unforkable:
                missing = f", and there is {template.reason}" if template.snapshot is None else ""
                template.reason = prepared.unforkable + missing
                template.state = "unforkable" if template.snapshot is not None else "failed"
                await self._end(template)
            else:
                template.state = "ready"
                self._have_a_spare(template)
        except Exception as error:
            await self._failed(template, error)
        finally:
            template.settled.set()
            self._services.changed()
            self._evict()

    async def _start_and_preload(
        self, template: Template, code: tuple[str, bytes] | None, *, forkable: bool
    ) -> Prepared:
        plan = self._plan(template, forkable=forkable)
        template.plan = plan
        link = template.link = TemplateLink(plan.folder / "run")
        plan.folder.mkdir(mode=0o700, parents=True)
        link.listen()
        process = template.process = await self._isolation.create(plan)
        self._watch(template, process, link)
        spec = template.spec
        prepared = await asyncio.wait_for(self._preload(link, spec, code), timeout=spec.startup_timeout)
        if prepared.problem:
            raise StartError(f"its imports failed: {prepared.problem}")
        return prepared

    async def _preload(
        self, link: TemplateLink, spec: FunctionSpec, code: tuple[str, bytes] | None
    ) -> Prepared:
        await link.came()
        return await link.preload(spec.preload, session=bool(spec.session), code=code)

    def _may_write(self, template: Template) -> bool:
        if self.snapshots is None:
            template.reason = f"no snapshot: {self._isolation.cannot_checkpoint}"
        return self.snapshots is not None

    async def _write(self, template: Template, *, forkable: bool) -> None:
        """Write it to the store, where that can be done; else its reason says why not."""
        snapshots, process, link = self.snapshots, template.process, template.link
        if not self._may_write(template):
            return
        assert snapshots is not None
        assert process is not None
        assert link is not None
        folder = self._services.folder / f"{template.template_id}.images"
        try:
            why = await self.in_thread(snapshots.why_not_written, template.key)
            if why:
                raise CheckpointError(why)
            folder.mkdir(mode=0o711)
            await link.release()
            try:
                await process.checkpoint(folder)
                if forkable:
                    await process.resume()
            finally:
                if forkable:
                    link.listen()
            if forkable:
                await link.came()
            metadata = {"forkable": forkable, "reason": "" if forkable else template.reason}
            template.snapshot = await self.in_thread(
                lambda: snapshots.write(
                    "template",
                    template.key,
                    folder,
                    image=template.spec.image.fingerprint,
                    gpu_driver=process.gpu_driver,
                    metadata=metadata,
                )
            )
        except (CheckpointError, SnapshotError) as error:
            template.reason = f"no snapshot: {error}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    # --- restoring -------------------------------------------------------------------------------

    async def _restore(self, template: Template, ref: SnapshotRef) -> None:
        snapshots = self.snapshots
        assert snapshots is not None
        try:
            plan = template.plan = self._plan(template, forkable=True)
            plan.folder.mkdir(mode=0o700, parents=True)
            link = template.link = TemplateLink(plan.folder / "run")
            link.listen()
            process = await self.restore_snapshot(snapshots, plan, ref)
            template.process = process
            self._watch(template, process, link)
            await asyncio.wait_for(link.came(), timeout=template.spec.startup_timeout)
            template.state = "ready"
        except Exception as error:
            await self.retire(template, ref, error)
            await self._failed(template, error)
        finally:
            # (It is about to be forked: what there is no room for goes when that has ended.)
            template.settled.set()
            self._services.changed()

    async def restore_snapshot(
        self, snapshots: Snapshots, plan: ContainerPlan, ref: SnapshotRef
    ) -> ContainerProcess:
        """A container as a snapshot has it. Raises `CheckpointError`, `SnapshotError`."""
        unpacked = await self.in_thread(snapshots.open, ref)
        try:
            await asyncio.wrap_future(unpacked.small)
            process = await self._isolation.restore(
                plan, unpacked.folder, unpacked.whole if unpacked.fresh else None
            )
        except CheckpointError as error:
            # What could not be unpacked is the reason, whatever CRIU or tar missed first for it.
            if unpacked.whole.done() and (cause := unpacked.whole.exception()) is not None:
                raise cause from error
            raise
        finally:
            unpacked.release()
        self._services.threads.submit(snapshots.used, ref)
        return process

    async def retire(self, template: Template, ref: SnapshotRef, error: Exception) -> bool:
        """It could not be restored: see to it that nobody tries again, unless the store just does not answer.
        Returns whether it was retired."""
        template.again = True
        damaged = isinstance(error, SnapshotDamagedError | SnapshotMissingError)
        kinds = (CheckpointError, TemplateGoneError, asyncio.TimeoutError)
        snapshots = self.snapshots
        if snapshots is None or not (damaged or isinstance(error, kinds)):
            return False
        with contextlib.suppress(SnapshotError):
            await self.in_thread(lambda: snapshots.retire(ref, one_line(error), damaged=damaged))
        return True

    # --- ends ------------------------------------------------------------------------------------

    def forked(self, template: Template) -> None:
        """A container was forked from it, and works."""
        template.failures = 0

    def _have_a_spare(self, template: Template) -> None:
        if not template.spec.gpus:  # else it is not known yet which the next container gets
            self.spares.want(template, template.spec, ())

    def fork_failed(self, template: Template, reason: str) -> None:
        """A container could not be forked from it; where that goes on, no more are."""
        template.failures += 1
        if template.state == "ready" and template.failures >= MAX_FAILURES:
            template.state = "failed"
            template.reason = reason
            self._services.changed()
            self._evict()

    def fork_ended(self, template: Template, container_id: str) -> None:
        """A container that was forked from it is gone."""
        template.forks.discard(container_id)
        self._evict()

    async def close(self) -> None:
        """End them all; their forks end with them."""
        self._closed = True
        self.spares.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._end(template) for template in self._known.values()))
        await asyncio.gather(*self._ends)
        self._known.clear()

    async def _failed(self, template: Template, error: Exception) -> None:
        template.state = "failed"
        template.reason = one_line(error)
        log.warning("No template of %s: %s", template.label, template.reason)
        await self._end(template)

    async def _end(self, template: Template) -> None:
        """What has begun here is not left half done, whoever is cancelled."""
        process, link, plan = template.process, template.link, template.plan
        template.process = template.link = None
        end = asyncio.ensure_future(self._remove(template, process, link, plan))
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
        await asyncio.shield(end)

    async def _remove(
        self,
        template: Template,
        process: ContainerProcess | None,
        link: TemplateLink | None,
        plan: ContainerPlan | None,
    ) -> None:
        await self.spares.end(template)
        if process is not None:
            with contextlib.suppress(Exception):
                await process.kill()
        if link is not None:
            link.gone("the template has ended")
        if process is not None:
            try:
                await process.remove()
            except Exception:
                log.exception("Template %s could not be removed completely.", template.template_id)
        if plan is not None:
            remove_folder(plan.folder)

    def _watch(self, template: Template, process: ContainerProcess, link: TemplateLink) -> None:
        output = ContainerOutput(process.output, lambda _stream, _text: None)

        async def until_it_ends() -> None:
            status = await process.wait()
            output.flush()
            said = output.tail()
            output.close()
            if template.process is not process:
                return
            reason = f"the template ended by itself (exit status {status.code})"
            if status.oom:
                reason = "the template ran out of memory"
            log.warning("Template of %s: %s. %s", template.label, reason, said)
            link.gone(reason)
            if template.state in ("ready", "making"):
                template.ended = template.state == "ready"
                template.state, template.reason = "failed", reason
            await self._end(template)
            self._services.changed()

        self._run(until_it_ends())

    def _evict(self) -> None:
        """Let go of the least recently used templates that nothing runs of, and that there is no room for."""
        if self._closed:
            return
        notes = [each for each in self._known.values() if each.process is None and each.settled.is_set()]
        for template in sorted(notes, key=lambda each: each.used)[:-MAX_NOTES]:
            del self._known[template.key]
        idle = [each for each in self._known.values() if not each.forks and each.settled.is_set()]
        idle.sort(key=lambda each: each.used)
        used = sum(each.process.use().memory for each in self._known.values() if each.process is not None)
        living = sum(1 for each in self._known.values() if each.process is not None)
        for template in idle:
            if used <= self._services.settings.template_budget() * MIB and living <= MAX_TEMPLATES:
                break
            if template.process is not None:
                used -= template.process.use().memory
                living -= 1
                del self._known[template.key]
                self._run(self._end(template))
                self._services.changed()

    # --- parts -----------------------------------------------------------------------------------

    def _plan(self, template: Template, *, forkable: bool) -> ContainerPlan:
        spec = template.spec
        folder = self._services.folder / template.template_id
        return ContainerPlan(
            container_id=template.template_id,
            folder=folder,
            image=spec.image,
            command=runner_command(spec.image),
            env={**spec.env, "SKYLIFT_TEMPLATE": f"{SOCKET_FOLDER}/{SOCKET_NAME}"},
            memory_limit=spec.memory_limit,
            gpus=template.gpus,
            block_network=True,
            binds=(*runner_binds(spec), Bind(folder / "run", SOCKET_FOLDER)),
            template=forkable,
        )

    async def in_thread(self, function: Callable[..., Any], *arguments: object) -> Any:
        """What a function that may block returns."""
        return await asyncio.get_running_loop().run_in_executor(self._services.threads, function, *arguments)

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
