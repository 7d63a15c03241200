"""A template for tests, and the containers that are forked from it, which run functions of the tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
from workshop import PYTHON, TIMEOUT, Finished, Workshop, environment, read_all

from skylift.runtime.container_files import RUNNER, SOCKET_FOLDER, library_binds
from skylift.runtime.isolation import CHILDREN_FOLDER, Bind, ContainerPlan, ContainerProcess, Fork
from skylift.runtime.runner_frames import DataMessage, Ready, Recalled, RunnerEvents
from skylift.runtime.runner_link import RunnerLink
from skylift.runtime.template_link import SOCKET_NAME, Prepared, TemplateLink
from skylift.wire.ids import new_id

T = TypeVar("T")

MODULES = "/opt/modules"
"""Where a template finds the modules of a test."""


class Child:
    """A container that was forked; takes in what its runner says."""

    process: ContainerProcess

    def __init__(self, plan: ContainerPlan) -> None:
        self.plan = plan
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self._failures: dict[str, str] = {}
        self._results: dict[str, asyncio.Future[bytes]] = {}
        self.link = RunnerLink(plan.folder / "run", plan.folder, self)

    @property
    def id(self) -> str:
        return self.plan.container_id

    async def ask(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns there."""
        await asyncio.wait_for(self.ready.wait(), TIMEOUT)
        module = sys.modules[function.__module__]
        cloudpickle.register_pickle_by_value(module)
        call = new_id("fc")
        result = self._results[call] = asyncio.get_running_loop().create_future()
        self.link.send({"t": "code", "id": call}, cloudpickle.dumps(function))
        header = {"t": "call", "call": call, "code": call, "kind": "call"}
        self.link.send(header, cloudpickle.dumps((args, {})))
        answer: T = pickle.loads(await asyncio.wait_for(result, TIMEOUT))
        return answer

    def tell(self, function: Callable[..., object], *args: Any) -> None:
        """Have it run something that it does not come back from."""
        cloudpickle.register_pickle_by_value(sys.modules[function.__module__])
        call = new_id("fc")
        self.link.send({"t": "code", "id": call}, cloudpickle.dumps(function))
        header = {"t": "call", "call": call, "code": call, "kind": "call"}
        self.link.send(header, cloudpickle.dumps((args, {})))

    def leave(self) -> None:
        """Have the runner end by itself."""
        self.link.control({"t": "exit"})
        self.link.send({"t": "exit"})

    async def finish(self) -> Finished:
        """Wait for its end, and remove it."""
        out, err = await asyncio.gather(*(asyncio.to_thread(read_all, each) for each in self.process.output))
        status = await asyncio.wait_for(self.process.wait(), TIMEOUT)
        await self.remove()
        return Finished(status, out, err)

    async def remove(self) -> None:
        self.link.close()
        await self.process.remove()

    # --- its runner's listener -------------------------------------------------------------------

    def runner_said(self, message: DataMessage, payload: memoryview) -> None:
        if isinstance(message, Ready):
            self.ready.set()
        if not isinstance(message, RunnerEvents):
            return
        at, result = 0, b""
        for kind, meta, size in message.events:
            data = bytes(payload[at : at + size])
            at += size
            if kind == "result":
                result = data
            elif kind == "error":
                self._failures[message.call] = str(meta.get("text"))
        waiting = self._results.get(message.call)
        if message.end is not None and waiting is not None:
            if message.end.state == "done":
                waiting.set_result(result)
            else:
                waiting.set_exception(AssertionError(self._failures.get(message.call, message.end.summary)))

    def runner_recalled(self, message: Recalled) -> None:
        pass

    def runner_came(self) -> None:
        pass

    def runner_away(self) -> None:
        self.gone.set()

    def runner_broke(self, reason: str) -> None:
        raise AssertionError(reason)


class Nursery:
    """One template, with what it printed."""

    process: ContainerProcess

    def __init__(self, shop: Workshop, plan: ContainerPlan) -> None:
        self.shop = shop
        self.plan = plan
        self.link = TemplateLink(plan.folder / "run")
        self.children: list[Child] = []
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.link.listen()
        self.process = await self.shop.isolation.create(self.plan)
        self._watching = asyncio.ensure_future(self._watch())
        await asyncio.wait_for(self.link.came(), TIMEOUT)

    async def preload(self, *modules: str, **more: Any) -> Prepared:
        return await asyncio.wait_for(self.link.preload(modules, **more), TIMEOUT)

    def child_plan(self, **more: Any) -> ContainerPlan:
        container_id = new_id("co")
        folder = self.plan.folder / CHILDREN_FOLDER / container_id
        folder.mkdir(mode=0o700, parents=True)
        env = {"SKYLIFT_SOCKET": f"{SOCKET_FOLDER}/runner.sock", **more.pop("env", {})}
        own = (Bind(folder / "run", SOCKET_FOLDER), *more.pop("binds", ()))
        return ContainerPlan(
            container_id=container_id,
            folder=folder,
            image=self.plan.image,
            command=self.plan.command,
            env=env,
            binds=(*library_binds(), *own),
            **more,
        )

    async def fork(
        self,
        *,
        spoil: Callable[[ContainerPlan], object] = lambda _: None,
        held: Callable[[Child, Fork], Awaitable[None]] | None = None,
        **more: Any,
    ) -> Child:
        """A container whose runner is ready; `spoil` is called just before the template is told, and `held`,
        where there is one, when the container holds."""
        child = Child(self.child_plan(**more))
        child.link.env = {"SKYLIFT_TOKEN": f"token of {child.id}"}
        await child.link.listen()
        try:
            fork = await self.shop.isolation.fork(self.plan, child.plan, hold=held is not None)
            try:
                spoil(child.plan)
                await self.link.fork(child.id, fork.request, fork.descriptors)
            except BaseException:
                await fork.abandon()
                raise
            child.process = await fork.born(self.link.status(child.id))
        except BaseException:
            child.link.close()
            raise
        self.children.append(child)
        if held is not None:
            await held(child, fork)
            fork.go()
        await asyncio.wait_for(child.ready.wait(), TIMEOUT)
        return child

    async def close(self) -> None:
        await asyncio.gather(*(child.remove() for child in self.children))
        if hasattr(self, "process"):
            await self.process.remove()
            for descriptor in self.process.output:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self.link.close()
        if self._watching is not None:
            await self._watching

    async def _watch(self) -> None:
        status = await self.process.wait()
        self.link.gone(f"the template ended with {status.code}")


@contextlib.asynccontextmanager
async def nursery(shop: Workshop, modules: Path | None = None, **more: Any) -> AsyncIterator[Nursery]:
    """A template that has not imported anything yet, and finds modules in a folder."""
    plan = template_plan(shop, modules, **more)
    made = Nursery(shop, plan)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


def template_plan(shop: Workshop, modules: Path | None = None, **more: Any) -> ContainerPlan:
    template_id = new_id("tp")
    folder = shop.home / "host" / "templates" / template_id
    folder.mkdir(mode=0o700, parents=True)
    env = {"SKYLIFT_TEMPLATE": f"{SOCKET_FOLDER}/{SOCKET_NAME}", **more.pop("env", {})}
    binds = [*library_binds(), Bind(folder / "run", SOCKET_FOLDER), *more.pop("binds", ())]
    if modules is not None:
        env["PYTHONPATH"] = MODULES
        binds.append(Bind(modules, MODULES))
    return ContainerPlan(
        container_id=template_id,
        folder=folder,
        image=environment(),
        command=[PYTHON, RUNNER],
        env=env,
        block_network=True,
        binds=tuple(binds),
        template=True,
        **more,
    )


class Forks:
    """A template that the tests of a module share, with an event loop of its own."""

    def __init__(self, home: Path, modules: Path | None, *names: str, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._stack = contextlib.AsyncExitStack()
        self.nursery: Nursery
        try:
            self.do(self._open(home, modules, names, settings))
        except BaseException:
            self.close()
            raise

    def do(self, work: Awaitable[T]) -> T:
        return self._loop.run_until_complete(asyncio.ensure_future(work, loop=self._loop))

    def close(self) -> None:
        try:
            self.do(self._stack.aclose())
            self.do(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()

    async def _open(
        self, home: Path, modules: Path | None, names: tuple[str, ...], settings: dict[str, Any]
    ) -> None:
        shop = await self._stack.enter_async_context(Workshop(home, **settings))
        self.nursery = await self._stack.enter_async_context(nursery(shop, modules))
        prepared = await self.nursery.preload(*names)
        assert ("", "") == (prepared.problem, prepared.unforkable)
