"""Builds of images: found built already, or made by a host, once for all who ask for the same at a time.

A build is watched by the clients that asked for it. One that nobody watches any more is cancelled: at once
where the last watcher says so, and where its client is just gone, when that counts as gone for good.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec
from blake3 import blake3

from skylift.backend.pools import Host
from skylift.backend.registry import Client, Registry
from skylift.lazyfs.image_records import read_image, still_there
from skylift.lazyfs.names import Names
from skylift.lazyfs.store import Store, StoreError
from skylift.wire import (
    AddFiles,
    BuildEnded,
    BuildImage,
    BuildOutput,
    CancelBuild,
    CopyFrom,
    ImageDefinition,
    ImageSpec,
    ImageStep,
    Problem,
    RunCommands,
    definition_keys,
    is_id,
)

if TYPE_CHECKING:
    from skylift.backend.engines.base import Engine, EngineStatus

MAX_STEPS = 500
"""Of one image, with those of the images that it copies from."""

MAX_DEPTH = 8
"""Images that are copied from in images that are copied from."""

MAX_BUILDS = 32
"""At once."""

MAX_WATCHERS = 1000
"""Of all builds."""

LOG_KEPT = 1024 * 1024
"""Characters of a build's output that are kept for who comes later."""

MERGED = 64 * 1024
"""Characters: shorter pieces of output are put together."""

ATTEMPTS = 3
"""How often a build is begun, where hosts are lost."""

HOST_SECONDS = 120.0
"""That a build waits for a host to be there."""

log = logging.getLogger(__name__)


class BuildLog:
    """What a build has said so far, bounded: its last output, and the last word of each step."""

    def __init__(self) -> None:
        self.printed = 0
        """Characters."""
        self._kept: list[BuildOutput] = []
        self._length = 0

    def add(self, output: BuildOutput) -> BuildOutput:
        """Keep a message of the host; returns it with its place in all that was printed."""
        output = msgspec.structs.replace(output, at=self.printed)
        self.printed += len(output.text)
        if output.total and not output.text:
            return output  # how far something is, which is of interest at this moment only
        last = self._kept[-1] if self._kept else None
        if (
            last is not None
            and last.text
            and (last.step, last.state) == (output.step, output.state)
            and len(last.text) < MERGED
        ):
            self._kept[-1] = msgspec.structs.replace(last, text=last.text + output.text)
        else:
            self._kept.append(output)
        self._length += len(output.text)
        while self._length > LOG_KEPT:
            first = next(index for index, kept in enumerate(self._kept) if kept.text)
            self._length -= len(self._kept[first].text)
            del self._kept[first]
        return output

    def __iter__(self) -> Iterator[BuildOutput]:
        return iter(tuple(self._kept))


class Build:
    """One image that is being built."""

    def __init__(self, key: str, user: str, message: BuildImage) -> None:
        self.key = key
        self.user = user
        self.message = message
        """As it is sent to a host: it has an id of the gateway's."""
        self.watchers: dict[tuple[str, str], Client] = {}
        """By client and the id that it gave the build."""
        self.log = BuildLog()
        self.host: Host | None = None
        self.attempts = 0
        self.waiting: asyncio.TimerHandle | None = None
        """Set while there is no host for it."""


class Builds:
    """Answers `BuildImage` of clients."""

    def __init__(self, registry: Registry, names: Names, engines: Iterable[Engine]) -> None:
        self.registry = registry
        self.names = names
        self.engines = list(engines)
        self._builds: dict[tuple[str, str], Build] = {}
        """By user and key."""
        self._by_id: dict[str, Build] = {}
        self._given_up: dict[tuple[str, str], int] = {}
        """How often builds were cancelled, by user and key."""
        self._cancelled: set[str] = set()
        """Of these, what hosts know them by."""
        self._since = time.monotonic()
        self._looking: dict[tuple[str, str], asyncio.Task[None]] = {}
        """Questions whether an image is there, by client and build id."""

    def stop(self) -> None:
        """Answer nobody any more."""
        for task in self._looking.values():
            task.cancel()
        for build in self._builds.values():
            if build.waiting is not None:
                build.waiting.cancel()

    # --- what clients say ----------------------------------------------------------------------------

    def ask(self, client: Client, message: BuildImage) -> None:
        """A client wants an image, perhaps not for the first time."""
        asked = (client.client_id, message.build_id)
        problem = self._problem_with(message)
        if problem is not None:
            _answer(client, message.build_id, problem)
            return
        for build in self._builds.values():
            if asked in build.watchers:
                # Its client has connected again.
                self._watch(build, client, message.build_id)
                return
        if asked not in self._looking:
            task = self.registry.loop.create_task(self._find_or_build(client, message))
            self._looking[asked] = task
            task.add_done_callback(lambda _: self._looking.pop(asked, None))

    def cancel(self, client: Client, message: CancelBuild) -> None:
        """A client does not want its image any more."""
        asked = (client.client_id, message.build_id)
        task = self._looking.get(asked)
        if task is not None:
            task.cancel()
        for build in list(self._builds.values()):
            if build.watchers.pop(asked, None) is not None and not build.watchers:
                self._give_up(build, "nobody waits for it any more")

    def left(self, client: Client) -> None:
        """A client is gone for good."""
        for client_id, build_id in list(self._looking):
            if client_id == client.client_id:
                self._looking[client_id, build_id].cancel()
        for build in list(self._builds.values()):
            for asked in [asked for asked in build.watchers if asked[0] == client.client_id]:
                del build.watchers[asked]
            if not build.watchers:
                self._give_up(build, "whoever waited for it is gone")

    async def _find_or_build(self, client: Client, message: BuildImage) -> None:
        try:
            loop, store = self.registry.loop, self.registry.store
            found = await loop.run_in_executor(None, _look_up, self.names, store, message.image)
        except (OSError, StoreError) as error:
            text = f"The gateway cannot look for the image among those that were built: {error}"
            found = Problem(error="ImageBuildError", message=text)
        if isinstance(found, ImageSpec):
            if client.port is not None:
                client.port.send(BuildEnded(build_id=message.build_id, image=found))
        elif found is not None:
            _answer(client, message.build_id, found)
        elif (problem := self._forbidden(client)) is not None:
            _answer(client, message.build_id, problem)
        else:
            self._join(client, message)

    def _join(self, client: Client, message: BuildImage) -> None:
        key = definition_keys(message.image)[-1]
        build = self._builds.get((client.user, key))
        if build is None:
            if len(self._builds) >= MAX_BUILDS:
                text = f"The gateway has {len(self._builds)} images being built, its limit. Try again later."
                _answer(client, message.build_id, Problem(error="ResourceExhaustedError", message=text))
                return
            sent = BuildImage(build_id=self._id(client.user, key), image=message.image)
            build = self._builds[client.user, key] = Build(key, client.user, sent)
            self._by_id[sent.build_id] = build
            self._watch(build, client, message.build_id)
            self._begin(build)
        else:
            self._watch(build, client, message.build_id)

    def _id(self, user: str, key: str) -> str:
        """What the host knows a build by. A gateway that is started again calls it the same, so the host goes
        on with it; after one that was cancelled, which may not have ended yet, it is another."""
        digest = blake3(f"{user} {key}".encode()).hexdigest(16)
        return f"bu-{digest}{self._given_up.get((user, key), 0)}"

    def _watch(self, build: Build, client: Client, build_id: str) -> None:
        if sum(len(other.watchers) for other in self._builds.values()) >= MAX_WATCHERS:
            text = f"{MAX_WATCHERS:,} clients wait for images already, the limit. Try again later."
            _answer(client, build_id, Problem(error="ResourceExhaustedError", message=text))
            return
        build.watchers[client.client_id, build_id] = client
        if client.port is not None:
            for output in build.log:
                client.port.send(msgspec.structs.replace(output, build_id=build_id))

    def _problem_with(self, message: BuildImage) -> Problem | None:
        if not is_id(message.build_id, "bu"):
            text = f"{message.build_id!r} is not the id of a build (bu-…)."
            return Problem(error="InvalidError", message=text)
        steps = _all_steps(message.image)
        if steps is None:
            text = f"This image copies from images {MAX_DEPTH} deep, or deeper; that is the limit."
            return Problem(error="InvalidError", message=text)
        if not message.image.steps:
            return Problem(
                error="InvalidError", message="An image needs at least one step: what it begins with."
            )
        if len(steps) > MAX_STEPS:
            text = f"This image has {len(steps):,} steps; {MAX_STEPS} is the limit. Join some of them."
            return Problem(error="InvalidError", message=text)
        return None

    def _forbidden(self, client: Client) -> Problem | None:
        container = self.registry.containers.get(client.container_id) if client.container_id else None
        if container is None or not container.pool.spec.block_network:
            return None
        return Problem(
            error="PermissionDeniedError",
            message=f"Code in {container.pool.label}, which has no network (block_network=True), cannot "
            "build images: builds have a network. Build this one in the notebook first, with image.build()",
        )

    # --- hosts -----------------------------------------------------------------------------------------

    def host_came(self, host: Host) -> None:
        """A host has a link, perhaps after it was lost for a moment."""
        for build in list(self._builds.values()):
            if build.host is not None and build.host.host_id == host.host_id:
                # It may go on with it; and where it was started anew meanwhile, it begins it again.
                build.host = host
                self._send(build)
            elif build.host is None:
                self._begin(build)

    def host_gone(self, host: Host, why: str) -> None:
        """A host is gone for good."""
        for build in list(self._builds.values()):
            if build.host is not host:
                continue
            build.host = None
            if build.attempts < ATTEMPTS:
                self._say(build, f"skylift: host {host.name} was lost ({why}); the build begins again\n")
                self._begin(build)
                continue
            text = (
                f"The image was not built: host {host.name} was lost during its build ({why}), which had "
                f"been begun {build.attempts} times. Steps that were done are kept; build it again to go on."
            )
            self._end(build, BuildEnded(build_id="", problem=Problem(error="ImageBuildError", message=text)))

    def output(self, host: Host, message: BuildOutput) -> None:
        """What a build printed, or what it is at."""
        build = self._by_id.get(message.build_id)
        if build is not None and build.host is host:
            self._tell(build, message)
        elif build is None and host.port is not None:
            # It was cancelled while the host had no link; or it is from before this gateway was started, and
            # whoever waits for it is about to be back.
            grace = self.registry.settings.gateway.client_grace
            if message.build_id in self._cancelled or time.monotonic() > self._since + grace:
                host.port.send(CancelBuild(build_id=message.build_id))

    def ended(self, host: Host, message: BuildEnded) -> None:
        """A build is over, well or not."""
        build = self._by_id.get(message.build_id)
        if build is not None and build.host is host:
            self._end(build, message)

    def _begin(self, build: Build) -> None:
        """Give a build to the host with the fewest, or wait for one."""
        if build.waiting is not None:
            build.waiting.cancel()
            build.waiting = None
        hosts = [host for host in self.registry.hosts.values() if host.port is not None]
        if not hosts:
            problem = next((status.problem for status in self._statuses() if status.problem), "")
            seconds = 0.0 if problem else HOST_SECONDS
            build.waiting = self.registry.loop.call_later(seconds, self._no_host, build, problem)
            return
        building = [other.host for other in self._builds.values()]
        build.host = min(hosts, key=building.count)
        build.attempts += 1
        self._send(build)

    def _send(self, build: Build) -> None:
        if build.host is not None and build.host.port is not None:
            build.host.port.send(build.message)

    def _no_host(self, build: Build, problem: str) -> None:
        why = problem or f"none came within {HOST_SECONDS:g} seconds"
        text = f"The image was not built: there is no host to build it on ({why}). %skylift doctor says more."
        self._end(build, BuildEnded(build_id="", problem=Problem(error="ImageBuildError", message=text)))

    def _statuses(self) -> Iterator[EngineStatus]:
        return (engine.describe() for engine in self.engines)

    # --- their watchers --------------------------------------------------------------------------------

    def _say(self, build: Build, text: str) -> None:
        """A word of the gateway's own in the log."""
        last = next(reversed([*build.log]), None)
        step, steps = (last.step, last.steps) if last is not None else (0, len(build.message.image.steps))
        self._tell(build, BuildOutput(build_id="", step=step, steps=steps, text=text))

    def _tell(self, build: Build, message: BuildOutput) -> None:
        message = build.log.add(message)
        for (_, build_id), client in build.watchers.items():
            if client.port is not None:
                client.port.send(msgspec.structs.replace(message, build_id=build_id))

    def _end(self, build: Build, message: BuildEnded) -> None:
        self._forget(build)
        for (_, build_id), client in build.watchers.items():
            if client.port is not None:
                client.port.send(msgspec.structs.replace(message, build_id=build_id))

    def _give_up(self, build: Build, why: str) -> None:
        log.info("The build of image %s is cancelled: %s.", build.key[:12], why)
        asked = (build.user, build.key)
        self._given_up[asked] = self._given_up.get(asked, 0) + 1
        self._cancelled.add(build.message.build_id)
        if build.host is not None and build.host.port is not None:
            build.host.port.send(CancelBuild(build_id=build.message.build_id))
        self._forget(build)

    def _forget(self, build: Build) -> None:
        if build.waiting is not None:
            build.waiting.cancel()
        self._builds.pop((build.user, build.key), None)
        self._by_id.pop(build.message.build_id, None)


def _answer(client: Client, build_id: str, problem: Problem) -> None:
    if client.port is not None:
        client.port.send(BuildEnded(build_id=build_id, problem=problem))


def _look_up(names: Names, store: Store, image: ImageDefinition) -> ImageSpec | Problem | None:
    """The image where it is built; what is missing to build it; or None."""
    known = read_image(names, definition_keys(image)[-1])
    if known is not None and still_there(known, store):
        return known
    for step in _all_steps(image) or []:
        for blob in _blobs(step):
            try:
                missing = not store.has(blob)
            except ValueError:
                text = f"{blob!r} in step {step.label!r} is not the name of a blob."
                return Problem(error="InvalidError", message=text)
            if missing:
                return Problem(
                    error="NotFoundError",
                    message=f"Files of step {step.label!r} are not in the store, which has no blob {blob}. "
                    "Send them again.",
                )
    return None


def _all_steps(image: ImageDefinition, depth: int = 0) -> list[ImageStep] | None:
    """With those of the images that it copies from; None where these are too deep."""
    if depth == MAX_DEPTH:
        return None
    found: list[ImageStep] = []
    for step in image.steps:
        found.append(step)
        if isinstance(step, CopyFrom):
            inner = _all_steps(step.image, depth + 1)
            if inner is None:
                return None
            found += inner
    return found


def _blobs(step: ImageStep) -> Iterator[str]:
    if isinstance(step, AddFiles):
        for archive in step.archives:
            yield from archive.blobs
    elif isinstance(step, RunCommands):
        yield from step.inputs.values()
