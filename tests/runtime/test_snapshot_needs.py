from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from skylift.runtime.snapshot_needs import Needs, needs_of, runner_version, why_not

WRITTEN = Needs(
    machine="x86_64",
    page_size=4096,
    kernel="6.8.0-60-generic",
    cpu_features=("avx2", "sse2"),
    criu="4.1.1",
    runner="abc",
    image="numpy-2",
)


def test_a_machine_can_restore_what_it_writes() -> None:
    needs = needs_of(criu="4.1.1", image="some")

    assert "" == why_not(needs, needs)


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": "6.8.1"},
        {"kernel": "6.18.44"},
        {"kernel": "7.0"},
        {"cpu_features": ("avx2", "avx512f", "sse2")},
        {"criu": "4.2"},
        {"criu": "4.10"},
        {"gpu_driver": "570.86"},
    ],
)
def test_more_than_is_needed_is_enough(changes: dict[str, object]) -> None:
    assert "" == why_not(WRITTEN, replace(WRITTEN, **changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"machine": "aarch64"}, "is of another kind of processor (x86_64; this machine is aarch64)"),
        ({"page_size": 65536}, "has memory pages of 4096 bytes (this machine's are of 65536)"),
        ({"cpu_features": ("sse2",)}, "needs CPU feature avx2, which this machine lacks"),
        ({"cpu_features": ()}, "needs CPU features avx2, sse2, which this machine lacks"),
        ({"kernel": "6.1.0-30-amd64"}, "needs kernel 6.8 or newer (this is 6.1)"),
        ({"criu": "4.0"}, "needs CRIU 4.1.1 or newer (here is 4.0)"),
        ({"runner": "def"}, "was written by another version of Skylift"),
        ({"image": "numpy-3"}, "is of an image that has changed since"),
    ],
)
def test_the_reason_names_what_is_lacking(changes: dict[str, object], reason: str) -> None:
    assert reason == why_not(WRITTEN, replace(WRITTEN, **changes))


def test_gpu_memory_needs_the_same_driver() -> None:
    gpu = replace(WRITTEN, gpu_driver="570.86")

    assert "" == why_not(gpu, gpu)
    assert "has GPU memory of NVIDIA driver 570.86 (here is 580.1)" == why_not(
        gpu, replace(gpu, gpu_driver="580.1")
    )
    assert "has GPU memory of NVIDIA driver 570.86 (here is none)" == why_not(gpu, WRITTEN)


def test_the_version_of_the_runner_changes_with_its_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    first = runner_version(tmp_path)
    runner_version.cache_clear()
    assert first == runner_version(tmp_path)
    (tmp_path / "a.py").write_text("2")
    runner_version.cache_clear()

    assert first != runner_version(tmp_path)
