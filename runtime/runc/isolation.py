"""Making containers with runc.

Each runs below its own user namespace, in its own pid, mount, IPC, UTS, network and (where there are
cgroups) cgroup namespace, without any capability. Its root is one overlay: what all containers share below
(`skeleton`), its own files above. runc is run in a mount namespace of its own, so that the overlay is
mounted nowhere else: when the container ends, however it does, there is nothing to unmount.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import msgspec

from skylift.runtime.cdi import FOLDERS, CdiError, Edits, Registry
from skylift.runtime.child_processes import ChildProcess, become_subreaper
from skylift.runtime.criu import CriuMissingError, find_criu, kernel_facts
from skylift.runtime.isolation import (
    Bind,
    CheckpointError,
    ContainerPlan,
    ContainerProcess,
    Fork,
    Isolation,
    StartError,
)
from skylift.runtime.runc import idmapped
from skylift.runtime.runc.bpf import seccomp_program
from skylift.runtime.runc.bridge import BridgeNetwork, Pair
from skylift.runtime.runc.cgroups import Cgroups
from skylift.runtime.runc.checkpoint_files import CriuHere
from skylift.runtime.runc.checkpoint_restore import NO_ADDRESS, Place, restore_container
from skylift.runtime.runc.commands import CommandError
from skylift.runtime.runc.config import Placement, build_config, environment, terminal_options
from skylift.runtime.runc.container import RuncContainer, close_quietly, remove_tree
from skylift.runtime.runc.forked import ForkedProcess, ForkParts, RuncFork, make_layer
from skylift.runtime.runc.gpu_memory import GpuFacts, host_gpu_facts
from skylift.runtime.runc.host_lock import HostLock
from skylift.runtime.runc.id_map import IdMaps, root_maps, rootless_maps
from skylift.runtime.runc.image_layers import HeldLayers, ImageLayers
from skylift.runtime.runc.leftovers import kill_leftovers, remove_dead_hosts
from skylift.runtime.runc.loopback import turn_on_loopback
from skylift.runtime.runc.mounts import (
    give_writable,
    image_binds,
    private_folders,
    system_binds,
    without_covered,
)
from skylift.runtime.runc.name_servers import name_servers
from skylift.runtime.runc.namespaces import HeldNamespaces, Keeper, NamespacesOf, hold_container_namespaces
from skylift.runtime.runc.networks import Attachment, Network, start_network
from skylift.runtime.runc.own_cgroups import make as make_cgroups
from skylift.runtime.runc.roots import Roots
from skylift.runtime.runc.sandboxes import Sandbox, Sandboxes
from skylift.runtime.runc.skeleton import Skeletons
from skylift.runtime.runc.template import children_bind
from skylift.runtime.settings import MIB, HostSettings
from skylift.runtime.volume_mounts import why_no_volumes

LOCK_TRIES = 20
LOCK_PAUSE = 0.25
"""Seconds."""

REFILL_PAUSE = 0.5
"""Seconds: the runner starts before the next container's network is made."""

CDI_KIND = "nvidia.com/gpu"


class RuncIsolation(Isolation):
    """Containers of one host."""

    name = "runc"

    def __init__(
        self,
        settings: HostSettings,
        folder: Path,
        *,
        cdi_folders: tuple[Path, ...] = FOLDERS,
        gpu_facts: Callable[[], GpuFacts | None] = host_gpu_facts,
    ) -> None:
        """`folder` is the host's own, in ``$SKYLIFT_HOME``. Touches nothing until `adopt`."""
        self.rootless = os.geteuid() != 0
        self._settings = settings
        self._home = folder.parent
        self._state = folder / "runc"
        self._skeletons_folder = folder / "skeletons"
        self._networks = folder / "networks"
        self._cdi_folders = cdi_folders
        self._gpu_facts = gpu_facts
        self._key = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:8]
        self._lock = HostLock(self._key)
        self._maps: IdMaps
        self._keeper: Keeper | None = None
        self._prefix: list[str] = []
        self._cgroups: Cgroups | None = None
        self._network: Network | None = None
        self._sandboxes: Sandboxes | None = None
        self._mapped: HeldNamespaces | None = None
        """A user namespace with the containers' ids, held for `idmapped`."""
        self._mapping = asyncio.Lock()
        self._roots: Roots
        self._criu: CriuHere | None = None
        self._ready = False

    async def adopt(self) -> None:
        try:
            become_subreaper()
            for program in ("runc", "unshare", "nsenter", "mount"):
                if shutil.which(program) is None:
                    raise CommandError(f"{program} is not installed.")
            self._state.mkdir(parents=True, exist_ok=True)
            if not self.rootless:
                await self._take_lock()
            self._maps = self._id_maps()
            if self.rootless:
                self._keeper = await Keeper.start(self._maps)
                self._prefix = self._keeper.prefix
            cgroups = Cgroups.of_machine(self._key)
            await kill_leftovers(self._state, cgroups)
            if not self.rootless:
                await remove_dead_hosts(cgroups)
            self._cgroups = cgroups if cgroups.usable else None
            await remove_tree(self._state, self._prefix)
            self._state.mkdir(parents=True, exist_ok=True)
            self._network = await start_network(self._settings, self._key, self._prefix, self._networks)
            self._roots = Roots(self._make_skeleton(), self._maps, self._prefix)
            self.layers = ImageLayers(
                self._state.parent / "layers",
                self._home,
                self._settings.store,
                first_id=0 if self.rootless else self._maps.owner[0],
                budget=self._settings.layer_cache * MIB,
            )
            await asyncio.to_thread(self.layers.clean)
            await self._roots.choose(self._state / ".scratch")
            if self._network is not None:
                self._sandboxes = Sandboxes(self._network, self._maps, self._prefix)
                self._sandboxes.refill()
            self.owner = self._maps.owner
            self.cannot_have_volumes = why_no_volumes() or (
                "" if self._roots.layered else f"{self._home} is on no disk that can hold an overlay"
            )
            self.cannot_fork = self._why_no_forks()
            self.cannot_checkpoint = await self._find_criu()
        except (CommandError, OSError, ValueError) as error:
            await self.close()
            raise StartError(
                f"This machine cannot make containers: {error} `python -m skylift.runtime.doctor` says what "
                'is missing; isolation = "process" in [host] of config.toml does without, and isolates '
                "nothing."
            ) from error
        self._ready = True

    async def create(self, plan: ContainerPlan) -> ContainerProcess:
        if not self._ready:
            raise StartError("The host has not been set up (Isolation.adopt).")
        folder = plan.folder / "isolation"
        binds, edits = self._binds(plan)
        memory_limit = self._memory_limit(plan)
        sandbox: Sandbox | None = None
        traced = not plan.build
        image = await HeldLayers.of(self.layers, plan.image, self._namespace_of_ids, traced=traced)
        try:
            if self._sandboxes is not None and not plan.block_network:
                sandbox = await self._sandboxes.take()
            placement = self._placement(plan, sandbox, memory_limit)
            config = build_config(plan, placement, binds, edits)
            address = sandbox.attachment.address if sandbox else "127.0.1.1"
            self._roots.prepare(folder, plan.hostname, address, binds, image.folders, apart=plan.build)
            (folder / "config.json").write_bytes(msgspec.json.encode(config))
            process, output = await self._run(plan, folder, await self._show_private(binds))
        except BaseException as error:
            if sandbox is not None:
                await sandbox.close()
            if self._cgroups is not None:
                await self._cgroups.remove(plan.container_id)
            for path in (folder, self._state / plan.container_id):
                await remove_tree(path, self._prefix)
            await image.let_go()
            if isinstance(error, CommandError | OSError):
                raise StartError(f"Container {plan.container_id} could not be started: {error}") from error
            raise
        if sandbox is not None:
            await sandbox.namespaces.close()  # the container holds them now
        if self._sandboxes is not None:
            self._sandboxes.refill(REFILL_PAUSE)
        return RuncContainer(
            container_id=plan.container_id,
            process=process,
            output=output,
            cgroups=self._cgroups,
            memory_limit=memory_limit if self._cgroups is not None else 0,
            attachment=sandbox.attachment if sandbox else None,
            folders=(folder, self._state / plan.container_id),
            remove_tree=lambda path: remove_tree(path, self._prefix),
            criu=self._criu,
            let_go=image.let_go,
            layers=self._roots.layers(folder),
            layered=self._roots.layered,
            gpus=plan.gpus,
            gpu_facts=self._gpu_facts,
        )

    async def restore(
        self, plan: ContainerPlan, folder: Path, pages: Future[None] | None = None
    ) -> ContainerProcess:
        if self._criu is None:
            raise CheckpointError(self.cannot_checkpoint)
        own = plan.folder / "isolation"
        try:
            image = await HeldLayers.of(self.layers, plan.image, self._namespace_of_ids)
        except StartError as error:
            raise CheckpointError(str(error)) from error
        try:
            binds, edits = self._binds(plan)
            memory_limit = self._memory_limit(plan)
            resources = dict(self._placement(plan, None, memory_limit).resources)
            if edits.device_rules:
                resources["devices"] = edits.device_rules
            place = Place(
                plan=plan,
                folder=own,
                binds=binds,
                devices={mount["destination"]: mount["source"] for mount in edits.mounts},
                roots=self._roots,
                image=image.folders,
                owner=self._maps.owner,
                cgroups=self._cgroups,
                resources=resources,
                before=await self._show_private(binds),
                connect=lambda pid: self._connect(plan, pid),
                gpu_facts=self._gpu_facts,
            )
            restored = await restore_container(self._criu, folder, place, pages)
        except BaseException as error:
            if self._cgroups is not None:
                await self._cgroups.remove(plan.container_id)
            await remove_tree(own, self._prefix)
            await image.let_go()
            if isinstance(error, StartError | CommandError | OSError):
                raise CheckpointError(
                    f"Container {plan.container_id} could not be restored: {error}"
                ) from error
            raise
        return RuncContainer(
            container_id=plan.container_id,
            process=restored.process,
            output=restored.output,
            cgroups=self._cgroups,
            memory_limit=memory_limit if self._cgroups is not None else 0,
            attachment=restored.attachment,
            folders=(own,),
            remove_tree=lambda path: remove_tree(path, self._prefix),
            criu=self._criu,
            let_go=image.let_go,
            layers=restored.layers,
            layered=self._roots.layered,
            gpus=plan.gpus,
            gpu_facts=self._gpu_facts,
        )

    async def _connect(self, plan: ContainerPlan, pid: int) -> Attachment | None:
        if self._network is None or plan.block_network:
            await turn_on_loopback(pid)
            return None
        return await self._network.attach(NamespacesOf(pid))

    async def fork(self, template: ContainerPlan, plan: ContainerPlan, *, hold: bool = False) -> Fork:
        if self.cannot_fork:
            raise StartError(self.cannot_fork)
        binds, edits = self._binds(plan)
        memory_limit = self._memory_limit(plan)
        pair: Pair | None = None

        async def take_back() -> None:
            if pair is not None:
                await pair.close()
            if self._cgroups is not None:
                await self._cgroups.remove(plan.container_id)
            await remove_tree(plan.folder / "isolation", self._prefix)

        async def connect(pid: int) -> Attachment | None:
            if pair is not None:
                await pair.connect(pid)
                return pair
            if self._network is None or plan.block_network:
                return None
            return await self._network.attach(NamespacesOf(pid))

        def finish(
            process: ForkedProcess, output: tuple[int, int], attachment: Attachment | None
        ) -> ContainerProcess:
            return RuncContainer(
                container_id=plan.container_id,
                process=process,
                output=output,
                cgroups=self._cgroups,
                memory_limit=memory_limit if self._cgroups is not None else 0,
                attachment=attachment,
                folders=(plan.folder / "isolation",),
                remove_tree=lambda path: remove_tree(path, self._prefix),
                criu=self._criu,
                layers=(
                    *self._roots.layers(template.folder / "isolation"),
                    plan.folder / "isolation" / "upper",
                ),
                layered=self._roots.layered,
                gpus=plan.gpus,
                gpu_facts=self._gpu_facts,
            )

        try:
            if isinstance(self._network, BridgeNetwork) and not plan.block_network:
                pair = self._network.reserve()
            address = pair.address if pair is not None else NO_ADDRESS
            make_layer(plan, address, binds, self._roots.skeleton, self._maps.owner)
            placement = self._placement(plan, None, memory_limit)
            if self._cgroups is not None:
                resources = {**placement.resources, "devices": edits.device_rules}
                make_cgroups(self._cgroups, plan.container_id, resources)
            return RuncFork(
                ForkParts(
                    plan=plan,
                    hold=hold,
                    binds=binds,
                    env=environment(plan, edits),
                    devices=[
                        mount["destination"].removeprefix("/dev/")
                        for mount in edits.mounts
                        if mount["destination"].startswith("/dev/")
                    ],
                    shm_size=placement.shm_size,
                    terminals=",".join(terminal_options(self._maps)[2:]),
                    cgroups=self._cgroups,
                    network=pair.describe() if pair is not None else None,
                    connect=connect,
                    finish=finish,
                    take_back=take_back,
                )
            )
        except BaseException as error:
            await take_back()
            if isinstance(error, CommandError | OSError):
                raise StartError(f"Container {plan.container_id} could not be forked: {error}") from error
            raise

    async def close(self) -> None:
        self._ready = False
        if self._sandboxes is not None:
            await self._sandboxes.close()
            self._sandboxes = None
        if self._network is not None:
            with contextlib.suppress(CommandError):
                await self._network.close()
            self._network = None
        if self._cgroups is not None:
            self._cgroups.remove_parents()
        if self.layers is not None:
            await asyncio.to_thread(self.layers.close)
        if self._mapped is not None:
            await self._mapped.close()
            self._mapped = None
        if self._keeper is not None:
            await self._keeper.close()
            self._keeper = None
        self._lock.release()

    async def _take_lock(self) -> None:
        """Another host may hold it for a moment, to see whether this one is dead."""
        for _ in range(LOCK_TRIES):
            if self._lock.take():
                return
            await asyncio.sleep(LOCK_PAUSE)
        raise CommandError(f"Another host is running in {self._home}; stop it first.")

    async def _find_criu(self) -> str:
        """Why containers cannot be written here; "" where they can."""
        folder = self._state.parent
        try:
            criu = await find_criu(self._settings.criu, folder / "criu.json")
        except CriuMissingError as error:
            return str(error)
        self._criu = CriuHere(criu=criu, kernel_facts=await kernel_facts(criu, folder))
        return ""

    def _why_no_forks(self) -> str:
        if self.rootless:
            return "a host without root starts every container anew"
        try:
            seccomp_program()
        except CommandError as error:
            return str(error)
        return ""

    def _id_maps(self) -> IdMaps:
        if not self.rootless:
            return root_maps(self._settings.user_ids)
        helpers = shutil.which("newuidmap") is not None and shutil.which("newgidmap") is not None
        return rootless_maps(helpers=helpers)

    def _make_skeleton(self) -> Path:
        servers = self._settings.dns
        if not servers and self._network is not None and self._network.name_server:
            servers = (self._network.name_server,)
        skeletons = Skeletons(self._skeletons_folder, self._maps.owner)
        skeleton = skeletons.current(name_servers(servers).resolv_conf())
        skeletons.remove_others(skeleton)
        return skeleton

    def _binds(self, plan: ContainerPlan) -> tuple[list[Bind], Edits]:
        edits = Edits()
        real = [gpu for gpu in plan.gpus if not gpu.simulated]
        if real:
            registry = Registry.read(self._cdi_folders)
            names = []
            for gpu in real:
                by_uuid, by_index = f"{CDI_KIND}={gpu.uuid}", f"{CDI_KIND}={gpu.index}"
                names.append(by_uuid if by_uuid in registry else by_index)
            try:
                edits = registry.edits(names)
            except CdiError as error:
                raise StartError(
                    f"{error} Write one with `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` "
                    "(package nvidia-container-toolkit)."
                ) from error
        own = [*plan.binds]
        if plan.template:
            own.append(children_bind(plan))
            own[-1].source.mkdir(parents=True, exist_ok=True)
        for bind in own:
            give_writable(bind, self._maps.owner)
        system = system_binds() if plan.image.kind == "environment" else []
        inner = [*image_binds(plan.image, (self._home,)), *own, *edits.binds]
        binds = [*system, *without_covered(inner, system)]
        for bind in edits.binds:
            if bind in binds and any(bind.target.startswith(f"{each.target}/") for each in system):
                raise StartError(
                    f"The CDI specification mounts {bind.source} on {bind.target}, which containers share "
                    "with this machine, read-only. It must be for a driver that is installed in /usr."
                )
        return binds, edits

    async def _show_private(self, binds: list[Bind]) -> list[str]:
        """The command that lets a container see folders which only root may enter; empty without such."""
        folders = private_folders(binds)
        if not folders:
            return []
        namespace = await self._namespace_of_ids()
        return [sys.executable, "-I", "-S", idmapped.__file__, namespace, *folders]

    async def _namespace_of_ids(self) -> str:
        """Path of a user namespace with the containers' ids; "" where these are the host's own."""
        if self.rootless:
            return ""
        async with self._mapping:
            if self._mapped is None:
                self._mapped = await hold_container_namespaces(self._maps, (), ("--user",))
        return self._mapped.path("user")

    def _memory_limit(self, plan: ContainerPlan) -> int:
        mib = plan.memory_limit if plan.memory_limit is not None else self._settings.default_memory_limit()
        return mib * MIB

    def _placement(self, plan: ContainerPlan, sandbox: Sandbox | None, memory_limit: int) -> Placement:
        cgroup, resources = "", {}
        if self._cgroups is not None:
            cgroup = self._cgroups.path_in_tree(plan.container_id)
            resources = self._cgroups.limits(
                cpu=plan.cpu,
                cpu_limit=plan.cpu_limit,
                memory_limit=memory_limit,
                pids_limit=plan.pids_limit if plan.pids_limit is not None else self._settings.pids_limit,
            )
        return Placement(
            maps=self._maps,
            root=self._roots.mount_point(plan.folder / "isolation"),
            user_namespace=sandbox.namespaces.path("user") if sandbox else "",
            network_namespace=sandbox.namespaces.path("net") if sandbox else "",
            cgroup=cgroup,
            resources=resources,
            shm_size=memory_limit,
        )

    async def _run(
        self, plan: ContainerPlan, folder: Path, before: list[str]
    ) -> tuple[ChildProcess, tuple[int, int]]:
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        log, pid_file = folder / "runc.log", folder / "pid"
        runc = ["runc", "--root", str(self._state), "--log", str(log), "--log-format", "json"]
        runc += ["run", "--detach", "--bundle", ".", "--pid-file", "pid", plan.container_id]
        starting: asyncio.Task[int] | None = None
        try:
            process = await asyncio.create_subprocess_exec(
                *self._roots.command(folder, runc, before),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out_end,
                stderr=err_end,
            )
            starting = asyncio.ensure_future(process.wait())
            status = await asyncio.shield(starting)
            if status:
                raise CommandError(_said(log, err, status))
            return ChildProcess(int(pid_file.read_text(encoding="ascii"))), (out, err)
        except BaseException:
            close_quietly(out, err)
            if starting is not None:  # cancelled, perhaps: what has been started must not stay
                await starting
                with contextlib.suppress(OSError):
                    ChildProcess(int(pid_file.read_text(encoding="ascii"))).send_signal(signal.SIGKILL)
            raise
        finally:
            close_quietly(out_end, err_end)


def _said(log: Path, err: int, status: int) -> str:
    """What runc says went wrong."""
    with contextlib.suppress(OSError):
        for line in reversed(log.read_bytes().splitlines()):
            with contextlib.suppress(msgspec.DecodeError):
                entry = msgspec.json.decode(line, type=dict[str, str])
                if entry.get("level") in ("error", "fatal"):
                    return entry.get("msg", "")
    os.set_blocking(err, False)
    with contextlib.suppress(OSError):
        return os.read(err, 4096).decode(errors="replace").strip()
    return f"runc ended with status {status}"
