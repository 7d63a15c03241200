"""What of a written container is not CRIU's: its own files, and what has to be known to restore it.

All of it lies in one folder, beside CRIU's images: ``container.json``, and ``layer0.tar``, ``layer1.tar`` and
so on for the layers of its root, lowest first. What all containers of a host share below is not among them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from skylift.runtime.criu import Criu
from skylift.runtime.criu_dump import DumpPlan, dump, go_on, outside_mounts
from skylift.runtime.criu_images import make_quick_to_restore
from skylift.runtime.criu_protobuf import ProtobufError
from skylift.runtime.criu_restore import CriuError
from skylift.runtime.isolation import CheckpointError
from skylift.runtime.layer_archive import LayerError, archive_layer
from skylift.runtime.process_notes import stat_fields
from skylift.runtime.runc.gpu_memory import WrittenGpuMemory

FILE = "container.json"
_WORK = "work"
"""For CRIU's log, while it writes."""


class CriuHere(msgspec.Struct, frozen=True, kw_only=True):
    """The CRIU that writes and restores this host's containers."""

    criu: Criu
    kernel_facts: Path | None


class WrittenContainer(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a written container beside its images."""

    mounts: Mapping[str, str]
    """Where in it something of the host was mounted; see `criu_dump.outside_mounts`."""
    descriptors: tuple[str, ...]
    """How the images call its standard input, output and error."""
    layers: int
    """How many."""
    layered: bool
    """Whether its root was an overlay."""
    sizes: Mapping[str, int]
    """Bytes of each file beside this one. Of pages that are cut off CRIU would wait for the rest for ever."""
    gpu_memory: WrittenGpuMemory | None = None
    """What of its memory is to be on GPUs again."""


async def write_container(
    here: CriuHere,
    pid: int,
    folder: Path,
    *,
    layers: Sequence[Path],
    layered: bool,
    descriptors: Sequence[str],
    gpu_memory: WrittenGpuMemory | None = None,
) -> tuple[int, ...]:
    """Write a container into `folder`, which is there and empty. It is stopped then, until `criu_dump.go_on`.

    `layers` are those of its root, lowest first; `gpu_memory` is in its own memory already. The processes
    that were stopped before are returned. Raises `CheckpointError`; it runs on then.
    """
    work = folder / _WORK
    if (stat_fields(pid) or ["Z"])[0] in "ZX":
        raise CheckpointError("The container cannot be written: it has ended.")
    try:
        mounts = outside_mounts(pid)
        work.mkdir()
        facts = here.kernel_facts
        paused = await dump(
            here.criu,
            DumpPlan(pid=pid, images=folder, work=work, mounts=[*mounts], kernel_facts=facts),
        )
        try:
            for path in work.iterdir():
                path.unlink()
            work.rmdir()
            await asyncio.to_thread(make_quick_to_restore, folder)
            for number, layer in enumerate(layers):
                await archive_layer(layer, archive(folder, number))
            written = WrittenContainer(
                mounts=mounts,
                descriptors=tuple(descriptors),
                layers=len(layers),
                layered=layered,
                sizes=_sizes(folder),
                gpu_memory=gpu_memory,
            )
            (folder / FILE).write_bytes(msgspec.json.encode(written))
        except BaseException:
            go_on(pid, paused)
            raise
    except (CriuError, LayerError, ProtobufError) as error:
        raise CheckpointError(f"The container cannot be written: {error}") from error
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise CheckpointError(f"The container cannot be written: {error.strerror}{where}.") from error
    return paused


def read_container(folder: Path) -> WrittenContainer:
    """What is known of the container that was written to `folder`. Raises `CheckpointError`, also where one
    of its files is missing or cut off."""
    try:
        written = msgspec.json.decode((folder / FILE).read_bytes(), type=WrittenContainer)
    except (OSError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{folder} has no written container in it: {error}.") from error
    for name, size in written.sizes.items():
        path = folder / name
        found = path.stat().st_size if path.exists() else None
        if found != size:
            problem = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise CheckpointError(f"The written container in {folder} is damaged: {name} {problem}.")
    return written


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def archive(folder: Path, number: int) -> Path:
    """The file with a layer's files."""
    return folder / f"layer{number}.tar"


def make_opaque(layer: Path) -> None:
    """Let a layer of an overlay that a user namespace mounted hide the same as one of an overlay that root
    mounts: the mark on folders that hide what is below them has another name there. Raises OSError."""
    for folder, _, _ in os.walk(layer):
        if "user.overlay.opaque" in os.listxattr(folder, follow_symlinks=False):
            os.setxattr(folder, "trusted.overlay.opaque", b"y", follow_symlinks=False)
