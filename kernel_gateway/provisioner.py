"""``skylift-provisioner``: the kernel provisioner of jupyter_client that starts kernels in our containers.

Which container is said by the kernelspec, in ``metadata.kernel_provisioner.config``. It is found by its entry
point and works inside a gateway: whoever makes the kernel manager gives it a `KernelStarter`, as an attribute
``kernel_starter`` of the kernel manager or of one of its parents.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Bool, Dict, Float, Integer, Unicode

from skylift.backend.settings import KernelSettings
from skylift.kernel_gateway.hosted_kernels import HostedKernel, KernelError, KernelStarter
from skylift.kernel_gateway.kernel_book import KernelRecord

NAME = "skylift-provisioner"

_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
"""In the order of the sockets."""

T = TypeVar("T")


class SkyliftProvisioner(KernelProvisionerBase):
    """One kernel in one container after another."""

    gpu = Unicode()
    cpu = Float(0.125)
    cpu_limit = Float(None, allow_none=True)
    memory = Integer(128)
    memory_limit = Integer(None, allow_none=True)
    image = Unicode()
    python = Unicode()
    volumes = Dict()
    env = Dict()
    block_network = Bool(False)
    idle_timeout = Float(None, allow_none=True)

    _kernel: HostedKernel | None = None
    _told_of: HostedKernel | None = None
    _descriptor = -1
    _record: KernelRecord | None = None

    def __del__(self) -> None:
        self.let_go()

    @property
    def has_process(self) -> bool:
        """Whether there is a kernel, or was one that nobody has waited for."""
        return self._kernel is not None

    async def poll(self) -> int | None:
        """None while it runs, else its exit code: 0, or 137 where its container was ended or died."""
        kernel = self._kernel
        if kernel is None:
            return 0
        if kernel.exit_code is not None and kernel.reason and kernel is not self._told_of:
            self._told_of = kernel
            self.log.warning("Kernel %s has ended: %s", self.kernel_id, kernel.reason)
            if self.parent is not None and self.parent.has_trait("reason"):
                self.parent.reason = kernel.reason
        return kernel.exit_code

    async def wait(self) -> int | None:
        """Wait until it has ended."""
        kernel = self._kernel
        if kernel is None:
            return 0
        await self._there(kernel.ended)
        self._kernel = None
        return kernel.exit_code

    async def send_signal(self, signum: int) -> None:
        """SIGINT interrupts it and its child processes, SIGTERM asks it to end, SIGKILL ends it; it has no
        use for others."""
        modes = {signal.SIGINT: "interrupt", signal.SIGTERM: "cancel", signal.SIGKILL: "terminate"}
        mode = modes.get(signal.Signals(signum)) if signum else None
        kernel = self._kernel
        if kernel is None or mode is None:
            return

        async def cancel() -> None:
            kernel.cancel(mode)  # type: ignore[arg-type]

        await self._there(cancel)

    async def kill(self, restart: bool = False) -> None:
        """End its container."""
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        """Ask it to end."""
        await self.send_signal(signal.SIGTERM)

    @property
    def unwanted(self) -> bool:
        """Whether it is not to be started again: its call was cancelled, in the sidebar say."""
        return self._kernel is not None and self._kernel.cancelled

    async def shutdown_requested(self, restart: bool = False) -> None:
        """What it may have died of before is of no interest any more."""
        if self.parent is not None and self.parent.has_trait("reason"):
            self.parent.reason = ""

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Nothing of this process's environment is for the kernel."""
        given = kwargs.pop("env", None) or {}
        env = {"JPY_SESSION_NAME": given["JPY_SESSION_NAME"]} if given.get("JPY_SESSION_NAME") else {}
        kwargs.pop("extra_arguments", None)
        return await super().pre_launch(cmd=[], env=env, **kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start one, and wait until it is up. Raises `KernelError`."""
        assert self.parent is not None
        session = self.parent.session
        settings = KernelSettings(
            name=self.kernel_spec.display_name,
            gpu=self.gpu,
            cpu=self.cpu,
            cpu_limit=self.cpu_limit,
            memory=self.memory,
            memory_limit=self.memory_limit,
            image=self.image,
            python=self.python,
            volumes=dict(self.volumes),
            env={**self.kernel_spec.env, **self.env},
            block_network=self.block_network,
        )
        starter = self._starter()
        notebook = kwargs.get("env", {}).get("JPY_SESSION_NAME", "")
        kernel = await self._there(
            lambda: starter.start(settings, session.key, session.signature_scheme, notebook)
        )
        self._record = KernelRecord(
            kernel_name=self.parent.kernel_name,
            settings=settings,
            client_id=kernel.client_id,
            call_id=kernel.call_id,
            folder=kernel.folder,
            key=session.key,
            signature_scheme=session.signature_scheme,
            notebook=notebook,
        )
        try:
            info = self._connect(kernel)
        except OSError as error:
            await self._there(lambda: kernel.stop("it cannot be reached"))
            raise KernelError(
                f"{settings.name} is up, and the gateway cannot reach it ({error}): kernels can only be on "
                "hosts of the gateway's own machine and user."
            ) from error
        starter.book.put(self.kernel_id, self._record)
        return info

    async def get_provisioner_info(self) -> dict[str, Any]:
        """What `load_provisioner_info` needs, in another gateway."""
        info: dict[str, Any] = await super().get_provisioner_info()
        return {**info, "record": self._record}

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Take up a kernel that is there. Raises OSError where its sockets are not."""
        self.kernel_id = provisioner_info["kernel_id"]
        record: KernelRecord = provisioner_info["record"]
        self._record = record
        starter = self._starter()
        kernel = await self._there(lambda: starter.known(record))
        self._connect(kernel)
        await self._there(kernel.attach)

    def _connect(self, kernel: HostedKernel) -> KernelConnectionInfo:
        assert self._record is not None
        self._descriptor = kernel.connect(self._descriptor)
        self._kernel = kernel
        # However long the way to the folder is, a socket's address is at most 107 bytes.
        info: dict[str, Any] = {
            "transport": "ipc",
            "ip": f"/proc/self/fd/{self._descriptor}/kernel",
            "key": self._record.key,
            "signature_scheme": self._record.signature_scheme,
            **{f"{channel}_port": number for number, channel in enumerate(_CHANNELS, 1)},
        }
        self.connection_info = info  # type: ignore[assignment]
        return self.connection_info

    async def cleanup(self, restart: bool = False) -> None:
        """Called when the kernel has ended."""
        if not restart:
            self._starter().book.drop(self.kernel_id)
            self.let_go()

    def let_go(self) -> None:
        """Close what is open here. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _starter(self) -> KernelStarter:
        above = self.parent
        while above is not None:
            starter = getattr(above, "kernel_starter", None)
            if starter is not None:
                return starter  # type: ignore[no-any-return]
            above = getattr(above, "parent", None)
        raise KernelError(
            f"{NAME} starts kernels inside a Skylift gateway, and this is another program. Connect Jupyter "
            "to the gateway instead: jupyter lab --gateway-url=http://…/jupyter (docs/hosted-kernels.md)."
        )

    async def _there(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do it on the gateway's event loop: that of a blocking kernel manager is another one."""
        loop = self._starter().loop
        if loop is asyncio.get_running_loop():
            return await work()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), loop))
