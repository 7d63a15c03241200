"""Builds images on this host: runs their steps, keeps what each made, and tells how it goes.

What a step made is remembered under the step's key beside the store (`skylift.lazyfs.image_records`), so any
host that shares the store goes on from there. A build that is cancelled or fails leaves what its finished
steps made, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from skylift.lazyfs.image_records import read_image, read_step, still_there, write_image, write_step
from skylift.lazyfs.leases import Lease
from skylift.lazyfs.names import Names
from skylift.lazyfs.store import Store, StoreError
from skylift.runtime.build_error import BuildError, build_problem
from skylift.runtime.build_log import BuildLog
from skylift.runtime.image_steps import StepMaker, StepServices
from skylift.runtime.isolation import Isolation, StartError
from skylift.wire import BuildEnded, BuildImage, BuildOutput, CancelBuild, ImageSpec, Problem
from skylift.wire.images import (
    CopyFrom,
    FromDebian,
    FromRegistry,
    FromScratch,
    ImageDefinition,
    ImageStep,
    definition_keys,
)

log = logging.getLogger(__name__)

_BEGINNINGS = (FromScratch, FromDebian, FromRegistry)
_NOTHING = ImageSpec(kind="layers", python="", python_version="")


class ImageBuilder:
    """The builds of one host. Its methods are called on the event loop."""

    def __init__(
        self,
        folder: Path,
        containers: Path,
        store: Store,
        names: Names,
        isolation: Isolation,
        send: Callable[[BuildOutput | BuildEnded], None],
        plain_http: Collection[str] = (),
    ) -> None:
        """`folder` is for what becomes layers, `containers` for containers' folders; `plain_http` are
        registries that are spoken to without TLS."""
        self._folder = folder
        self._containers = containers
        self._store = store
        self._names = names
        self._isolation = isolation
        self._send = send
        self._plain_http = plain_http
        self._builds: dict[str, asyncio.Task[None]] = {}
        self._steps: dict[str, asyncio.Lock] = {}

    def build(self, command: BuildImage) -> None:
        """Build an image; the answer is sent. The same build is begun once."""
        if command.build_id not in self._builds:
            task = asyncio.get_running_loop().create_task(self._build(command))
            self._builds[command.build_id] = task
            task.add_done_callback(lambda _: self._builds.pop(command.build_id, None))

    def cancel(self, command: CancelBuild) -> None:
        """End a build, whatever it is at."""
        task = self._builds.get(command.build_id)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """End all builds, and return when nothing of them is left."""
        tasks = list(self._builds.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def clean(self) -> None:
        """Remove what builds of a host before this one have left."""
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _build(self, command: BuildImage) -> None:
        definition = command.image
        progress = BuildLog(command.build_id, len(definition.steps), self._send)
        at = Place()
        image: ImageSpec | None = None
        problem: Problem | None = None
        try:
            _check(definition)
            why = self._why_not()
            if why:
                raise BuildError(why)
            image = await self._image(definition, progress, at)
        except asyncio.CancelledError:
            problem = Problem(error="ImageBuildError", message="The build was cancelled.")
        except (BuildError, StartError, StoreError, OSError) as error:
            said = progress.last_lines() if isinstance(error, BuildError) and error.said else []
            problem = build_problem(str(error), at.step, len(definition.steps), at.label, said)
        except Exception as error:
            log.exception("Build %s failed.", command.build_id)
            text = f"The host failed to build the image: {error!r}. Its log says more."
            problem = Problem(error="InternalFailure", message=text)
        progress.close()
        self._send(BuildEnded(build_id=command.build_id, image=image, problem=problem))

    async def _image(self, definition: ImageDefinition, progress: BuildLog, at: Place) -> ImageSpec:
        """The image of a definition, built as far as it is not there."""
        keys = definition_keys(definition)
        maker = StepMaker(
            StepServices(
                store=self._store,
                names=self._names,
                isolation=self._isolation,
                containers=self._containers,
                scratch=self._folder,
                plain_http=self._plain_http,
                image_of=lambda other: self._other_image(other, progress, at),
            ),
            progress,
        )
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        final = await asyncio.to_thread(self._there, read_image, keys[-1])
        first, image = await asyncio.to_thread(self._known, keys) if final is None else (len(keys), final)
        for number, (key, step) in enumerate(zip(keys, definition.steps, strict=True)):
            at.step, at.label = number, step.label or _label(step)
            progress.begin(number, at.label)
            if number < first:
                progress.end("cached")
                continue
            async with self._steps.setdefault(key, asyncio.Lock()):
                known = await asyncio.to_thread(self._there, read_step, key)
                image = known or await self._make(maker, step, key, image)
            progress.end("cached" if known is not None else "done")
        if final is not None:
            return final
        if image.layers:
            image = await maker.probed(image)
        image = msgspec.structs.replace(image, fingerprint=keys[-1])
        await asyncio.to_thread(write_image, self._names, keys[-1], image)
        return image

    async def _make(self, maker: StepMaker, step: ImageStep, key: str, image: ImageSpec) -> ImageSpec:
        """What a step makes, remembered under its key."""
        # Until it is, nothing but the lease keeps its chunks from whoever collects garbage.
        lease = await asyncio.to_thread(Lease, self._names, "build of an image")
        try:
            with lease.renewed_meanwhile():
                image = msgspec.structs.replace(await maker.make(step, image), fingerprint=key)
            await asyncio.to_thread(lease.renew)
            await asyncio.to_thread(write_step, self._names, key, image)
        finally:
            with contextlib.suppress(OSError):
                lease.end()
        return image

    async def _other_image(self, definition: ImageDefinition, progress: BuildLog, at: Place) -> ImageSpec:
        """One that a step copies from: what is said of it counts as that step's."""
        _check(definition)
        return await self._image(definition, Within(progress), Place())

    def _known(self, keys: tuple[str, ...]) -> tuple[int, ImageSpec]:
        """How many of the steps are made already, and what the last of these has made."""
        for number in range(len(keys), 0, -1):
            image = self._there(read_step, keys[number - 1])
            if image is not None:
                return number, image
        return 0, _NOTHING

    def _there(self, read: Callable[[Names, str], ImageSpec | None], key: str) -> ImageSpec | None:
        image = read(self._names, key)
        return image if image is not None and still_there(image, self._store) else None

    def _why_not(self) -> str:
        if self._isolation.layers is None:
            return (
                'this host starts plain processes (isolation = "process" in [host] of config.toml), and an '
                "image is built in containers."
            )
        if self._isolation.rootless:
            return "this host does not run as root, and only root can build images. Built ones can be used."
        return ""


class Place:
    """Where a build is."""

    step = 0
    label = ""


class Within(BuildLog):
    """Of an image that another one copies from: says what it does as text of that one's step."""

    def __init__(self, outer: BuildLog) -> None:
        self._outer = outer

    def begin(self, step: int, label: str) -> None:
        """See `BuildLog.begin`."""
        self._outer.text(f"– {label}\n")

    def end(self, state: str) -> None:
        """See `BuildLog.end`."""

    def text(self, text: str) -> None:
        """See `BuildLog.text`."""
        self._outer.text(text)

    def moved(self, done: int, total: int) -> None:
        """See `BuildLog.moved`."""
        self._outer.moved(done, total)


def _check(definition: ImageDefinition) -> None:
    steps = definition.steps
    if not steps or not isinstance(steps[0], _BEGINNINGS):
        raise BuildError("an image must begin with a base, as Image.debian_slim().")
    if any(isinstance(step, _BEGINNINGS) for step in steps[1:]):
        raise BuildError("an image has one base, and it is the first step.")


def _label(step: ImageStep) -> str:
    if isinstance(step, FromDebian):
        return f"debian with Python {step.python}"
    if isinstance(step, FromRegistry):
        return step.reference
    if isinstance(step, CopyFrom):
        return f"copy {step.source}"
    return type(step).__name__
