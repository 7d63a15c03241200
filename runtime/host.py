"""The host process: what the gateway tells it, it does; what happens here, it tells the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from skylift.lazyfs.open_store import open_store
from skylift.lazyfs.store import LocalStore, StoreFullError
from skylift.runtime.calls import Call, Task
from skylift.runtime.code_cache import CodeCache
from skylift.runtime.container_files import remove_folder
from skylift.runtime.containers import Container, ContainerServices
from skylift.runtime.gateway_link import GatewayLink
from skylift.runtime.gpus import GpuInventory
from skylift.runtime.image_builder import ImageBuilder
from skylift.runtime.isolation import CHILDREN_FOLDER, CheckpointError, Isolation
from skylift.runtime.settings import HostSettings
from skylift.runtime.sleeping import SessionSnapshots
from skylift.runtime.snapshot_errors import SnapshotError
from skylift.runtime.snapshot_opening import open_snapshots
from skylift.runtime.snapshots import Snapshots
from skylift.runtime.start_paths import StartPaths
from skylift.runtime.template import one_line
from skylift.runtime.templates import Templates, TemplateServices
from skylift.runtime.usage import UsageSampler
from skylift.runtime.volume_mounts import HostVolumes
from skylift.runtime.work import Grace, WorkServices
from skylift.wire import (
    PROTOCOL,
    BuildImage,
    CallKind,
    CallLost,
    CancelBuild,
    CancelCall,
    Code,
    ContainerChanged,
    EndMap,
    ForgetSession,
    HostCommand,
    HostFacts,
    HostHello,
    HostWelcome,
    Payload,
    Persisted,
    Problem,
    Returned,
    RunCall,
    RunInputs,
    SessionSlept,
    Shutdown,
    SleepContainer,
    StartContainer,
    StopContainer,
    TemplatesChanged,
    Window,
    is_id,
    machine_id,
    new_id,
)

_FLUSH_SECONDS = 2.0
_STOP_GRACE = 5.0
_REMOVAL_SECONDS = 30.0
"""How long the end of a container may take beyond the grace of its exit handlers."""
_ENDINGS_KEPT = 256

log = logging.getLogger(__name__)


class Host:
    """Containers, calls and the link, put together."""

    def __init__(
        self, home: Path, host_id: str, settings: HostSettings, isolation: Isolation, gpus: GpuInventory
    ) -> None:
        """`home` is ``$SKYLIFT_HOME``."""
        self._home = home
        self._host_id = host_id
        self._settings = settings
        self._isolation = isolation
        self._gpus = gpus
        self._containers: dict[str, Container] = {}
        self._gateway_slow = False
        self._lives: set[asyncio.Task[None]] = set()
        self._calls: dict[str, Call] = {}
        self._endings: deque[ContainerChanged] = deque(maxlen=_ENDINGS_KEPT)
        """Containers that ended while there was no gateway to tell."""
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="store")
        opened = open_store(settings.store, home, cache=home / "host" / "store-cache")
        self._codes = CodeCache(opened.store, LocalStore(home / "host" / "code"))
        self._link = GatewayLink(home, self)
        self._templates = Templates(
            TemplateServices(
                host_id=host_id,
                folder=home / "host" / "templates",
                settings=settings,
                isolation=isolation,
                gpus=gpus,
                codes=self._codes,
                threads=self._threads,
                changed=self._templates_changed,
            )
        )
        self._volumes = HostVolumes(
            home / "host" / "volumes", settings.store, home, opened.store, opened.names
        )
        self._sessions = SessionSnapshots(home / "host" / "snapshots" / "sessions", self._threads)
        self._services = ContainerServices(
            host_id=host_id,
            folder=home / "host" / "containers",
            gateway=home / "gateway.json",
            isolation=isolation,
            gpus=gpus,
            work=WorkServices(
                store=opened.store,
                codes=self._codes,
                threads=self._threads,
                grace=Grace(timeout=settings.timeout_grace, cancel=settings.cancel_grace),
                send=self._link.send,
                forget=self._forget,
            ),
            paths=StartPaths(home / "host" / "containers", isolation, self._templates),
            sessions=self._sessions,
            volumes=self._volumes,
            worked=self._container_worked,
        )
        self._builder = ImageBuilder(
            home / "host" / "builds",
            home / "host" / "containers",
            opened.store,
            opened.names,
            isolation,
            self._link.send,
            settings.plain_http_registries,
        )
        self._asides: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._grace = _STOP_GRACE
        self._reason = ""
        self._orphaned: asyncio.TimerHandle | None = None
        self._commands: dict[type, Any] = {
            RunCall: self._run_call,
            RunInputs: self._run_inputs,
            Window: self._window,
            Persisted: self._persisted,
            Code: self._code,
            EndMap: self._end_map,
            CancelCall: self._cancel_call,
            StartContainer: self._start_container,
            StopContainer: self._stop_container,
            SleepContainer: self._sleep_container,
            ForgetSession: self._forget_session,
            BuildImage: self._builder.build,
            CancelBuild: self._builder.cancel,
            Shutdown: self._shutdown,
        }

    async def run(self) -> None:
        """Work until told to stop, or until there was no gateway for `orphan_timeout`; then end it all."""
        await self._isolation.adopt()
        self._volumes.set_up(self._isolation.owner, self._isolation.cannot_have_volumes)
        await self._recover_volumes()
        folders = (Path("containers"), Path("templates"), Path("snapshots", "sessions"))
        for parent in (self._home / "host" / each for each in folders):
            for folder in parent.glob("*"):
                remove_folder(folder)
        self._builder.clean()
        await self._open_snapshots()
        self._wait_for_gateway()
        sampler = UsageSampler(self._containers.values, self._gpus, self._link.send)
        background = [asyncio.create_task(self._link.run()), asyncio.create_task(sampler.run())]
        try:
            await self._stop.wait()
            log.info("Stopping: %s.", self._reason)
            await self._end_containers()
            await self._link.close(_FLUSH_SECONDS)
        finally:
            for task in background:
                task.cancel()
            await self._builder.close()
            await asyncio.gather(*background, *self._asides, return_exceptions=True)
            await self._templates.close()
            await asyncio.to_thread(self._volumes.close)
            await self._isolation.close()
            self._threads.shutdown(wait=False)

    def stop(self, reason: str, grace: float = _STOP_GRACE) -> None:
        """Make `run` return: containers' exit handlers have `grace` seconds. Called again, they have none."""
        if self._stop.is_set():
            for container in self._containers.values():
                container.kill(None)
        self._reason = self._reason or reason
        self._grace = grace
        self._stop.set()

    async def _recover_volumes(self) -> None:
        """What containers of a host that was killed had written to volumes is committed now."""
        folder = self._home / "host"
        left = [*folder.glob("containers/*"), *folder.glob(f"templates/*/{CHILDREN_FOLDER}/*")]
        if not self._isolation.cannot_have_volumes:
            await asyncio.to_thread(self._volumes.recover, left)

    async def _open_snapshots(self) -> None:
        loop = asyncio.get_running_loop()
        self._sessions.why_not = self._isolation.cannot_checkpoint
        if self._isolation.cannot_checkpoint:
            return
        folder = self._home / "host"
        try:
            snapshots = await open_snapshots(self._settings, self._home, self._host_id, self._threads)
            self._templates.snapshots = self._sessions.snapshots = snapshots
            await self._sessions.read()
        except (SnapshotError, OSError) as error:
            log.warning("The snapshots in %s cannot be used: %s", folder, error)
            self._templates.snapshots = self._sessions.snapshots = None
            self._sessions.why_not = one_line(error)
        else:
            room = self._settings.snapshot_cache * 1024 * 1024 // 2
            loop.run_in_executor(self._threads, _prefetch, snapshots, room)

    async def _end_containers(self) -> None:
        for container in list(self._containers.values()):
            container.stop(self._grace, self._reason)
        if self._lives:
            _, stuck = await asyncio.wait(self._lives, timeout=self._grace + _REMOVAL_SECONDS)
            if stuck:
                log.error("%d containers could not be removed; the next host tries again.", len(stuck))

    # --- the gateway (`GatewayListener`) ---------------------------------------------------------

    def hello(self) -> HostHello:
        """See `GatewayListener`."""
        alive = [each for each in self._containers.values() if each.state != "exited"]
        return HostHello(
            protocol=PROTOCOL,
            token=(self._home / "host-token").read_text(encoding="ascii").strip(),
            facts=self._facts(),
            containers=tuple(each.info for each in alive),
            pools={each.container_id: each.pool_id for each in alive},
            calls=tuple(call.report() for call in self._calls.values()),
            specs={each.pool_id: each.spec for each in alive},
            templates=self._templates.infos(),
            sleeping=self._sessions.known(),
        )

    def welcomed(self, welcome: HostWelcome) -> None:
        """See `GatewayListener`."""
        self._stop_waiting_for_gateway()
        for call in list(self._calls.values()):
            first = welcome.calls.get(call.call_id)
            if first is None:
                self._drop(call, "the gateway no longer knows it")
                continue
            call.persisted(first, end=False)
            for data in call.stream.since(first):
                self._link.send_encoded(data)
        while self._endings:
            self._link.send(self._endings.popleft())

    def commanded(self, command: HostCommand) -> None:
        """See `GatewayListener`."""
        act = self._commands.get(type(command))
        if act is not None:
            act(command)

    def gateway_slow(self, slow: bool) -> None:
        """See `GatewayListener`."""
        self._gateway_slow = slow
        for container in self._containers.values():
            container.hold_back(slow)

    def gateway_lost(self) -> None:
        """See `GatewayListener`."""
        if not self._stop.is_set():
            log.info("The gateway is gone; holding %d calls for it.", len(self._calls))
            self._wait_for_gateway()

    def _wait_for_gateway(self) -> None:
        seconds = self._settings.orphan_timeout
        reason = f"no gateway has come for {seconds:g} s"
        self._orphaned = asyncio.get_running_loop().call_later(seconds, self.stop, reason)

    def _stop_waiting_for_gateway(self) -> None:
        if self._orphaned is not None:
            self._orphaned.cancel()
            self._orphaned = None

    def _facts(self) -> HostFacts:
        return HostFacts(
            host_id=self._host_id,
            machine=machine_id(),
            hostname=platform.node(),
            cpus=self._settings.cpus_offered(),
            memory=self._settings.memory_offered(),
            gpus=self._gpus.infos(),
            isolation=self._isolation.name,
            rootless=self._isolation.rootless,
            kernel=platform.release(),
            cannot_sleep=self._sessions.why_not,
        )

    # --- containers ------------------------------------------------------------------------------

    def _start_container(self, command: StartContainer) -> None:
        if command.container_id in self._containers or self._stop.is_set():
            return
        container = Container(command, self._services, self._container_changed)
        container.hold_back(self._gateway_slow)
        self._containers[command.container_id] = container
        life = asyncio.create_task(container.run())
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)

    def _container_changed(self, container: Container, problem: Problem | None) -> None:
        message = ContainerChanged(info=container.info, problem=problem)
        if container.state == "exited":
            del self._containers[container.container_id]
            if container.slept:
                return  # `SessionSlept` has told it
            if problem is not None:
                log.warning("Container %s ended: %s", container.container_id, problem.message)
            if not self._link.up:
                self._endings.append(message)
        self._link.send(message)

    def _stop_container(self, command: StopContainer) -> None:
        container = self._containers.get(command.container_id)
        if container is not None:
            container.stop(command.grace, command.reason)

    def _container_worked(self, container: Container) -> None:
        self._templates.want(
            container.spec,
            container.user,
            container.work.last_function,
            real_gpus=container.has_real_gpus,
        )

    def _templates_changed(self) -> None:
        self._link.send(TemplatesChanged(templates=self._templates.infos()))

    # --- sleeping sessions -----------------------------------------------------------------------

    def _sleep_container(self, command: SleepContainer) -> None:
        container = self._containers.get(command.container_id)
        if container is not None and not container.sleeping:
            self._run_aside(self._sleep(container))

    async def _sleep(self, container: Container) -> None:
        try:
            slept = await container.sleep()
            await container.gone.wait()
        except CheckpointError as error:
            problem = Problem(error="ConflictError", message=one_line(error))
            self._link.send(SessionSlept(container_id=container.container_id, problem=problem))
        except Exception as error:
            log.exception("Container %s could not be put to sleep.", container.container_id)
            problem = Problem(error="InternalFailure", message=f"the host failed to write it: {error!r}")
            self._link.send(SessionSlept(container_id=container.container_id, problem=problem))
        else:
            self._link.send(
                SessionSlept(
                    container_id=container.container_id, session=slept.session, seconds=slept.seconds
                )
            )

    def _forget_session(self, command: ForgetSession) -> None:
        self._sessions.forget(command.pool_id)

    def _run_aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    def _shutdown(self, command: Shutdown) -> None:
        self.stop("the gateway said so", command.grace)

    # --- calls -----------------------------------------------------------------------------------

    def _code(self, command: Code) -> None:
        try:
            self._codes.put(command.function_id, command.code)
        except StoreFullError as error:
            # The calls that need what was lost will say so, by name.
            log.warning("Code was lost: %s", error)

    def _run_call(self, command: RunCall) -> None:
        if command.call_id in self._calls:
            return
        container = self._containers.get(command.container_id)
        if container is None or not container.accepts:
            reason = f"container {command.container_id} has ended"
            self._link.send(CallLost(call_id=command.call_id, reason=reason))
            return
        if command.kind == "kernel":
            try:
                container.open_kernel()
            except OSError as error:
                self._link.send(
                    CallLost(call_id=command.call_id, reason=f"no sockets for the kernel: {error}")
                )
                return
        call = self._new_call(command, command.kind)
        container.work.add(Task(call, (command.args,)))

    def _run_inputs(self, command: RunInputs) -> None:
        container = self._containers.get(command.container_id)
        if container is None or not container.accepts:
            self._link.send(Returned(call_id=command.call_id, inputs=command.indexes))
            return
        call = self._calls.get(command.call_id) or self._new_call(command, "map")
        call.container_id = command.container_id
        indexes: list[int] = []
        payloads: list[Payload] = []
        for index, payload in zip(command.indexes, command.items, strict=True):
            if index in call.pending:
                continue
            call.pending.add(index)
            if payload.blob or call.careful:
                # By themselves: of what is in the store, no more than one is in memory.
                self._add_inputs(container, call, indexes, payloads)
                indexes, payloads = [], []
                self._add_inputs(container, call, [index], [payload])
            else:
                indexes.append(index)
                payloads.append(payload)
        self._add_inputs(container, call, indexes, payloads)

    def _add_inputs(
        self, container: Container, call: Call, indexes: list[int], payloads: list[Payload]
    ) -> None:
        if indexes:
            container.work.add(Task(call, tuple(payloads), tuple(indexes)))

    def _new_call(self, command: RunCall | RunInputs, kind: CallKind) -> Call:
        call = Call(
            call_id=command.call_id,
            function_id=command.function_id,
            kind=kind,
            container_id=command.container_id,
            timeout=command.timeout,
            window=command.window,
            first_seq=command.first_seq,
            first_total=command.first_total,
            outlet=self._link.send_encoded,
        )
        self._calls[call.call_id] = call
        return call

    def _window(self, command: Window) -> None:
        call = self._calls.get(command.call_id)
        if call is not None:
            call.stream.consumed(command.total)

    def _persisted(self, command: Persisted) -> None:
        call = self._calls.get(command.call_id)
        if call is not None:
            call.persisted(command.seq, command.end)
            if call.forgotten():
                del self._calls[command.call_id]

    def _end_map(self, command: EndMap) -> None:
        call = self._calls.get(command.call_id)
        if call is None:
            return
        call.map_over = True
        if call.pending:
            self._drop(call, "the map is over")
        elif call.forgotten():
            del self._calls[command.call_id]

    def _cancel_call(self, command: CancelCall) -> None:
        call = self._calls.get(command.call_id)
        if call is not None:
            for container in list(self._containers.values()):
                container.work.cancel(call, command.mode, command.reason, command.index)

    def _forget(self, call: Call) -> None:
        self._calls.pop(call.call_id, None)

    def _drop(self, call: Call, reason: str) -> None:
        call.drop()
        self._forget(call)
        for container in list(self._containers.values()):
            container.work.cancel(call, "cancel", reason)


def _prefetch(snapshots: Snapshots, room: int) -> None:
    """Have what is likely to be restored ready; nobody waits for it."""
    with contextlib.suppress(SnapshotError):
        snapshots.prefetch(room)


def host_id(folder: Path) -> str:
    """The host's identifier: the same as long as its folder lives."""
    file = folder / "id"
    with contextlib.suppress(FileNotFoundError):
        known = file.read_text(encoding="ascii").strip()
        if is_id(known, "ho"):
            return known
    made = new_id("ho")
    file.write_text(made + "\n", encoding="ascii")
    return made
