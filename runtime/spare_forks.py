"""Forks that are made ahead: of each template one, set up to the last step, for the next container.

Namespaces, a root and a network take some tens of milliseconds, in which nothing depends on whose container
it is to be. So they are made when there is time, and the next container takes what is there (Android's zygote
does the same: "unspecialized app processes"). Its memory is the template's, but for the few MB that it has
written to. It has had no code, no secret and no socket of its host yet, and its randomness is its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from typing import Any

from skylift.runtime.container_files import remove_folder
from skylift.runtime.container_plan import container_plan
from skylift.runtime.gpus import Gpu
from skylift.runtime.isolation import CHILDREN_FOLDER, ContainerProcess, Fork, Isolation, StartError
from skylift.runtime.template import Template, one_line
from skylift.wire import FunctionSpec, new_id

PAUSE = 0.2
"""Seconds without a start of a container, after which there is time for a spare one."""
KEPT = 600.0
"""Seconds without a start from a template, after which it has a spare fork no more."""

log = logging.getLogger(__name__)


class Spare:
    """A fork that waits."""

    def __init__(self, template: Template, spec: FunctionSpec, gpus: tuple[Gpu, ...]) -> None:
        assert template.plan is not None
        self.container_id = new_id("co")
        self.folder = template.plan.folder / CHILDREN_FOLDER / self.container_id
        self.needs = needs(spec, gpus)
        self.process: ContainerProcess | None = None
        self._plan = container_plan(spec, self.container_id, self.folder, self.folder / "run", gpus)
        self._template = template
        self._fork: Fork | None = None

    async def make(self, isolation: Isolation) -> None:
        """Fork it. Raises `StartError`, `TemplateGoneError`, OSError; nothing of it is left then."""
        template = self._template
        if template.plan is None or template.link is None or not template.forkable:
            raise StartError("the template has ended")
        link = template.link
        self._plan.folder.mkdir(mode=0o700, parents=True)
        (self._plan.folder / "run").mkdir(mode=0o755)
        try:
            fork = await isolation.fork(template.plan, self._plan, hold=True)
            try:
                await link.fork(self.container_id, fork.request, fork.descriptors)
            except BaseException:
                await fork.abandon()
                raise
            self.process = await fork.born(link.status(self.container_id))
            self._fork = fork
        except BaseException:
            remove_folder(self.folder)
            raise

    def go(self) -> ContainerProcess:
        """It is a container from now on, and somebody else's. Raises `StartError` where it has ended."""
        assert self._fork is not None
        assert self.process is not None
        self._fork.go()
        process, self.process = self.process, None
        return process

    async def remove(self) -> None:
        """Nobody needs it. Leaves nothing."""
        if self.process is not None:
            await self.discard()
            remove_folder(self.folder)

    async def discard(self) -> None:
        """The same, but for its folder, which another container may have then."""
        process, self.process = self.process, None
        assert process is not None
        assert self._fork is not None
        await self._fork.abandon()
        for descriptor in process.output:
            os.close(descriptor)
        try:
            await process.remove()
        except Exception:
            log.exception("Spare container %s could not be removed completely.", self.container_id)


def needs(spec: FunctionSpec, gpus: tuple[Gpu, ...]) -> object:
    """What a spare fork was made with, and so its container must have, beside its template."""
    return (spec.cpu, spec.cpu_limit, spec.memory_limit, spec.block_network, sorted(spec.env.items()), gpus)


class SpareForks:
    """Makes them, hands them out, and ends them. Methods are called on the event loop."""

    def __init__(
        self,
        isolation: Isolation,
        run: Callable[[Coroutine[Any, Any, None]], None],
        changed: Callable[[], None],
        *,
        wanted: bool = True,
    ) -> None:
        """`run` sees to it that something runs to its end; `changed` is called when a template has got one or
        has it no more. Where they are not `wanted`, none are made."""
        self._isolation = isolation
        self._run = run
        self._changed = changed
        self._spares: dict[str, Spare] = {}
        """By their template's key; those too that are not made yet, which have no process."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = not wanted

    def take(self, template: Template, spec: FunctionSpec, gpus: tuple[Gpu, ...]) -> Spare | None:
        """The spare fork that this container can be; it is the caller's then."""
        if self._closed:
            return None
        spare = self._spares.get(template.key)
        if spare is None or spare.process is None or spare.needs != needs(spec, gpus):
            return None
        self._note(template, False)
        return self._spares.pop(template.key)

    def drop(self, spare: Spare) -> None:
        """Its container does not start."""
        self._run(spare.remove())

    def want(self, template: Template, spec: FunctionSpec, gpus: tuple[Gpu, ...]) -> None:
        """Containers like this one are started: have one ready for the next, as soon as there is time."""
        if self._closed or spec.volumes or any(not gpu.simulated for gpu in gpus):
            return  # what differs from one container to the next, is mounted when it is made
        self._later(template.key, PAUSE, lambda: self._run(self._make(template, spec, gpus)))

    async def end(self, template: Template) -> None:
        """The template ends."""
        timer = self._timers.pop(template.key, None)
        if timer is not None:
            timer.cancel()
        spare = self._spares.pop(template.key, None)
        if spare is not None:
            self._note(template, False)
            await spare.remove()

    def close(self) -> None:
        """Make no more."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    async def _make(self, template: Template, spec: FunctionSpec, gpus: tuple[Gpu, ...]) -> None:
        key = template.key
        old = self._spares.get(key)
        if self._closed or not template.forkable or (old is not None and old.needs == needs(spec, gpus)):
            self._expect(template)
            return
        spare = self._spares[key] = Spare(template, spec, gpus)
        if old is not None:
            await old.remove()
        try:
            await spare.make(self._isolation)
        except Exception as error:
            if self._spares.get(key) is spare:
                del self._spares[key]
            log.warning("No spare container of %s: %s", template.label, one_line(error))
            return
        if self._spares.get(key) is not spare or not template.forkable:
            # The template has ended meanwhile.
            if self._spares.get(key) is spare:
                del self._spares[key]
            await spare.remove()
            return
        self._note(template, True)
        self._expect(template)
        self._run(self._watch(spare, template))

    async def _watch(self, spare: Spare, template: Template) -> None:
        assert spare.process is not None
        await spare.process.wait()  # it may be a container by then
        if self._spares.get(template.key) is spare:
            del self._spares[template.key]
            self._note(template, False)
            await spare.remove()

    def _note(self, template: Template, spare: bool) -> None:
        if template.spare != spare:
            template.spare = spare
            self._changed()

    def _expect(self, template: Template) -> None:
        self._later(template.key, KEPT, lambda: self._run(self.end(template)))

    def _later(self, key: str, seconds: float, then: Callable[[], None]) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

        def act() -> None:
            self._timers.pop(key, None)
            then()

        self._timers[key] = asyncio.get_running_loop().call_later(seconds, act)
