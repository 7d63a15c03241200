"""Which host has room for a container, on which of its GPUs, and who is in the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from skylift.backend.scheduler_state import ContainerState, HostState, PoolState
from skylift.wire import GpuRequest

UPGRADES = {"H100": ("H200",), "A100-40GB": ("A100-80GB",)}
"""Better models that are taken where the one asked for is busy or missing, unless it is asked for exactly."""


class Room:
    """What is left of a host, while decisions are being made."""

    __slots__ = ("coming", "cpu", "gpus", "host", "lent", "memory")

    def __init__(self, host: HostState) -> None:
        self.host = host
        self.cpu = host.cpus
        self.memory = host.memory
        self.gpus = dict(host.gpus)
        self.lent = [container for container in host.containers.values() if container.awaits]
        """Those whose cores deeper work may use (`ContainerState.lends_to`)."""
        self.coming = Amount()
        """What containers that are being stopped will give back, less what is spoken for."""
        for container in host.containers.values():
            self.cpu -= container.cpu
            self.memory -= container.memory
            if container.gpu_count:
                self.gpus[container.gpu_model] = self.gpus.get(container.gpu_model, 0) - container.gpu_count
            if container.phase == "stopping":
                self.coming.add(container)

    def fits(self, pool: PoolState, gpu: GpuRequest | None, extra: Amount | None = None) -> bool:
        """Whether a container fits, given `extra` besides what is free."""
        cpu, memory, gpus = self.cores(pool.depth), self.memory, self.gpus.get(gpu.model, 0) if gpu else 0
        if extra is not None:
            cpu += extra.cpu
            memory += extra.memory
            gpus += extra.gpus[gpu.model] if gpu else 0
        # Sums of eighths of a core must not fail by a rounding error.
        return cpu + 1e-9 >= pool.cpu and memory >= pool.memory and (gpu is None or gpus >= gpu.count)

    def cores(self, depth: int) -> float:
        """What is free for work of that depth."""
        if not self.lent:
            return self.cpu
        return self.cpu + sum(container.cpu for container in self.lent if container.lends_to(depth))

    def take(self, pool: PoolState, gpu: GpuRequest | None) -> None:
        """Count a container as being there. What is free may become negative: then it is spoken for."""
        self.cpu -= pool.cpu
        self.memory -= pool.memory
        if gpu is not None:
            self.gpus[gpu.model] = self.gpus.get(gpu.model, 0) - gpu.count


class Amount:
    """Cores, memory and GPUs of containers, added up."""

    __slots__ = ("cpu", "gpus", "memory")

    def __init__(self, cpu: float = 0.0, memory: int = 0, gpus: Counter[str] | None = None) -> None:
        self.cpu = cpu
        self.memory = memory
        self.gpus: Counter[str] = Counter() if gpus is None else gpus

    def plus(self, containers: Iterable[ContainerState]) -> Amount:
        """It and those of more containers."""
        total = Amount(self.cpu, self.memory, self.gpus.copy())
        for container in containers:
            total.add(container)
        return total

    def add(self, container: ContainerState) -> None:
        """Add those of one more."""
        self.cpu += container.cpu
        self.memory += container.memory
        if container.gpu_count:
            self.gpus[container.gpu_model] += container.gpu_count


def choices(host: HostState, pool: PoolState) -> list[GpuRequest | None]:
    """The GPUs of this host that would do for the pool, by preference; ``[None]`` where it wants none. Empty
    too where its containers cannot be on this host."""
    if pool.hosts is not None and host.host_id not in pool.hosts:
        return []
    if not pool.gpus:
        return [None]
    found: list[GpuRequest | None] = []
    for request in pool.gpus:
        if request.model == "any":
            models: tuple[str, ...] = tuple(host.gpus)
        elif request.exact:
            models = (request.model,)
        else:
            models = (request.model, *UPGRADES.get(request.model, ()))
        found += [
            GpuRequest(model=model, count=request.count, exact=True)
            for model in models
            if host.gpus.get(model, 0) >= request.count
        ]
    return found


def find_room(rooms: Iterable[Room], pool: PoolState) -> tuple[Room, GpuRequest | None] | None:
    """A connected host with room now. Preference between GPUs goes before preference between hosts."""
    best: tuple[int, Room, GpuRequest | None] | None = None
    for room in rooms:
        if not room.host.connected:
            continue
        for rank, gpu in enumerate(choices(room.host, pool)):
            if room.fits(pool, gpu):
                if best is None or rank < best[0]:
                    best = (rank, room, gpu)
                break
    return None if best is None else best[1:]


def find_coming(rooms: Iterable[Room], pool: PoolState) -> tuple[Room, GpuRequest | None] | None:
    """A host that will have room once what is being stopped there is gone."""
    for room in rooms:
        if room.host.connected:
            for gpu in choices(room.host, pool):
                if room.fits(pool, gpu, room.coming):
                    return room, gpu
    return None


def make_room(
    rooms: Iterable[Room], pool: PoolState, candidates: list[ContainerState]
) -> tuple[Room, GpuRequest | None, list[ContainerState]] | None:
    """The fewest of `candidates`, taken in their order, whose end makes room for the pool; or None."""
    for room in rooms:
        if not room.host.connected:
            continue
        here = [container for container in candidates if container.host_id == room.host.host_id]
        for gpu in choices(room.host, pool):
            victims: list[ContainerState] = []
            for container in here:
                if room.fits(pool, gpu, room.coming.plus(victims)):
                    break
                victims.append(container)
            if not room.fits(pool, gpu, room.coming.plus(victims)):
                continue
            # One taken early may not help at all, or be made needless by a larger one taken later.
            for container in list(victims):
                others = [victim for victim in victims if victim is not container]
                if room.fits(pool, gpu, room.coming.plus(others)):
                    victims = others
            return room, gpu, victims
    return None
