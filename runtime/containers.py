"""The life of one container: plan, start, ready, work, end, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from skylift.lazyfs.store import StoreError
from skylift.lazyfs.volume_errors import VolumeError
from skylift.runtime.bucket_keys import without_keys
from skylift.runtime.container_files import (
    ELSEWHERE,
    SHORT_PREFIX,
    SOCKET_FOLDER,
    remove_folder,
)
from skylift.runtime.container_output import ContainerOutput
from skylift.runtime.container_plan import container_plan
from skylift.runtime.deaths import (
    Death,
    before_ready,
    broke_protocol,
    died,
    label,
    no_contact,
    startup_timed_out,
    stopped,
)
from skylift.runtime.gateway_proxy import GatewayProxy
from skylift.runtime.gpus import Gpu, GpuInventory
from skylift.runtime.isolation import (
    CheckpointError,
    ContainerProcess,
    ExitStatus,
    Isolation,
    ResourceUse,
)
from skylift.runtime.kernel_sockets import KernelSockets
from skylift.runtime.runner_frames import DataMessage, Need, Ready, Recalled, RunnerEvents, Started
from skylift.runtime.runner_link import SOCKET_NAME, RunnerLink
from skylift.runtime.sleeping import SessionSnapshots, Slept
from skylift.runtime.snapshot_errors import SnapshotError
from skylift.runtime.start_error import StartError
from skylift.runtime.start_paths import Attempt, Restored, StartPaths, Woken
from skylift.runtime.template import one_line
from skylift.runtime.unix_sockets import bind_in, fits_address
from skylift.runtime.volume_mounts import (
    ContainerVolumes,
    HostVolumes,
    MountFailedError,
    VolumeSocket,
)
from skylift.runtime.work import ContainerWork, WorkServices
from skylift.wire import ContainerInfo, ContainerState, ImageSpec, Problem, SnapshotRef, StartContainer

GATEWAY_SOCKET = "gateway.sock"
VOLUME_SOCKET = "volumes.sock"
SPEC_FILE = "spec.json"
"""Beside the sockets: what the container is made of, for code in it that asks for others like it."""

_CONTACT_SECONDS = 10.0
"""How long a runner may be away before its container is ended."""
_LAST_DATA_SECONDS = 2.0
"""How long to wait for what a runner sent, once its process is gone."""
_SINGLE_USE_GRACE = 5.0
_CHOOSE_SECONDS = 30.0
"""How long a container waits for its template to be restored, before it starts cold."""
_RELEASE_SECONDS = 30.0
"""How long a runner may take to let go of its link, so that it can be written."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class ContainerServices(msgspec.Struct, frozen=True):
    """What every container of a host uses."""

    host_id: str
    folder: Path
    """The folder of containers' folders."""
    gateway: Path
    """The file that says where the gateway is (``gateway.json``)."""
    isolation: Isolation
    gpus: GpuInventory
    work: WorkServices
    paths: StartPaths
    sessions: SessionSnapshots
    volumes: HostVolumes
    worked: Callable[[Container], None]
    """One that was started cold has done its first task."""


class Container:
    """One container. `run` is its whole life; `stop` and `kill` end it."""

    def __init__(
        self,
        command: StartContainer,
        services: ContainerServices,
        changed: Callable[[Container, Problem | None], None],
    ) -> None:
        """`changed` is called when it is ready, and once more when nothing of it is left; with the reason
        where it did not start, or died."""
        self.container_id = command.container_id
        self.pool_id = command.pool_id
        self.spec = command.spec
        self.state: ContainerState = "starting"
        self.gpus: tuple[Gpu, ...] = ()
        self.exit_reason = ""
        self.user = command.user
        self.slept = False
        """It ended because its session sleeps."""
        self._wake = command.wake
        self._attempt: Attempt | None = None
        self._path_reason = ""
        self._ready = asyncio.Event()
        self.gone = asyncio.Event()
        """Nothing is left of it."""
        self.sleeping = False
        """It is being written."""
        self._gpu_request = command.gpu
        self._services = services
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._began = time.time()
        self._path_seconds = 0.0
        self._folder = services.folder / command.container_id
        """Another one, where it is forked."""
        self._link = RunnerLink(self._folder / "run", self._folder, self)
        self._token = command.token
        self._proxy = GatewayProxy(self._link.folder, GATEWAY_SOCKET, services.gateway)
        self.work = ContainerWork(
            self.container_id, self.spec, self._link, services.work, self.kill, self._work_ended
        )
        self._process: ContainerProcess | None = None
        self._there = asyncio.Event()
        """`_process` is set. The runner of a restored container may be ready a moment before that."""
        self._volumes: ContainerVolumes | None = None
        self._volume_socket: VolumeSocket | None = None
        self._kernel: KernelSockets | None = None
        self._attached = not command.spec.volumes
        """Its volumes are mounted."""
        self._early = False
        """Its runner was ready before that."""
        self._output: ContainerOutput | None = None
        self._stopping: Death | None = None
        self._death: Death | None = None
        self._start_problem: Problem | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._killing: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        """It is to end, whether there is a process already or not."""

    # --- for people, and for the gateway ---------------------------------------------------------

    @property
    def accepts(self) -> bool:
        """Whether it can be given work."""
        return self.state != "exited" and self._stopping is None and self._death is None

    @property
    def info(self) -> ContainerInfo:
        """What people are told of it."""
        gpu = self.gpus[0].model if self.gpus else ""
        return ContainerInfo(
            container_id=self.container_id,
            host_id=self._services.host_id,
            state=self.state,
            app=self.spec.app,
            function=self.spec.name,
            session=self.spec.session,
            gpu=f"{gpu}:{len(self.gpus)}" if len(self.gpus) > 1 else gpu,
            simulated=any(each.simulated for each in self.gpus),
            path=self._attempt.path if self._attempt is not None else "cold",
            path_seconds=self._path_seconds,
            path_reason=self._path_reason,
            image=_image_name(self.spec.image),
            started=self._began,
            exit_reason=self.exit_reason,
        )

    @property
    def has_real_gpus(self) -> bool:
        """Whether it sees GPUs that are there."""
        return any(not gpu.simulated for gpu in self.gpus)

    def use(self) -> ResourceUse:
        """What it uses now."""
        if self._process is None:
            return ResourceUse()
        use = self._process.use()
        self.work.peak_memory = max(self.work.peak_memory, use.peak_memory)
        return use

    # --- its life --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start it, let it work, and return when nothing of it is left. Raises nothing: see `changed`."""
        was_ready = False
        problem: Problem | None = None
        try:
            status = await self._live()
            was_ready = self.state == "ready"
            await self._drain()
            problem = self._why(status, was_ready)
            if was_ready:
                # From here on it accepts nothing: what comes while it is removed runs elsewhere.
                self._death = self._death or self._stopping or died(self.spec, status)
                self.work.container_ended(self._death)
        except StartError as error:
            problem = self._start_problem or (error.problem() if self._stopping is None else None)
        except Exception as error:
            log.exception("Container %s failed.", self.container_id)
            text = f"The host failed to run a container of {label(self.spec)}: {error!r}. Its log says more."
            problem = Problem(error="InternalFailure", message=text)
        await self._remove()
        self.state = "exited"
        self.exit_reason = self.exit_reason or (problem.message.splitlines()[0] if problem else "")
        self._changed(self, problem)
        # Calls that wait for it are told after the gateway knows why it never started.
        death = Death("failed", problem) if problem else stopped(self.spec, self.exit_reason)
        self.work.container_ended(death)
        self.gone.set()

    def stop(self, grace: float, reason: str) -> None:
        """End it: its task in hand is cancelled, the others go back, exit handlers have `grace` seconds."""
        if self._stopping is not None:
            return
        self._stopping = stopped(self.spec, reason)
        self.exit_reason = reason
        self.work.stop(self._stopping)
        if self.state == "ready" and self._link.connected:
            self._link.send({"t": "exit", "grace": grace})
            self._set_timer("stop", grace + 0.5, lambda: self.kill(self._stopping))
        else:
            self.kill(self._stopping)

    def open_kernel(self) -> None:
        """Make the sockets of the Jupyter kernel that it is about to run. Raises OSError."""
        if self._kernel is None:
            self._kernel = KernelSockets(self._folder / "kernel", self._link.folder)
            self.work.kernel_folder = self._kernel.folder

    def hold_back(self, hold: bool) -> None:
        """Whether to leave what the runner says unread, because the gateway does not take it."""
        if hold:
            self._link.pause("gateway")
        else:
            self._link.resume("gateway")

    def kill(self, death: Death | None) -> None:
        """End it at once; the task in hand ends with `death`. The first reason counts."""
        if self._death is None:
            self._death = death
        self._ending.set()
        if self._process is not None and self._killing is None:
            self._killing = self._loop.create_task(self._process.kill())

    async def _live(self) -> ExitStatus:
        self._set_timer("startup", self.spec.startup_timeout, self._startup_timed_out)
        if self._gpu_request is not None:
            self.gpus = self._services.gpus.take(self._gpu_request, self.container_id)
        process = await self._start()
        status = await process.wait()
        log.info("Container %s ended with exit status %d.", self.container_id, status.code)
        self._cancel_timers()
        return status

    async def _start(self) -> ContainerProcess:
        """Start it the fastest way, or else cold; a faster one counts when its runner has come."""
        paths = self._services.paths
        if self._wake is not None:
            attempt: Attempt = paths.wake(self.container_id, self._wake)
            await self._count_on(self._wake)
        else:
            chosen = paths.choose(self.container_id, self.spec, self.user, self.gpus)
            try:
                attempt = await asyncio.wait_for(self._unless_it_ends(chosen), _CHOOSE_SECONDS)
            except asyncio.TimeoutError:
                slow = f"its template has not come from the store within {_CHOOSE_SECONDS:g} s"
                attempt = paths.cold(self.container_id, slow)
        while True:
            self._attempt = attempt
            self._path_reason = attempt.reason
            try:
                process = await self._try(attempt)
                if attempt.path == "cold" or isinstance(attempt, Woken):
                    return process
                if await self._comes(process):
                    attempt.worked()
                    return process
                reason = ": ".join(["it ended at once", *self._last_words().splitlines()[-1:]])
            except (StartError, CheckpointError, SnapshotError) as error:
                if attempt.path == "cold":
                    raise
                reason = one_line(error)
            if isinstance(attempt, Woken) or self._ending.is_set():
                raise StartError(reason)
            log.warning("Container %s starts cold: %s", self.container_id, reason)
            await attempt.failed(reason)
            await self._clear_away()
            attempt = paths.cold(self.container_id, reason)

    async def _try(self, attempt: Attempt) -> ContainerProcess:
        attempt.claim()
        self._folder = attempt.folder
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._link.folder = self._proxy.folder = self._socket_folder()
        self._link.large = self._folder
        if not self._link.folder.is_relative_to(self._folder):
            (self._folder / ELSEWHERE).symlink_to(self._link.folder)
        await self._link.listen()
        if self._token:
            self._link.env = self._way_to_gateway()
            spec = self._link.folder / SPEC_FILE
            spec.write_bytes(msgspec.json.encode(without_keys(self.spec)))
            spec.chmod(0o644)
            await self._proxy.listen()
        if self.spec.volumes:
            await self._open_volumes()
        plan = container_plan(self.spec, self.container_id, self._folder, self._link.folder, self.gpus)
        starting = attempt.start(plan)
        # A store may take for ever; what else there is to wait for is on this machine.
        if isinstance(attempt, Woken | Restored):
            starting = self._unless_it_ends(starting)
        process = self._process = await starting
        self._output = self.work.output = ContainerOutput(process.output, self.work.pipe_output)
        if self._death is not None:
            self.kill(None)
        if self._volumes is not None:
            await self._volumes.attach(process.pid)
            self._attached = True
        self._there.set()
        if self._early:
            self._early = False
            self._is_ready()
        return process

    async def _open_volumes(self) -> None:
        """The working copies, and where code in the container asks for commits. Raises `StartError`."""
        who = f"{self.spec.app}.{self.spec.name}, container {self.container_id}"
        folder = self._folder / "volumes"
        opening = asyncio.to_thread(
            self._services.volumes.open, self.spec.volumes, folder, self.container_id, who
        )
        self._volumes = await opening
        await self._listen_for_volumes()

    async def _listen_for_volumes(self) -> None:
        if self._volumes is not None:
            listening = socket.socket(socket.AF_UNIX)
            bind_in(self._link.folder, VOLUME_SOCKET, listening)
            self._volume_socket = VolumeSocket(self._volumes)
            await self._volume_socket.listen(listening)

    def _stop_listening_for_volumes(self) -> None:
        if self._volume_socket is not None:
            self._volume_socket.close()
            self._volume_socket = None
            (self._link.folder / VOLUME_SOCKET).unlink(missing_ok=True)

    async def _close_volumes(self) -> None:
        """Its processes have ended: what they wrote is committed."""
        self._stop_listening_for_volumes()
        volumes, self._volumes, self._attached = self._volumes, None, not self.spec.volumes
        if volumes is not None:
            for left in await volumes.close():
                log.error("Container %s: %s", self.container_id, left)
                self.exit_reason = "; ".join(filter(None, [self.exit_reason, left]))

    async def _unless_it_ends(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns. Cancels it and raises `StartError` once this container is to end."""
        task, ending = asyncio.ensure_future(work), asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait((task, ending), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise StartError(f"Container {self.container_id} was ended before it had started.")
            return task.result()
        finally:
            ending.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _comes(self, process: ContainerProcess) -> bool:
        """Whether its runner is ready before it ends; true as well where it is being ended."""
        waits = [asyncio.ensure_future(self._ready.wait()), asyncio.ensure_future(process.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._ready.is_set() or self._stopping is not None or self._death is not None

    async def _clear_away(self) -> None:
        """Remove what an attempt that failed has left, for the next one."""
        self._link.close()
        self._proxy.close()
        if self._output is not None:
            self._output.close()
            self._output = self.work.output = None
        if self._process is not None:
            process, self._process = self._process, None
            await process.remove()
        await self._close_volumes()
        if self._attempt is not None:
            self._attempt.ended()
        remove_folder(self._folder)

    async def _drain(self) -> None:
        """Pass on all that the runner sent before its process ended."""
        while not await self._link.finish(_LAST_DATA_SECONDS):
            if not self.work.moving_data:
                break
            await self.work.settled()
        if self._output is not None:
            self._output.flush()

    async def _remove(self) -> None:
        self._cancel_timers()
        self._link.close()
        self._proxy.close()
        if self._kernel is not None:
            self._kernel.close()
        if self._output is not None:
            self._output.close()
        try:
            if self._process is not None:
                await self._process.remove()
        except Exception:
            log.exception("Container %s could not be removed completely.", self.container_id)
        try:
            await self._close_volumes()
        except Exception:
            log.exception("Container %s: its volumes could not be let go of.", self.container_id)
        if self._attempt is not None:
            self._attempt.ended()
        self._services.gpus.give_back(self.container_id)
        remove_folder(self._folder)

    def _way_to_gateway(self) -> dict[str, str]:
        """For the SDK in the container. This is for one container alone: it must be in no snapshot."""
        if not self._token:
            return {}
        # What runs outside of a container sees the socket where it is here.
        plain = self._services.isolation.name == "process"
        folder = self._link.folder if plain else SOCKET_FOLDER
        return {"SKYLIFT_GATEWAY_URL": f"unix://{folder}/{GATEWAY_SOCKET}", "SKYLIFT_TOKEN": self._token}

    def _socket_folder(self) -> Path:
        folder = self._folder / "run"
        longest = max(SOCKET_NAME, GATEWAY_SOCKET, VOLUME_SOCKET, key=len)
        if self._services.isolation.name == "process" and not fits_address(folder / longest):
            # What runs outside of a container has to connect to the path as it is here.
            return Path(tempfile.mkdtemp(prefix=SHORT_PREFIX))
        return folder

    def _why(self, status: ExitStatus, was_ready: bool) -> Problem | None:
        """What to tell of its end; None where it was meant to end."""
        if self._start_problem is not None:
            return self._start_problem
        if self._stopping is not None:
            return None
        if self._death is not None:
            return self._death.problem
        if not was_ready:
            return before_ready(self.spec, status, self._last_words())
        return died(self.spec, status).problem

    def _startup_timed_out(self) -> None:
        self._start_problem = startup_timed_out(self.spec, self._last_words())
        self.kill(Death("failed", self._start_problem))

    def _last_words(self) -> str:
        return self._output.tail() if self._output is not None else ""

    # --- sleep -----------------------------------------------------------------------------------

    async def sleep(self) -> Slept:
        """Write it to the store, and end it. Raises `CheckpointError`; it runs on then."""
        if self.state == "ready" and self.accepts:
            await self._there.wait()
        process = self._process
        if process is None or self.state != "ready" or not self.accepts:
            raise CheckpointError("it is not running")
        if self.work.busy:
            raise CheckpointError("it is running a cell")
        self.sleeping = True
        self.work.close()
        await self._detach_volumes()
        self._proxy.close()
        try:
            try:
                await asyncio.wait_for(self._link.release(), _RELEASE_SECONDS)
            except asyncio.TimeoutError:
                why = f"its code did not let its runner say goodbye within {_RELEASE_SECONDS:g} s"
                raise CheckpointError(why) from None
            slept = await self._services.sessions.write(self, process, self._link.counts)
        except BaseException:
            self.sleeping = False
            if self.accepts:
                if self._volumes is not None:
                    await self._volumes.attach(process.pid)
                    await self._listen_for_volumes()
                await self._link.listen()
                if self._token:
                    await self._proxy.listen()
                self.work.open()
            raise
        self.slept = True
        self._stopping = stopped(self.spec, "its session sleeps")
        self.kill(self._stopping)
        return slept

    async def _detach_volumes(self) -> None:
        """So that it can be written: what wakes has them anew. Raises `CheckpointError`; it works on then."""
        if self._volumes is None:
            return
        try:
            await self._volumes.detach()
        except (MountFailedError, VolumeError, StoreError, OSError) as error:
            self.sleeping = False
            self.work.open()
            raise CheckpointError(str(error)) from error
        self._stop_listening_for_volumes()

    async def _count_on(self, ref: SnapshotRef) -> None:
        with contextlib.suppress(SnapshotError):  # it is told by who restores it
            self._link.go_on_from(*await self._services.sessions.counts(ref))

    def _is_ready(self) -> None:
        if not self._attached:
            self._early = True
            return
        self._cancel_timer("startup")
        self.state = "ready"
        self._ready.set()
        self._path_seconds = time.time() - self._began
        self.use()
        self._changed(self, None)
        if self._wake is not None:
            self._services.sessions.woken(self, self._wake)
        if self._stopping is None:
            self.work.open()

    def _work_ended(self) -> None:
        if self._attempt is not None and self._attempt.path == "cold":
            self._services.worked(self)
        if self.spec.single_use:
            self.stop(_SINGLE_USE_GRACE, "it is for one call only (single_use_containers)")

    def _set_timer(self, name: str, seconds: float, then: Callable[[], None]) -> None:
        self._cancel_timer(name)
        self._timers[name] = self._loop.call_later(seconds, then)

    def _cancel_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _cancel_timers(self) -> None:
        for name in list(self._timers):
            self._cancel_timer(name)

    # --- its runner (`RunnerListener`) -----------------------------------------------------------

    def runner_said(self, message: DataMessage, payload: memoryview) -> None:
        """See `RunnerListener`."""
        if isinstance(message, RunnerEvents):
            self.work.runner_events(message, payload)
        elif isinstance(message, Started):
            self.work.runner_started(message)
        elif isinstance(message, Need):
            self.work.runner_needs(message)
        elif isinstance(message, Ready) and self.state == "starting":
            self._is_ready()

    def runner_recalled(self, message: Recalled) -> None:
        """See `RunnerListener`."""
        self.work.runner_recalled(message)

    def runner_came(self) -> None:
        """See `RunnerListener`."""
        self._cancel_timer("contact")
        if self._wake is not None and self.state == "starting":
            # It said that it is ready in an earlier life.
            self._is_ready()
        self.work.go_on()

    def runner_away(self) -> None:
        """See `RunnerListener`."""
        if self.accepts and not self.sleeping:
            death = no_contact(self.spec, _CONTACT_SECONDS)
            self._set_timer("contact", _CONTACT_SECONDS, lambda: self.kill(death))

    def runner_broke(self, reason: str) -> None:
        """See `RunnerListener`."""
        log.warning("Container %s: %s.", self.container_id, reason)
        self.kill(broke_protocol(self.spec, reason))


def _image_name(image: ImageSpec) -> str:
    """For people."""
    kind = "local environment" if image.kind == "environment" else f"image {image.fingerprint[:12]}"
    return f"{kind}, Python {image.python_version}"
