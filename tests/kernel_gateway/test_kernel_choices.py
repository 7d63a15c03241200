"""The kernels that can be chosen: of what hosts have, and of config.toml."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from skylift.backend.settings import KernelSettings
from skylift.backend.views import GpuView, HostView
from skylift.kernel_gateway.kernel_choices import (
    UnknownGpuError,
    choice_of_model,
    gpu_requests,
    kernel_choices,
)
from skylift.kernel_gateway.kernel_images import KernelImageError, KernelImages
from skylift.lazyfs.image_records import write_image
from skylift.lazyfs.names import LocalNames
from skylift.wire import GpuRequest, ImageSpec


def host(*gpus: tuple[str, bool], connected: bool = True) -> HostView:
    return HostView(
        host_id="ho-00000001",
        hostname="host",
        engine="local",
        connected=connected,
        since=0.0,
        isolation="runc",
        rootless=False,
        kernel="6.18",
        cpus=2.0,
        cpus_reserved=0.0,
        memory=1000,
        memory_reserved=0,
        gpus=tuple(_gpu(model, simulated) for model, simulated in gpus),
        containers=0,
        problem="",
    )


def _gpu(model: str, simulated: bool) -> GpuView:
    return GpuView(
        model=model,
        count=1,
        in_use=0,
        memory=80 * 1024**3,
        simulated=simulated,
        price=0.0,
        holders=(),
    )


def shown(*hosts: HostView, configured: tuple[KernelSettings, ...] = ()) -> dict[str, str]:
    return {name: each.settings.name for name, each in kernel_choices(hosts, configured).items()}


def test_without_a_host_there_is_the_one_without_a_gpu() -> None:
    assert {"skylift-cpu": "Python 3 · CPU"} == shown()
    assert {"skylift-cpu": "Python 3 · CPU"} == shown(host(("H100", False), connected=False))


def test_one_for_each_model_from_small_to_large() -> None:
    assert {
        "skylift-cpu": "Python 3 · CPU",
        "skylift-l4": "Python 3 · L4",
        "skylift-a100-80gb": "Python 3 · A100-80GB (simulated)",
        "skylift-h100": "Python 3 · H100",
    } == shown(host(("H100", True), ("H100", False), ("A100-80GB", True)), host(("L4", False)))


def test_what_is_configured_comes_last() -> None:
    training = KernelSettings(name="Training (2 × H100)", gpu="H100:2")
    assert ["skylift-cpu", "skylift-training-2-h100"] == list(shown(configured=(training,)))


def test_the_kernel_of_a_gpu_that_may_come() -> None:
    found = choice_of_model("skylift-a100-80gb")
    assert found is not None
    assert "A100-80GB" == found.settings.gpu
    assert choice_of_model("skylift-abacus") is None


@pytest.mark.parametrize(
    ("text", "requests"),
    [
        ("", ()),
        ("h100", (GpuRequest(model="H100"),)),
        (
            "H100:2, a100-80gb!",
            (GpuRequest(model="H100", count=2), GpuRequest(model="A100-80GB", exact=True)),
        ),
        ("any", (GpuRequest(model="any"),)),
        ("NVIDIA Tesla K80", (GpuRequest(model="NVIDIA Tesla K80"),)),
    ],
)
def test_gpus_as_they_are_written(text: str, requests: tuple[GpuRequest, ...]) -> None:
    assert requests == gpu_requests(text)


@pytest.mark.parametrize("text", ["H100:0", "H100:many", "!", "H100:2:3"])
def test_what_is_no_gpu(text: str) -> None:
    with pytest.raises(UnknownGpuError, match='a GPU is written as "H100"'):
        gpu_requests(text)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_the_gateways_own_environment(tmp_path: Path) -> None:
    images = KernelImages(LocalNames(tmp_path / "names"), tmp_path)
    image = await images.environment()
    assert ("environment", sys.executable) == (image.kind, image.python)
    assert all(str(tmp_path) != mount.path for mount in image.mounts)
    assert image is await images.environment()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("python", "says"),
    [
        ("/no/such/python", "The Python of the kernel, /no/such/python, cannot be run: No such file"),
        (
            "/bin/false",
            "/bin/false cannot describe its environment (no reason given). A kernel's environment",
        ),
    ],
)
async def test_a_python_that_is_none(tmp_path: Path, python: str, says: str) -> None:
    with pytest.raises(KernelImageError) as caught:
        await KernelImages(LocalNames(tmp_path / "names"), tmp_path).environment(python)
    assert str(caught.value).startswith(says)


@pytest.mark.anyio
async def test_a_built_image_by_its_key(tmp_path: Path) -> None:
    names = LocalNames(tmp_path / "names")
    image = ImageSpec(kind="layers", python="/usr/bin/python3", python_version="3.11.2")
    for key in ("a" * 64, "b" * 64, "b" * 63 + "c"):
        write_image(names, key, image)
    images = KernelImages(names, tmp_path)
    assert image == await images.built("a" * 10)
    for key, says in (
        ("c" * 64, "no such image was built. Build it in a notebook first"),
        ("b" * 12, "2 images have keys that begin so"),
        ("aaa", "give the key of a built image, or 8 digits of it at least"),
        ("../../../etc", "give the key of a built image"),
    ):
        with pytest.raises(KernelImageError) as caught:
            await images.built(key)
        assert says in str(caught.value)
