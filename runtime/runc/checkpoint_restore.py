"""A written container as a running one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path, PurePosixPath

import msgspec

from skylift.runtime.child_processes import ChildProcess
from skylift.runtime.criu_restore import CriuError, RestorePlan, wait_for
from skylift.runtime.criu_restore import restore as restore_processes
from skylift.runtime.cuda_checkpoint import CudaCheckpointError
from skylift.runtime.isolation import Bind, CheckpointError, ContainerPlan
from skylift.runtime.layer_archive import LayerError, restore_layer
from skylift.runtime.runc import moved_devices, own_cgroups
from skylift.runtime.runc.cgroups import Cgroups
from skylift.runtime.runc.checkpoint_files import (
    CriuHere,
    WrittenContainer,
    archive,
    make_opaque,
    read_container,
)
from skylift.runtime.runc.commands import CommandError, run
from skylift.runtime.runc.container import close_quietly
from skylift.runtime.runc.gpu_memory import GpuFacts, bring_back, program_for
from skylift.runtime.runc.moved_devices import moved
from skylift.runtime.runc.networks import Attachment
from skylift.runtime.runc.roots import Roots, host_names, reachable

NO_ADDRESS = "127.0.1.1"
"""What a container without a network calls itself."""

SMALL = 256 * 1024
"""Bytes. Larger files may still be on their way while the small ones are there."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a container is restored to."""

    plan: ContainerPlan
    folder: Path
    """For its root."""
    binds: Sequence[Bind]
    """All of them."""
    devices: Mapping[str, str]
    """Devices beyond those that every container has: where they are in it, and on the host."""
    roots: Roots
    image: Sequence[Path]
    """The layers of its image, lowest first; () where it stands on what all containers share."""
    owner: tuple[int, int]
    """The user and group of the host that are its root."""
    cgroups: Cgroups | None
    resources: Mapping[str, object]
    before: Sequence[str]
    """Command that lets it see private folders."""
    connect: Callable[[int], Awaitable[Attachment | None]]
    """Gives the network namespace of the process with that pid its interface."""
    gpu_facts: Callable[[], GpuFacts | None]


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """A container that goes on where it was."""

    process: ChildProcess
    output: tuple[int, int]
    attachment: Attachment | None
    layers: tuple[Path, ...]


async def restore_container(
    here: CriuHere, folder: Path, place: Place, pages: Future[None] | None
) -> Restored:
    """Restore the container that was written to `folder`.

    Raises `CheckpointError`, and what `pages` raises; no process and no network of it is left then, but its
    cgroup and its folder are.
    """
    written = read_container(folder)
    gpus = [gpu for gpu in place.plan.gpus if not gpu.simulated]
    on_gpus = written.gpu_memory
    process: ChildProcess | None = None
    attached: list[Attachment] = []
    hosts = -1
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    try:
        program = program_for(on_gpus, gpus, place.gpu_facts) if on_gpus is not None else None
        layers = await _bring_layers_back(written, folder, place, pages)
        hosts = _rewrite_names(layers[-1], place)
        sources, moves = mounts_of(written, place)
        places, stage = reachable(map(Path, sources.values()))
        before = [*place.before, *stage]
        if place.before and stage:
            before = ["sh", "-c", f"{shlex.join(place.before)} && {shlex.join(stage)}"]
        cgroup: list[Path] = []
        if place.cgroups is not None:
            own_cgroups.make(place.cgroups, place.plan.container_id, place.resources)
            cgroup = own_cgroups.procs_files(place.cgroups, place.plan.container_id)

        async def prepare(pid: int) -> None:
            naming = asyncio.ensure_future(_name(pid, place.plan.hostname))
            try:
                attachment = await place.connect(pid)
            finally:
                await naming
            if attachment is not None:
                attached.append(attachment)
            address = attachment.address if attachment is not None else NO_ADDRESS
            if hosts >= 0:
                os.pwrite(hosts, host_names(address, place.plan.hostname).encode(), 0)

        async def move_devices(pid: int) -> None:
            names = [name for move in moves.items() for name in move]
            program = [sys.executable, "-I", "-S", moved_devices.__file__]
            await run([*program, f"/proc/{pid}/ns/mnt", *names])

        pid = await restore_processes(
            here.criu,
            RestorePlan(
                images=folder,
                work=place.folder,
                root=place.roots.mount_point(place.folder),
                mounts={inside: str(places.get(Path(source), source)) for inside, source in sources.items()},
                descriptors=written.descriptors,
                cgroup=cgroup,
                kernel_facts=here.kernel_facts,
            ),
            lambda command: place.roots.command(place.folder, command, before),
            stdout=out_end,
            stderr=err_end,
            pages=pages,
            prepare=prepare,
            finish=move_devices if moves else None,
        )
        process = ChildProcess(pid)
        if program is not None and on_gpus is not None:
            await bring_back(program, on_gpus, pid, gpus)
    except BaseException as error:
        if process is not None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        close_quietly(out, err)
        for attachment in attached:
            await attachment.close()
        if isinstance(error, CriuError | CudaCheckpointError | LayerError | CommandError | OSError):
            raise CheckpointError(
                f"Container {place.plan.container_id} could not be restored: {error}"
            ) from error
        raise
    finally:
        close_quietly(out_end, err_end, hosts)
    return Restored(
        process=process,
        output=(out, err),
        attachment=attached[0] if attached else None,
        layers=layers,
    )


def mounts_of(written: WrittenContainer, place: Place) -> tuple[dict[str, str], dict[str, str]]:
    """For each mount of the written container what of this host is mounted there; and which device files
    have another name here (see `moved_devices`).

    Raises `CheckpointError` where the container had something that this one is not to have, or the other way.
    """
    sources: dict[str, str] = {}
    had = [inside for inside, device in written.mounts.items() if inside.startswith("/dev/") and not device]
    moves = moved(had, place.devices)
    for inside, device in written.mounts.items():
        source = device or place.devices.get(inside) or _shown(inside, place.binds)
        if inside in moves:
            source = place.devices.get(moves[inside], "/dev/null")
        if not source or not os.path.exists(source):
            raise CheckpointError(
                f"What was mounted on {inside} in the written container is not there for "
                f"{place.plan.container_id}."
            )
        sources[inside] = source
    for target in [*(bind.target for bind in place.binds), *place.devices]:
        if target not in sources and target not in moves.values():
            raise CheckpointError(
                f"{target} was not mounted in the written container, so it cannot be in "
                f"{place.plan.container_id}."
            )
    return sources, moves


def _shown(inside: str, binds: Sequence[Bind]) -> str:
    """What the binds show at a path; "" for nothing."""
    path = PurePosixPath(inside)
    for bind in sorted(binds, key=lambda each: len(each.target), reverse=True):
        if path.is_relative_to(bind.target):
            return str(bind.source / path.relative_to(bind.target))
    return ""


async def _bring_layers_back(
    written: WrittenContainer, folder: Path, place: Place, pages: Future[None] | None
) -> tuple[Path, ...]:
    if written.layered != place.roots.layered:
        raise CheckpointError(
            "The container was written on a host whose disk "
            f"{'can' if written.layered else 'cannot'} hold the layers of an overlay; this one's "
            f"{'cannot' if written.layered else 'can'}."
        )
    layers = place.roots.prepare_layers(place.folder, written.layers, place.image)
    archives = [archive(folder, number) for number in range(written.layers)]
    if pages is not None and any(path.stat().st_size > SMALL for path in archives):
        await wait_for(pages)
    for path, layer in zip(archives, layers, strict=True):
        await restore_layer(path, layer)
        if len(layers) > 1:
            await asyncio.to_thread(make_opaque, layer)
    return tuple(layers)


def _rewrite_names(upper: Path, place: Place) -> int:
    """Write what is this host's of ``/etc``, and make ``/etc/hosts`` anew; the descriptor of it, -1 where
    its code has made something else of ``/etc``. No link that its code has put there is followed. Raises
    OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        etc = os.open(upper / "etc", flags)
    except OSError:
        return -1
    descriptors: list[int] = []
    texts = {"hostname": f"{place.plan.hostname}\n".encode()}
    if place.image:
        texts["resolv.conf"] = (place.roots.skeleton / "etc/resolv.conf").read_bytes()
    try:
        for name in (*texts, "hosts"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=etc)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptors.append(os.open(name, flags, 0o644, dir_fd=etc))
            os.fchown(descriptors[-1], *place.owner)
            if name in texts:
                os.pwrite(descriptors[-1], texts[name], 0)
    except IsADirectoryError:
        return -1
    finally:
        close_quietly(etc, *descriptors[: len(texts)])
    return descriptors[-1]


async def _name(pid: int, hostname: str) -> None:
    script = 'printf %s "$1" >/proc/sys/kernel/hostname'
    await run(["nsenter", f"--uts=/proc/{pid}/ns/uts", "--", "sh", "-c", script, "sh", hostname])
