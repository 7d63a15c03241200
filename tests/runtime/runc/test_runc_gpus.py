"""GPUs in containers, as their CDI specification says."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_gpus import REAL, write_cdi
from workshop import Workshop, in_workshop

from skylift.runtime.gpus import simulated_gpus
from skylift.runtime.isolation import StartError

pytestmark = pytest.mark.slow


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that a container's user can write to: hooks run as that."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_a_container_has_the_devices_it_was_given_and_no_others(
    home: Path, tmp_path: Path, open_folder: Path
) -> None:
    library = tmp_path / "libcuda.so.1"
    library.write_text("library")
    write_cdi(
        home,
        env=["DRIVER=yes"],
        mounts=[{"hostPath": str(library), "containerPath": "/opt/driver/libcuda.so.1", "options": ["ro"]}],
        hooks=[
            {
                "hookName": "createContainer",
                "path": "/bin/sh",
                "args": ["sh", "-c", f"cat >/dev/null; echo ran >>{open_folder}/hook"],
            }
        ],
    )
    script = (
        "ls /dev | grep nvidia; cat /opt/driver/libcuda.so.1; echo; env | grep -E 'DRIVER|VISIBLE' | sort;"
    )
    script += "head -c 3 /dev/nvidia1 | od -An -c; echo x >/dev/nvidia1 && echo written"

    async def body(shop: Workshop) -> None:
        finished = await shop.run("sh", "-c", script, gpus=REAL[1:])
        assert (
            "nvidia1\nlibrary\nDRIVER=yes\nNVIDIA_VISIBLE_DEVICES=GPU-b\n  \\0  \\0  \\0\nwritten\n",
            "",
        ) == (finished.stdout, finished.stderr)
        both = await shop.run("sh", "-c", "ls /dev | grep nvidia", gpus=REAL)
        assert "nvidia0\nnvidia1\n" == both.stdout
        assert "ran\nran\n" == (open_folder / "hook").read_text()
        none = await shop.run("sh", "-c", "ls /dev | grep nvidia; env | grep -E 'DRIVER|VISIBLE' | sort")
        assert "CUDA_VISIBLE_DEVICES=\nNVIDIA_VISIBLE_DEVICES=void\n" == none.stdout

    in_workshop(home, body)


def test_a_gpu_without_a_specification(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        with pytest.raises(StartError) as caught:
            await shop.start("true", gpus=REAL[:1])
        assert str(caught.value) == (
            "No CDI specification has the device nvidia.com/gpu=0. Write one with `nvidia-ctk cdi generate "
            "--output=/etc/cdi/nvidia.yaml` (package nvidia-container-toolkit)."
        )
        assert [] == os.listdir(shop.home / "host" / "runc")

    in_workshop(home, body)


def test_a_driver_that_is_not_in_usr(home: Path, tmp_path: Path) -> None:
    target = "/usr/lib/skylift-test/libcuda.so.1"
    write_cdi(home, mounts=[{"hostPath": str(tmp_path), "containerPath": target}])

    async def body(shop: Workshop) -> None:
        with pytest.raises(StartError, match=rf"mounts {tmp_path} on {target}, which containers share"):
            await shop.start("true", gpus=REAL[:1])

    in_workshop(home, body)


def test_a_library_of_usr_is_there_already(home: Path) -> None:
    path = str(next(Path("/usr/lib").glob("*-linux-gnu*/libc.so.6")))
    write_cdi(home, mounts=[{"hostPath": path, "containerPath": path, "options": ["ro", "bind"]}])

    async def body(shop: Workshop) -> None:
        assert 0 == (await shop.run("true", gpus=REAL[:1])).status.code

    in_workshop(home, body)


def test_a_simulated_gpu_says_so(home: Path) -> None:
    async def body(shop: Workshop) -> None:
        finished = await shop.run(
            "sh", "-c", "echo $SKYLIFT_SIMULATED_GPU", gpus=tuple(simulated_gpus({"H100": 2}))
        )
        assert "H100:2\n" == finished.stdout

    in_workshop(home, body)
