"""The kernels and kernelspecs of one user, in the classes of jupyter_client and jupyter_server."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint
from typing import Any

import msgspec
import zmq
from ipykernel.kernelspec import RESOURCES
from jupyter_client.ioloop.restarter import AsyncIOLoopKernelRestarter
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_server.prometheus.metrics import KERNEL_CURRENTLY_RUNNING_TOTAL
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager, ServerKernelManager
from jupyter_server.services.sessions.sessionmanager import SessionManager
from tornado.web import HTTPError
from traitlets import Any as AnyTrait
from traitlets import Type, default

from skylift.kernel_gateway.hosted_kernels import KernelError
from skylift.kernel_gateway.kernel_book import KernelRecord
from skylift.kernel_gateway.kernel_choices import KernelChoice, choice_of_model
from skylift.kernel_gateway.provisioner import NAME


class HostedSpecs(KernelSpecManager):
    """The kernels that can be chosen now."""

    choices = AnyTrait()
    """A function that returns them, as `KernelChoice` by name."""

    def find_kernel_specs(self) -> dict[str, str]:
        """Folders of their icons, by name."""
        return dict.fromkeys(self.choices(), RESOURCES)

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Raises `NoSuchKernel`."""
        choice = self.choices().get(kernel_name) or choice_of_model(kernel_name)
        if choice is None:
            raise NoSuchKernel(kernel_name)
        return kernel_spec(choice)

    def get_all_specs(self) -> dict[str, Any]:
        """By name, as the REST API has them."""
        return {
            name: {"resource_dir": RESOURCES, "spec": kernel_spec(choice).to_dict()}
            for name, choice in self.choices().items()
        }

    def remove_kernel_spec(self, name: str) -> str:
        """They are not files."""
        raise NoSuchKernel(name)


def kernel_spec(choice: KernelChoice) -> KernelSpec:
    """A choice as a kernelspec, whose metadata have all that the provisioner needs."""
    config = msgspec.to_builtins(choice.settings)
    name = config.pop("name")
    metadata: dict[str, Any] = {"kernel_provisioner": {"provisioner_name": NAME, "config": config}}
    if choice.settings.idle_timeout is not None:
        metadata["cull_idle_timeout"] = choice.settings.idle_timeout
    return KernelSpec(
        argv=["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        display_name=name,
        language="python",
        interrupt_mode="signal",
        metadata=metadata,
        resource_dir=RESOURCES,
    )


class HostedRestarter(AsyncIOLoopKernelRestarter):
    """Starts again what has died, and not what was cancelled."""

    async def poll(self) -> None:  # type: ignore[override]
        """Called every few seconds."""
        if getattr(self.kernel_manager.provisioner, "unwanted", False):
            self._fire_callbacks("dead")
            self.stop()
        else:
            await super().poll()


class OneKernelManager(ServerKernelManager):
    """Of one kernel."""

    restarter_class = Type(default_value=HostedRestarter, klass=HostedRestarter, config=True)


class HostedKernelManager(AsyncMappingKernelManager):
    """The kernels of one user."""

    kernel_starter = AnyTrait()

    @default("kernel_manager_class")
    def _our_kernel_manager_class(self) -> str:
        return f"{__name__}.OneKernelManager"

    def _handle_kernel_died(self, kernel_id: str) -> None:
        """Called for one that is not started again."""
        provisioner = self._kernels[kernel_id].provisioner
        super()._handle_kernel_died(kernel_id)  # type: ignore[no-untyped-call]
        self.kernel_starter.book.drop(kernel_id)
        provisioner.let_go()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        # Milliseconds: whoever is connected to a kernel that is started again finds the new one soon.
        self.context.setsockopt(zmq.RECONNECT_IVL, 10)

    def cwd_for_path(self, path: str, **kwargs: Any) -> str:
        """A kernel begins where its container does: the notebook's folder is on another machine."""
        return os.sep

    async def start_kernel(self, **kwargs: Any) -> str:  # type: ignore[override]
        """See `AsyncMappingKernelManager`. Raises `HTTPError` whose reason is for people."""
        try:
            started: str = await super()._async_start_kernel(**kwargs)
            return started
        except KernelError as error:
            text = str(error)
            raise HTTPError(error.status, text.replace("%", "%%"), reason=_header(text)) from error
        except NoSuchKernel as error:
            raise HTTPError(404, f"There is no kernel {error.name!r} here.".replace("%", "%%")) from error

    async def take_up(self, kernel_id: str, record: KernelRecord) -> None:
        """A kernel that an earlier gateway had started. Raises OSError where it is not there any more."""
        choice = KernelChoice(record.kernel_name, record.settings)
        kernel: Any
        kernel, _, _ = self.pre_start_kernel(record.kernel_name, {"kernel_id": kernel_id})
        kernel._kernel_spec = spec = kernel_spec(choice)
        kernel.kernel_id = kernel_id
        kernel._launch_args = {"env": {"JPY_SESSION_NAME": record.notebook}}
        factory = KernelProvisionerFactory.instance(parent=self.parent)
        provisioner = factory.create_provisioner_instance(kernel_id, spec, parent=kernel)
        await provisioner.load_provisioner_info({"kernel_id": kernel_id, "record": record})
        kernel.provisioner = provisioner
        kernel._reconcile_connection_info(provisioner.connection_info)
        kernel._attempted_start = True
        kernel.ready.set_result(None)
        await kernel.post_start_kernel()
        self._kernels[kernel_id] = kernel
        self._kernel_connections[kernel_id] = 0
        kernel.execution_state = "starting"
        await self._finish_kernel_start(kernel_id)  # type: ignore[no-untyped-call]
        KERNEL_CURRENTLY_RUNNING_TOTAL.labels(type=record.kernel_name).inc()
        if not self._initialized_culler:
            self.initialize_culler()  # type: ignore[no-untyped-call]

    def let_go(self) -> None:
        """Look after no kernel any more; the next gateway does."""
        if self._culler_callback is not None:
            self._culler_callback.stop()
        kernels: list[Any] = list(self._kernels.values())
        for kernel in kernels:
            kernel.stop_restarter()


class HostedSessions(SessionManager):
    """Which notebook has which kernel, of one user."""

    def get_kernel_env(self, path: str | None, name: Any = None) -> dict[str, str]:
        """What a kernel may know of its notebook: its path."""
        return {"JPY_SESSION_NAME": str(path or name or "")}


def register_provisioner() -> None:
    """So that it is found where Skylift was not installed by pip, too."""
    factory = KernelProvisionerFactory.instance()
    if NAME not in factory.provisioners:
        value = "skylift.kernel_gateway.provisioner:SkyliftProvisioner"
        factory.provisioners[NAME] = EntryPoint(NAME, value, factory.GROUP_NAME)


def _header(text: str) -> str:
    """As the status line of an answer may have it."""
    return " ".join(text.split()).encode("ascii", "replace").decode("ascii")[:200]
