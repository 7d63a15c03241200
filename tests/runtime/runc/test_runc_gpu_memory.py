"""Containers that have memory on a GPU, written and restored with a fake of NVIDIA's cuda-checkpoint."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest
from fake_cuda_checkpoint import FakeCudaCheckpoint
from fake_gpus import REAL, FakeFacts, make_nodes, write_cdi
from workshop import Workshop, in_workshop
from written import Obedient, obedient, restored, write

from skylift.runtime.isolation import CheckpointError
from skylift.runtime.process_notes import stat_fields
from skylift.runtime.runc.checkpoint_files import read_container

pytestmark = [pytest.mark.slow, pytest.mark.root]

GPU = REAL[:1]
USE_IT = "gpu = open('/dev/nvidia0'); text = 'kept'"
"""The file stays open, as the fake cannot close it; it is /dev/null, so CRIU can write it."""
USE_IT_TWICE = f"""
import contextlib, os, signal
{USE_IT}
child = os.fork()
if not child:
    for each in os.listdir("/proc/self/fd"):
        if int(each) > 2 and int(each) != gpu.fileno():
            with contextlib.suppress(OSError):
                os.close(int(each))
    while True: signal.pause()
"""


@pytest.fixture
def fake(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCudaCheckpoint:
    fake = FakeCudaCheckpoint(tmp_path)
    monkeypatch.setenv("PATH", fake.path)
    write_cdi(home)
    return fake


def states(fake: FakeCudaCheckpoint, *pids: int) -> list[str]:
    return [fake.state(pid) for pid in pids]


def test_it_is_moved_before_it_is_written_and_brought_back_after_it_is_restored(
    home: Path, fake: FakeCudaCheckpoint
) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop, gpus=GPU) as it:
            await it.do(USE_IT_TWICE)
            child = int(await it.do("answer = child"))
            fake.uses_cuda(1, child)
            folder = await write(shop, it)
            assert [
                "lock 1 timeout=10000",
                f"lock {child} timeout=10000",
                "checkpoint 1",
                f"checkpoint {child}",
            ] == fake.asked()
            assert ["checkpointed", "checkpointed"] == states(fake, 1, child)
            assert "T" == stat_fields(it.container.pid)[0]
            assert "570.86.15" == it.container.gpu_driver
            written = read_container(folder).gpu_memory
            assert written is not None
            assert ((1, child), ("GPU-a",), ("H100",)) == (written.pids, written.uuids, written.models)

            await it.container.resume()  # the fake refuses to bring back what is stopped
            assert ["restore 1", "unlock 1", f"restore {child}", f"unlock {child}"] == fake.asked()
            assert "'kept'" == await it.do("answer = text")
            await it.container.kill()

        fake.uses_cuda(1, child, state="checkpointed")
        async with restored(shop, folder, gpus=GPU) as it:
            assert ["restore 1", "unlock 1", f"restore {child}", f"unlock {child}"] == fake.asked()
            assert ["running", "running"] == states(fake, 1, child)
            assert "'kept'" == await it.do("answer = text")
            await it.container.checkpoint(again(folder))  # and once more
            assert "570.86.15" == it.container.gpu_driver

    in_workshop(home, body, gpu_facts=FakeFacts)


def again(folder: Path) -> Path:
    other = again_of(folder)
    other.mkdir()
    return other


def again_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-again")


def test_without_memory_on_its_gpu_nobody_is_asked(home: Path, fake: FakeCudaCheckpoint) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop, gpus=GPU) as it:
            folder = await write(shop, it)
            assert "" == it.container.gpu_driver
            assert read_container(folder).gpu_memory is None
            await it.container.resume()
            await it.do(USE_IT)  # but CUDA is not what uses it
            await it.container.checkpoint(again(folder))
        async with restored(shop, folder, gpus=GPU) as it:
            assert "3" == await it.do("answer = 1 + 2")
        assert [] == fake.asked()

    in_workshop(home, body, gpu_facts=FakeFacts)


async def refused(shop: Workshop, it: Obedient, said: str) -> None:
    """It is not written, and runs on."""
    with pytest.raises(CheckpointError, match=re.escape(f"The container cannot be written: {said}")):
        await write(shop, it)
    assert "'kept'" == await it.do("answer = text")
    assert "" == it.container.gpu_driver


def test_memory_that_cannot_be_moved(home: Path, fake: FakeCudaCheckpoint) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop, gpus=GPU) as it:
            await it.do(USE_IT)
            fake.uses_cuda(1)
            fake.fail("checkpoint", "not supported")
            await refused(shop, it, "Its GPU memory cannot be written: ")
            assert ["lock 1 timeout=10000", "checkpoint 1", "unlock 1"] == fake.asked()

    in_workshop(home, body, gpu_facts=FakeFacts)


def test_what_criu_cannot_write_has_its_gpu_memory_back(home: Path, fake: FakeCudaCheckpoint) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop, gpus=GPU) as it:
            await it.do(USE_IT)
            await it.do("import socket; server = socket.create_server(('127.0.0.1', 8080))")
            await it.do("client = socket.create_connection(('127.0.0.1', 8080))")
            fake.uses_cuda(1)
            await refused(shop, it, "It ")
            assert ["checkpoint 1", "restore 1", "unlock 1"] == fake.asked()[1:]

    in_workshop(home, body, gpu_facts=FakeFacts)


def test_without_the_program(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cdi(home)
    how = (
        "Use NVIDIA's driver 570 or newer, and put cuda-checkpoint "
        "(https://github.com/NVIDIA/cuda-checkpoint) on the PATH of the host."
    )

    async def body(shop: Workshop) -> None:
        async with obedient(shop, gpus=GPU) as it:
            await it.do(USE_IT)
            said = f"It has memory on a GPU, and cuda-checkpoint is not installed. {how}"
            await refused(shop, it, said)

    in_workshop(home, body, gpu_facts=FakeFacts)


@pytest.mark.parametrize(("version", "named"), [("550.54.15", "550.54.15"), ("", "unknown")])
def test_with_an_old_driver(home: Path, fake: FakeCudaCheckpoint, version: str, named: str) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop, gpus=GPU) as it:
            await it.do(USE_IT)
            fake.uses_cuda(1)
            said = f"It has memory on a GPU, and the driver is {named}. Use NVIDIA's driver 570 or newer"
            await refused(shop, it, said)

    in_workshop(home, body, gpu_facts=lambda: FakeFacts(version) if version else None)


def test_gpu_memory_that_does_not_fit_beside_the_rest(home: Path, fake: FakeCudaCheckpoint) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop, gpus=GPU, memory_limit=512) as it:
            await it.do(USE_IT)
            fake.uses_cuda(1)
            await refused(
                shop, it, "It has 1.0 GiB on its GPU, which are moved to its memory first, and only 0."
            )
        assert [] == fake.asked()

    in_workshop(home, body, gpu_facts=lambda: FakeFacts(used=1 << 30))


def test_it_is_restored_only_where_its_memory_can_be_brought_back(
    home: Path, fake: FakeCudaCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(shop: Workshop) -> None:
        async with obedient(shop, gpus=GPU) as it:
            await it.do(USE_IT)
            fake.uses_cuda(1)
            folder = await write(shop, it)
        fake.asked()

        async def refused(said: str, gpu: object = GPU[0]) -> None:
            with pytest.raises(CheckpointError, match=f"could not be restored: {said}"):
                async with restored(shop, folder, gpus=(gpu,)):
                    pass
            assert [] == [*(home / "host" / "containers").glob("*/isolation")]

        other = msgspec.structs.replace(GPU[0], model="A100-80GB")
        await refused("It has memory of H100, and there is A100-80GB", other)
        with monkeypatch.context() as without:
            without.setenv("PATH", os.environ["PATH"].partition(":")[2])
            await refused("It has memory on a GPU, and cuda-checkpoint is not installed")
        assert [] == fake.asked()

        fake.fail("restore", "out of memory")
        await refused("Its GPU memory could not be brought back.*out of memory")

    in_workshop(home, body, gpu_facts=FakeFacts)


def test_on_another_gpu_it_sees_that_one(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCudaCheckpoint(tmp_path)
    monkeypatch.setenv("PATH", fake.path)
    write_cdi(home, make_nodes(tmp_path))
    look = """
import os
answer = {
    name: os.stat(f"/dev/{name}").st_rdev & 0xff for name in sorted(os.listdir("/dev")) if "nvidia" in name
}
"""

    async def body(shop: Workshop) -> None:
        async with obedient(shop, gpus=GPU) as it:
            assert "{'nvidia0': 0}" == await it.do(look)
            await it.do("library = open('/root/libcuda.so.1', 'wb+'); library.write(bytes(5000))")
            await it.do("library.flush(); import mmap; loaded = mmap.mmap(library.fileno(), 4096)")
            fake.uses_cuda(1)
            folder = await write(shop, it)
        fake.asked()
        async with restored(shop, folder, gpus=REAL[1:]) as it:
            assert ["restore 1 GPU-a=GPU-b", "unlock 1"] == fake.asked()
            assert "{'nvidia1': 1}" == await it.do(look)
            await it.container.checkpoint(again(folder))
        async with restored(shop, again_of(folder), gpus=GPU) as it:
            assert "{'nvidia0': 0}" == await it.do(look)

    in_workshop(home, body, gpu_facts=FakeFacts)


def test_a_gpu_less(home: Path, tmp_path: Path) -> None:
    write_cdi(home, make_nodes(tmp_path))
    look = "import os; answer = sorted(name for name in os.listdir('/dev') if 'nvidia' in name)"

    async def body(shop: Workshop) -> None:
        async with obedient(shop, gpus=REAL) as it:
            assert "['nvidia0', 'nvidia1']" == await it.do(look)
            folder = await write(shop, it)
        for gpus, name in ((REAL[:1], "nvidia0"), (REAL[1:], "nvidia1")):
            async with restored(shop, folder, gpus=gpus) as it:
                assert repr([name]) == await it.do(look)

    in_workshop(home, body, gpu_facts=FakeFacts)
