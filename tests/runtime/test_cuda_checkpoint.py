"""NVIDIA's cuda-checkpoint, by a fake of it: what it is asked, and what follows when it fails."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_cuda_checkpoint import FakeCudaCheckpoint

from skylift.runtime import cuda_checkpoint
from skylift.runtime.cuda_checkpoint import (
    CudaCheckpoint,
    CudaCheckpointError,
    find_cuda_checkpoint,
    has_cuda_loaded,
    has_gpu_open,
    inner_pid,
)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCudaCheckpoint:
    fake = FakeCudaCheckpoint(tmp_path)
    monkeypatch.setenv("PATH", fake.path)
    return fake


@pytest.fixture
def program(fake: FakeCudaCheckpoint) -> CudaCheckpoint:
    return find_cuda_checkpoint("570.86.15")


@pytest.fixture
def processes() -> Iterator[tuple[int, int]]:
    started = [subprocess.Popen(["sleep", "1000"]) for _ in range(2)]
    yield started[0].pid, started[1].pid
    for process in started:
        process.kill()
        process.wait()


def test_all_are_locked_before_the_first_is_moved(
    fake: FakeCudaCheckpoint, program: CudaCheckpoint, processes: tuple[int, int]
) -> None:
    one, other = processes
    fake.uses_cuda(one, other)

    assert processes == asyncio.run(program.suspend(processes))
    assert [
        f"lock {one} timeout=10000",
        f"lock {other} timeout=10000",
        f"checkpoint {one}",
        f"checkpoint {other}",
    ] == fake.asked()
    assert "checkpointed" == fake.state(one)

    asyncio.run(program.resume(processes))
    assert [f"restore {one}", f"unlock {one}", f"restore {other}", f"unlock {other}"] == fake.asked()
    asyncio.run(program.resume(processes))
    assert [] == fake.asked()


def test_who_uses_cuda(fake: FakeCudaCheckpoint, program: CudaCheckpoint, processes: tuple[int, int]) -> None:
    fake.uses_cuda(processes[0])

    assert asyncio.run(program.uses_cuda(processes[0]))
    assert not asyncio.run(program.uses_cuda(processes[1]))


def test_what_has_moved_its_memory_by_itself_is_left_so(
    fake: FakeCudaCheckpoint, program: CudaCheckpoint, processes: tuple[int, int]
) -> None:
    fake.uses_cuda(processes[0], state="checkpointed")
    fake.uses_cuda(processes[1])

    assert processes[1:] == asyncio.run(program.suspend(processes))


def test_one_whose_cuda_has_failed(
    fake: FakeCudaCheckpoint, program: CudaCheckpoint, processes: tuple[int, int]
) -> None:
    fake.uses_cuda(processes[0], state="failed")

    with pytest.raises(CudaCheckpointError, match=r"^Its GPU memory cannot be written: its CUDA is f"):
        asyncio.run(program.suspend(processes[:1]))
    assert [] == fake.asked()


def test_what_fails_is_undone(
    fake: FakeCudaCheckpoint, program: CudaCheckpoint, processes: tuple[int, int]
) -> None:
    one, other = processes
    fake.uses_cuda(one, other)
    fake.fail("checkpoint", "out of memory")

    with pytest.raises(CudaCheckpointError) as caught:
        asyncio.run(program.suspend(processes))

    assert (
        f"Its GPU memory cannot be written: {fake.bin}/cuda-checkpoint --action checkpoint --pid {one}: "
        f'Could not checkpoint on process ID {one}: "out of memory"'
    ) == str(caught.value)
    assert [f"checkpoint {one}", f"unlock {one}", f"unlock {other}"] == fake.asked()[2:]
    assert ("running", "running") == (fake.state(one), fake.state(other))


def test_one_that_cannot_be_locked_in_time(
    fake: FakeCudaCheckpoint, program: CudaCheckpoint, processes: tuple[int, int]
) -> None:
    fake.uses_cuda(processes[0])
    fake.fail("lock", "operation timed out")

    with pytest.raises(CudaCheckpointError, match=r"cannot be written: .*operation timed out"):
        asyncio.run(program.suspend(processes[:1]))
    assert [f"lock {processes[0]} timeout=10000"] == fake.asked()


def test_a_program_that_hangs_is_ended_and_what_it_did_is_undone(
    fake: FakeCudaCheckpoint,
    program: CudaCheckpoint,
    processes: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_checkpoint, "COPY_TIMEOUT", 0.1)
    fake.uses_cuda(processes[0])
    fake.hang("checkpoint")

    with pytest.raises(CudaCheckpointError, match=r"--action checkpoint --pid \d+ did not end within"):
        asyncio.run(program.suspend(processes[:1]))
    assert "running" == fake.state(processes[0])


def test_given_up_it_runs_on(
    fake: FakeCudaCheckpoint, program: CudaCheckpoint, processes: tuple[int, int]
) -> None:
    fake.uses_cuda(processes[0])
    fake.hang("checkpoint")
    seen: list[str] = []

    async def give_up() -> None:
        suspending = asyncio.ensure_future(program.suspend(processes[:1]))
        while f"checkpoint {processes[0]}" not in seen:
            seen.extend(fake.asked())
            await asyncio.sleep(0)
        suspending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await suspending

    asyncio.run(give_up())
    assert "running" == fake.state(processes[0])


def test_what_cannot_be_brought_back_is_said(
    fake: FakeCudaCheckpoint, program: CudaCheckpoint, processes: tuple[int, int]
) -> None:
    one, other = processes
    fake.uses_cuda(one, other)
    asyncio.run(program.suspend(processes))
    fake.asked()
    fake.fail("restore", "out of memory")

    with pytest.raises(CudaCheckpointError, match="could not be brought back, so it will hang when"):
        asyncio.run(program.resume(processes))
    assert [f"restore {one}", f"restore {other}"] == fake.asked()


def test_one_that_has_ended_needs_nothing(
    fake: FakeCudaCheckpoint, program: CudaCheckpoint, processes: tuple[int, int]
) -> None:
    fake.uses_cuda(*processes)
    asyncio.run(program.suspend(processes))
    fake.asked()
    os.kill(processes[0], 9)
    os.waitid(os.P_PID, processes[0], os.WEXITED | os.WNOWAIT)

    asyncio.run(program.resume(processes))
    assert [f"restore {processes[1]}", f"unlock {processes[1]}"] == fake.asked()


def test_another_gpu(fake: FakeCudaCheckpoint, program: CudaCheckpoint, processes: tuple[int, int]) -> None:
    pid = processes[0]
    fake.uses_cuda(pid)
    devices = {"GPU-a": "GPU-c", "GPU-b": "GPU-b"}

    for has in (True, False):
        fake.has_device_map(has)
        asyncio.run(program.suspend([pid]))
        fake.asked()
        asyncio.run(program.resume([pid], devices))
        options = " GPU-a=GPU-c,GPU-b=GPU-b" if has else ""
        assert [f"restore {pid}{options}", f"unlock {pid}"] == fake.asked()


def test_without_it_or_with_an_old_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    how = (
        "Use NVIDIA's driver 570 or newer, and put cuda-checkpoint "
        "(https://github.com/NVIDIA/cuda-checkpoint) on the PATH of the host."
    )
    for driver, why in (("570.86.15", "cuda-checkpoint is not installed"), ("550.1", "the driver is 550.1")):
        with pytest.raises(CudaCheckpointError) as caught:
            find_cuda_checkpoint(driver)
        assert f"It has memory on a GPU, and {why}. {how}" == str(caught.value)


def test_what_is_seen_of_a_process(tmp_path: Path) -> None:
    """The files of a driver that is not there."""
    library = tmp_path / "libcuda.so.1"
    library.write_bytes(bytes(4096))
    code = f"""
import mmap, sys
file = open({str(library)!r}, "r+b")
mapped = mmap.mmap(file.fileno(), 4096)
print(flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        ["python3", "-I", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert has_cuda_loaded(process.pid)
        assert not has_gpu_open(process.pid)
        assert process.pid == inner_pid(process.pid)
        process.communicate()
    assert not has_cuda_loaded(os.getpid())
    assert 0 == inner_pid(process.pid)
