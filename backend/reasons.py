"""What people are told about decisions: why something waits, starts, or can never run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from skylift.backend.placement import Room, choices
from skylift.backend.scheduler_state import ContainerState, HostState, PoolState, SchedulerState
from skylift.wire import GpuRequest, Problem


def impossible(hosts: Iterable[HostState], pool: PoolState) -> Problem | None:
    """Why no host can ever run this pool's containers, or None where one can (or there is none yet)."""
    hosts = [host for host in hosts if pool.hosts is None or host.host_id in pool.hosts]
    if not hosts:
        return None
    for host in hosts:
        if host.cpus + 1e-9 >= pool.cpu and host.memory >= pool.memory and choices(host, pool):
            return None
    return Problem(error="ResourceExhaustedError", message=_impossible_message(hosts, pool))


def _impossible_message(hosts: list[HostState], pool: PoolState) -> str:
    if pool.gpus and not any(choices(host, pool) for host in hosts):
        wanted = " or ".join(gpu_text(request) for request in pool.gpus)
        there = "; ".join(f"{host.name} has {_gpus_of(host)}" for host in hosts)
        known = sorted({model for host in hosts for model in host.gpus})
        advice = (
            f"Ask for {' or '.join(known)} in that number, or leave the GPU out."
            if known
            else "Leave the GPU out (gpu=None, %%gpu cpu), or try it with a simulated one: simulate_gpus in "
            "[host] of config.toml."
        )
        return f"{pool.label} asks for {wanted}, and no host has that: {there}. {advice}"
    fitting = [host for host in hosts if choices(host, pool)]
    most_cpus = max(fitting, key=lambda host: host.cpus)
    if most_cpus.cpus + 1e-9 < pool.cpu:
        return (
            f"{pool.label} asks for {pool.cpu:g} cores (cpu=), and no host that suits it offers as many: "
            f"{most_cpus.name} has {most_cpus.cpus:g}. Ask for at most that."
        )
    most_memory = max(fitting, key=lambda host: host.memory)
    if most_memory.memory < pool.memory:
        return (
            f"{pool.label} asks for {pool.memory:,} MiB (memory=), and no host that suits it offers as much: "
            f"{most_memory.name} has {most_memory.memory:,} MiB. Ask for at most that."
        )
    return (
        f"{pool.label} asks for {pool.cpu:g} cores and {pool.memory:,} MiB, and no host offers both: "
        + "; ".join(f"{host.name} has {host.cpus:g} cores and {host.memory:,} MiB" for host in fitting)
        + "."
    )


def blocked_by(state: SchedulerState, rooms: Iterable[Room], pool: PoolState) -> str:
    """Why there is no room now, and who has it: ``"waiting for an H100: 1 of 1 in use by session train"``."""
    connected = [
        room for room in rooms if room.host.connected and (not pool.hosts or room.host.host_id in pool.hosts)
    ]
    if not connected and pool.hosts and state.hosts:
        there = [host.name for host in state.hosts.values() if host.host_id in pool.hosts]
        name = f"host {there[0]}" if there else "the host"
        return f"waiting for {name}, where the session sleeps, to come back"
    if not connected:
        if state.hosts:
            names = ", ".join(host.name for host in state.hosts.values())
            return f"waiting for host {names} to come back: the link to it is lost"
        return state.no_host
    if pool.gpus:
        for request in pool.gpus:
            for room in connected:
                for gpu in choices(room.host, pool):
                    if gpu is not None and room.gpus.get(gpu.model, 0) < gpu.count:
                        return _gpu_holders(state, room.host, request, gpu)
    for room in connected:
        if not choices(room.host, pool):
            continue
        if room.cores(pool.depth) + 1e-9 < pool.cpu:
            # More than all may be reserved, where calls wait for calls.
            used = min(room.host.cpus, room.host.cpus - room.cores(pool.depth))
            return (
                f"waiting for {_count(pool.cpu, 'core')}: {used:g} of {room.host.cpus:g} reserved by "
                f"{_holders(state, room.host.containers.values())}"
            )
        if room.memory < pool.memory:
            used_memory = room.host.memory - room.memory
            return (
                f"waiting for {pool.memory:,} MiB of memory: {used_memory:,} of {room.host.memory:,} MiB "
                f"reserved by {_holders(state, room.host.containers.values())}"
            )
    return "waiting for room on a host"


def _gpu_holders(state: SchedulerState, host: HostState, request: GpuRequest, gpu: GpuRequest) -> str:
    holding = [c for c in host.containers.values() if c.gpu_count and c.gpu_model == gpu.model]
    used = sum(container.gpu_count for container in holding)
    total = host.gpus.get(gpu.model, 0)
    wanted = "a GPU" if request.model == "any" else article(gpu.model)
    if gpu.count > 1:
        wanted = f"{gpu.count} {gpu.model}"
    if not holding:
        return f"waiting for {wanted}: kept free for work that has waited longer"
    return f"waiting for {wanted}: {used} of {total} in use by {_holders(state, holding)}"


def _holders(state: SchedulerState, containers: Iterable[ContainerState]) -> str:
    counted: Counter[str] = Counter()
    for container in containers:
        pool = state.pools.get(container.pool_id)
        name = pool.label if pool is not None else container.container_id
        if container.phase == "stopping":
            name += " (falling asleep)" if container.sleeping else " (ending)"
        elif container.phase == "idle":
            name += " (idle)"
        elif container.awaits:
            name += " (waiting for calls of its own)"
        counted[name] += 1
    names = [name if count == 1 else f"{name} ({count} containers)" for name, count in counted.most_common()]
    if len(names) > 3:
        names = [*names[:3], f"{len(names) - 3} more"]
    return ", ".join(names)


def _gpus_of(host: HostState) -> str:
    return ", ".join(f"{count}× {model}" for model, count in sorted(host.gpus.items())) or "no GPU"


def gpu_text(request: GpuRequest) -> str:
    """``"H100:8"``; ``"any GPU"``."""
    text = "any GPU" if request.model == "any" else request.model + ("!" if request.exact else "")
    return text if request.count == 1 else f"{text}:{request.count}"


def article(model: str) -> str:
    """``"an H100"``, ``"a T4"``."""
    return f"{'an' if model[:1] in 'AEFHILMNORSX' else 'a'} {model}"


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"


WAKING = "waking"
"""How the reason begins for which a container is started that a sleeping session becomes."""


def warm_reason(pool: PoolState, buffer: bool) -> str:
    """Why a container is started that nothing waits for."""
    if buffer:
        return f"buffer_containers={pool.buffer_containers} of {pool.label}"
    return f"min_containers={pool.min_containers} of {pool.label}"


def start_reason(pool: PoolState, units: int, gpu: GpuRequest | None) -> str:
    """Why another container is started."""
    on = f" on {gpu_text(GpuRequest(model=gpu.model, count=gpu.count))}" if gpu is not None else ""
    if pool.session and pool.asleep:
        return f"{WAKING} {pool.label}{on}"
    if pool.session:
        return f"the session's container{on}"
    if not pool.containers:
        return f"the first container of {pool.label}{on}"
    what = "call waits" if units == 1 else "calls wait"
    return f"{units} {what}, and {pool.label} has {len(pool.containers)} busy or starting{on}"


def own_reason(pool: PoolState) -> str:
    """Why work waits that one of the pool's own containers will take."""
    phases = [container.phase for container in pool.containers.values()]
    if pool.session:
        if "busy" in phases:
            return "waiting for the cell before it in the session"
        if any(container.sleeping for container in pool.containers.values()):
            return "waiting for the session to be asleep, to wake it then"
        if "stopping" in phases:
            return "waiting for the session's last container to end"
        return session_start(pool)
    if phases and all(phase == "stopping" for phase in phases):
        return "waiting for the last container to end"
    if "busy" not in phases and "starting" in phases:
        return "starting a container"
    if "away" in phases:
        return "waiting for the host to come back: the link to it is lost"
    count = len(phases)
    limit = f" (max_containers={pool.max_containers})" if pool.max_containers == count else ""
    return (
        f"waiting for one of {count} busy containers{limit}"
        if count > 1
        else f"waiting for the busy container{limit}"
    )


def session_start(pool: PoolState) -> str:
    """What is done for a session that is not up."""
    return "waking the session" if pool.asleep else "starting the session's container"


def label(state: SchedulerState, container: ContainerState) -> str:
    """Whose container it is."""
    pool = state.pools.get(container.pool_id)
    return pool.label if pool is not None else container.container_id
