"""From what a function needs to the plan of a container for it."""

from __future__ import annotations

from pathlib import Path

from skylift.runtime.container_files import RUNNER, SOCKET_FOLDER, library_binds, shell_binds
from skylift.runtime.gpus import Gpu
from skylift.runtime.isolation import Bind, ContainerPlan
from skylift.runtime.runner_link import SOCKET_NAME
from skylift.runtime.start_error import StartError
from skylift.wire import FunctionSpec, ImageSpec


def container_plan(
    spec: FunctionSpec, container_id: str, folder: Path, sockets: Path, gpus: tuple[Gpu, ...]
) -> ContainerPlan:
    """A container of `spec` in `folder`, which finds its host's sockets in `sockets`."""
    return ContainerPlan(
        container_id=container_id,
        folder=folder,
        image=spec.image,
        command=runner_command(spec.image),
        env={**spec.env, "SKYLIFT_SOCKET": f"{SOCKET_FOLDER}/{SOCKET_NAME}"},
        cpu=spec.cpu,
        cpu_limit=spec.cpu_limit,
        memory_limit=spec.memory_limit,
        gpus=gpus,
        block_network=spec.block_network,
        hostname=container_id,
        binds=(*runner_binds(spec), Bind(sockets, SOCKET_FOLDER)),
    )


def runner_binds(spec: FunctionSpec) -> tuple[Bind, ...]:
    """What a container sees of ours."""
    if spec.image.kind == "layers" and spec.session:
        return (*library_binds(), *shell_binds(spec.image.python_version))
    return library_binds()


def runner_command(image: ImageSpec) -> list[str]:
    """What starts the runner in a container of an image. Raises `StartError`."""
    if not image.python:
        raise StartError(
            "The image has no Python, which functions and cells need: give Image.from_registry "
            'add_python="3.12", or begin with Image.debian_slim.',
            "InvalidError",
        )
    return [*image.entrypoint, image.python, RUNNER]
