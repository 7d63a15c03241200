"""Images for tests: one base for all of them, and builders whose answers are kept."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from skylift.lazyfs.open_store import open_store
from skylift.runtime.image_builder import ImageBuilder
from skylift.runtime.isolation import ContainerPlan
from skylift.runtime.runc import RuncIsolation
from skylift.runtime.settings import HostSettings
from skylift.wire import BuildEnded, BuildImage, BuildOutput, CancelBuild, ImageSpec, new_id
from skylift.wire.images import (
    Archive,
    FromDebian,
    ImageDefinition,
    ImageStep,
    definition_keys,
)

T = TypeVar("T")

TIMEOUT = 100.0
BASE = FromDebian(python="3.11")
"""Of Debian 12, which the tests' machine is."""


class Built:
    """What a build has told."""

    def __init__(self, outputs: list[BuildOutput], ended: BuildEnded) -> None:
        self.outputs = outputs
        self.ended = ended

    @property
    def image(self) -> ImageSpec:
        assert self.ended.image is not None, self.ended.problem and self.ended.problem.message
        return self.ended.image

    @property
    def problem(self) -> str:
        assert self.ended.problem is not None
        return self.ended.problem.message

    @property
    def text(self) -> str:
        return "".join(output.text for output in self.outputs)

    @property
    def states(self) -> list[str]:
        """How each step ended."""
        return [output.state for output in self.outputs if output.state != "running"]


class Site:
    """A builder and the isolation that it builds with, in a home of its own."""

    def __init__(self, home: Path, **settings: object) -> None:
        home.mkdir(mode=0o700, exist_ok=True)
        self.home = home
        self.isolation = RuncIsolation(HostSettings(**settings), home / "host")  # type: ignore[arg-type]
        opened = open_store("", home)
        self.store, self.names = opened
        self.folder = home / "host" / "builds"
        self.containers = home / "host" / "containers"
        self.builder = ImageBuilder(
            self.folder, self.containers, self.store, self.names, self.isolation, self._take
        )
        self._outputs: dict[str, list[BuildOutput]] = {}
        self._ended: dict[str, asyncio.Future[BuildEnded]] = {}
        self.heard = asyncio.Condition()

    def _take(self, message: BuildOutput | BuildEnded) -> None:
        if isinstance(message, BuildOutput):
            self._outputs[message.build_id].append(message)
        else:
            self._ended[message.build_id].set_result(message)
        asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        async with self.heard:
            self.heard.notify_all()

    def begin(self, *steps: ImageStep, generation: int = 0) -> str:
        build_id = new_id("bu")
        self._outputs[build_id] = []
        self._ended[build_id] = asyncio.get_running_loop().create_future()
        definition = ImageDefinition(steps=steps, generation=generation)
        self.builder.build(BuildImage(build_id=build_id, image=definition))
        return build_id

    async def ended(self, build_id: str) -> Built:
        ended = await asyncio.wait_for(self._ended[build_id], TIMEOUT)
        return Built(self._outputs[build_id], ended)

    async def said(self, build_id: str, text: str) -> None:
        """Wait until a build has printed something."""
        async with self.heard:
            await asyncio.wait_for(
                self.heard.wait_for(
                    lambda: text in "".join(output.text for output in self._outputs[build_id])
                ),
                TIMEOUT,
            )

    def cancel(self, build_id: str) -> None:
        self.builder.cancel(CancelBuild(build_id=build_id))

    async def build(self, *steps: ImageStep, generation: int = 0) -> Built:
        return await self.ended(self.begin(*steps, generation=generation))

    async def run(self, image: ImageSpec, *command: str) -> tuple[int, str]:
        """A command in a container of an image: its exit code, and what it printed."""
        container_id = new_id("co")
        folder = self.containers / container_id
        folder.mkdir(parents=True)
        plan = ContainerPlan(container_id=container_id, folder=folder, image=image, command=list(command))
        process = None
        try:
            process = await self.isolation.create(plan)
            out, err = await asyncio.gather(
                *(asyncio.to_thread(_read_all, descriptor) for descriptor in process.output)
            )
            status = await asyncio.wait_for(process.wait(), TIMEOUT)
        finally:
            if process is not None:
                await process.remove()
            shutil.rmtree(folder)
        return status.code, out + err

    def nothing_left(self) -> None:
        """Of builds that are over: no folder, no mount but those of layers in use, no cgroup."""
        assert [] == list(self.containers.glob("*"))
        assert [] == list(self.folder.glob("*"))
        assert str(self.folder) not in Path("/proc/self/mountinfo").read_text()

    def archive(self, files: dict[str, bytes | tarfile.TarInfo]) -> Archive:
        """An archive of these files in the store; a `TarInfo` is put into it as it is."""
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as tar:
            for name, content in files.items():
                if isinstance(content, tarfile.TarInfo):
                    tar.addfile(content)
                    continue
                member = tarfile.TarInfo(name)
                member.size = len(content)
                member.mode = 0o644
                tar.addfile(member, io.BytesIO(content))
        data = raw.getvalue()
        half = len(data) // 2
        blobs = (self.store.put(data[:half]), self.store.put(data[half:]))
        return Archive(blobs=blobs, size=len(data))


@contextlib.asynccontextmanager
async def site(home: Path, **settings: object) -> AsyncIterator[Site]:
    """Ends all builds and mounts, whatever happens."""
    made = Site(home, **settings)
    await made.isolation.adopt()
    try:
        yield made
    finally:
        await made.builder.close()
        await made.isolation.close()


def on_site(home: Path, body: Callable[[Site], Awaitable[T]], **settings: object) -> T:
    """Run a test's body with a builder."""

    async def run() -> T:
        async with site(home, **settings) as made:
            return await body(made)

    return asyncio.run(run())


def home_with_base(home: Path) -> Path:
    """A home whose store has the base. It is built once on this machine, since that takes half a minute."""
    kept = Path(tempfile.gettempdir()) / f"skylift-test-images-{os.getuid()}"
    kept.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(kept / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        key = definition_keys(ImageDefinition(steps=(BASE,)))[-1]
        if not (kept / "names" / "images" / key).exists():
            for name in ("store", "names", "host"):
                shutil.rmtree(kept / name, ignore_errors=True)
            built = on_site(kept, lambda made: made.build(BASE))
            assert built.ended.problem is None, built.problem
        home.mkdir(mode=0o700, exist_ok=True)
        for name in ("store", "names"):
            shutil.copytree(kept / name, home / name, copy_function=os.link)
    finally:
        os.close(lock)
    return home


def _read_all(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode(errors="replace")
