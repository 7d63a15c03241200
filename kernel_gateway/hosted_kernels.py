"""Jupyter kernels in containers, as the gateway's Jupyter side sees them.

A hosted kernel is one call of kind ``kernel``, made by a client that is a part of the gateway itself: so it
waits its turn, shows among the calls, costs and ends like any other. Its messages do not come this way: the
gateway connects to the kernel's sockets in the folder that its host names. A host on another machine would
name what tunnels to them instead: `HostedKernel.connect` is the one place that looks at the name.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import msgspec

from skylift.backend.control import ControlPlane
from skylift.backend.settings import KernelSettings
from skylift.kernel_gateway.kernel_book import KernelBook, KernelRecord
from skylift.kernel_gateway.kernel_choices import UnknownGpuError, gpu_requests
from skylift.kernel_gateway.kernel_images import KernelImageError, KernelImages
from skylift.lazyfs.store import StoreError
from skylift.lazyfs.volume_errors import VolumeError
from skylift.wire import (
    PROTOCOL,
    Attach,
    Cancel,
    CancelMode,
    ClientMessage,
    Consumed,
    Define,
    Events,
    FunctionSpec,
    GatewayMessage,
    Hello,
    Payload,
    Problem,
    Refused,
    Status,
    Submit,
    VolumeMount,
    decode_events,
    decode_gateway_message,
    new_id,
)

if TYPE_CHECKING:
    from skylift.kernel_gateway.volumes import VolumeThreads

APP = "jupyter"
PRELOAD = ("ipykernel.kernelapp", "ipykernel.ipkernel")
"""What a template of kernels has imported. Nothing that looks for the IPython that it is imported in."""

_YEARS = 10 * 365 * 24 * 3600.0
"""A kernel has no time limit."""
_KILLED = 137
_OPEN_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class KernelError(Exception):
    """A kernel does not start. The message is for people; `status` is HTTP's word for it."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


class KernelStarter:
    """Starts kernels for one user. On the gateway's event loop."""

    def __init__(
        self,
        control: ControlPlane,
        user: str,
        images: KernelImages,
        volumes: VolumeThreads,
        book: KernelBook,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.book = book
        """Where its callers write down what is up."""
        self._control = control
        self._user = user
        self._images = images
        self._volumes = volumes
        self.patience = control.settings.gateway.kernel_start_timeout
        """Seconds."""

    async def start(
        self, settings: KernelSettings, key: bytes, signature_scheme: str, notebook: str = ""
    ) -> HostedKernel:
        """A kernel whose messages are signed with `key`; returns when it is up. Raises `KernelError`."""
        request = msgspec.json.encode(
            {
                "key": key.decode("ascii"),
                "signature_scheme": signature_scheme,
                "env": {"JPY_SESSION_NAME": notebook} if notebook else {},
            }
        )
        spec = await self._spec(settings)
        kernel = HostedKernel(self._control, self._user, settings.name, notebook)
        kernel.submit(spec, request)
        try:
            await asyncio.wait_for(kernel.up(), self.patience)
        except asyncio.TimeoutError:
            why = kernel.detail or "its container is still being started"
            raise KernelError(
                f"{settings.name} has not started within {self.patience:g} s: {why}. Try again later, or "
                "choose another kernel. How long it waits: kernel_start_timeout in [gateway] of config.toml.",
                503,
            ) from None
        finally:
            if not kernel.is_up:
                kernel.cancel("terminate", "nobody waits for it")
        return kernel

    async def known(self, record: KernelRecord) -> HostedKernel:
        """A kernel that an earlier gateway had started; `HostedKernel.attach` takes it up."""
        return HostedKernel(self._control, self._user, record.settings.name, record.notebook, record)

    async def _spec(self, settings: KernelSettings) -> FunctionSpec:
        try:
            image = await (
                self._images.built(settings.image)
                if settings.image
                else self._images.environment(settings.python)
            )
            gpus = gpu_requests(settings.gpu)
            mounts = await asyncio.to_thread(self._mounts, settings.volumes) if settings.volumes else ()
        except (KernelImageError, UnknownGpuError, VolumeError) as error:
            raise KernelError(f"{settings.name} cannot start: {error}", 400) from error
        except (StoreError, OSError) as error:
            raise KernelError(f"{settings.name} cannot start: {error}", 503) from error
        return FunctionSpec(
            app=APP,
            name=settings.name,
            # Each has containers of its own.
            session_name=new_id("ke"),
            image=image,
            gpus=gpus,
            cpu=settings.cpu,
            cpu_limit=settings.cpu_limit,
            memory=settings.memory,
            memory_limit=settings.memory_limit,
            timeout=_YEARS,
            max_containers=1,
            preload=PRELOAD,
            single_use=True,
            env=dict(settings.env),
            block_network=settings.block_network,
            volumes=mounts,
        )

    def _mounts(self, volumes: dict[str, str]) -> tuple[VolumeMount, ...]:
        mounts = []
        for path, text in volumes.items():
            name, _, flag = text.partition(":")
            known = self._volumes.of(self._user).from_name(name).info()
            mount = VolumeMount(path=path, volume_id=known.volume_id, name=name, read_only=flag == "ro")
            mounts.append(mount)
        return tuple(mounts)


class HostedKernel:
    """One kernel, and a client of the control plane (`ClientPort`) with this one call.

    Its methods are called on the gateway's loop; its attributes may be read anywhere.
    """

    container_id = ""

    def __init__(
        self,
        control: ControlPlane,
        user: str,
        name: str,
        notebook: str,
        record: KernelRecord | None = None,
    ) -> None:
        """`record`: of one that is there."""
        self.client_id = record.client_id if record is not None else new_id("cl")
        self.call_id = record.call_id if record is not None else new_id("fc")
        self.user = user
        self.name = name
        self.detail = ""
        """What it waits for, while it does."""
        self.folder = record.folder if record is not None else ""
        """Of its sockets, once it is up."""
        self.exit_code: int | None = None
        """None while it lives, or is to live."""
        self.reason = ""
        """Why it has ended, where it was not asked to."""
        self.cancelled = False
        """Somebody has cancelled its call: it is not wanted any more."""
        self._control = control
        self._notebook = notebook
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._problem: Problem | None = None
        self._asked = False
        self._consumed = 0

    @property
    def is_up(self) -> bool:
        """Whether it can be spoken to."""
        return bool(self.folder) and self.exit_code is None

    def submit(self, spec: FunctionSpec, request: bytes) -> None:
        """Have it started."""
        hello = Hello(protocol=PROTOCOL, client_id=self.client_id, notebook=self._notebook)
        self._control.client_connected(self, hello, in_gateway=True)
        function_id = new_id("fu")
        self._say(Define(function_id=function_id, spec=spec))
        self._say(
            Submit(
                call_id=self.call_id,
                function_id=function_id,
                kind="kernel",
                args=Payload(data=request, size=len(request)),
                summary=f"kernel of {self._notebook}" if self._notebook else "kernel",
            )
        )

    async def attach(self) -> None:
        """Ask for one that is there, and hear how it ends."""
        hello = Hello(protocol=PROTOCOL, client_id=self.client_id, notebook=self._notebook)
        self._control.client_connected(self, hello, in_gateway=True)
        self._say(Attach(call_id=self.call_id))

    async def up(self) -> None:
        """Wait until it can be spoken to. Raises `KernelError` where it ends before."""
        await self._changed.wait()
        if self.exit_code is None:
            return
        status = {"InvalidError": 400, "NotFoundError": 400, "ResourceExhaustedError": 503}
        error = self._problem.error if self._problem is not None else ""
        raise KernelError(
            f"{self.name} did not start: {self.reason or 'it was ended'}", status.get(error, 500)
        )

    async def ended(self) -> None:
        """Wait until it has ended."""
        await self._ended.wait()

    def cancel(self, mode: CancelMode, reason: str = "") -> None:
        """``interrupt`` is Ctrl-C; ``cancel`` asks it to end; ``terminate`` ends its container."""
        if self.exit_code is None:
            self._asked = self._asked or mode != "interrupt"
            self._say(Cancel(call_id=self.call_id, mode=mode, reason=reason or "its client ended it"))

    async def stop(self, reason: str) -> None:
        """End its container."""
        self.cancel("terminate", reason)

    def connect(self, descriptor: int) -> int:
        """A descriptor of the folder of its sockets: that one, where there is one already, so that what
        reconnects to a path through it finds the kernel that is there now. Raises OSError."""
        opened = os.open(self.folder, _OPEN_FOLDER)
        if descriptor < 0:
            return opened
        try:
            os.dup2(opened, descriptor, inheritable=False)
        finally:
            os.close(opened)
        return descriptor

    # --- `ClientPort` ------------------------------------------------------------------------------

    def send(self, message: GatewayMessage) -> None:
        """See `ClientPort`. Called in the middle of things: whatever follows is done a turn later."""
        if isinstance(message, Status):
            self.detail = message.status.detail
            if message.status.sockets and not self.folder:
                self.folder = message.status.sockets
                self._changed.set()
        elif isinstance(message, Events):
            self._take(message)
        elif isinstance(message, Refused):
            self._problem = message.problem
            self._end(1, message.problem.message)

    def send_encoded(self, frame: bytes) -> None:
        """See `ClientPort`."""
        self.send(decode_gateway_message(frame))

    def close(self, code: int, reason: str) -> None:
        """See `ClientPort`."""
        self._end(1, reason)

    def _take(self, message: Events) -> None:
        self._consumed += message.cost
        said = ""
        for event in decode_events(message.body):
            if event.kind == "error":
                said = str(event.meta.get("message", ""))
                self._problem = Problem(error=str(event.meta.get("skylift", "")), message=said)
        end = message.end
        if end is None:
            after = message.seq + message.count
            consumed = Consumed(call_id=self.call_id, seq=after, total=self._consumed)
            self._loop.call_soon(self._say, consumed)
        elif end.state == "cancelled":
            self.cancelled = not self._asked
            self._end(_KILLED, said or "it was cancelled")
        elif end.state == "done":
            self._end(0, "")
        else:
            self._end(_KILLED if self.folder else 1, said or end.summary)

    def _end(self, code: int, reason: str) -> None:
        if self.exit_code is None:
            self.reason = "" if self._asked else reason
            self.exit_code = code
            self._changed.set()
            self._ended.set()
            self._loop.call_soon(self._control.client_disconnected, self)

    def _say(self, message: ClientMessage) -> None:
        self._control.client_message(self, message)
