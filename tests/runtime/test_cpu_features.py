from __future__ import annotations

from pathlib import Path

import pytest

from skylift.runtime.cpu_features import cpu_features, lacking

X86 = """\
processor\t: 0
model name\t: Some CPU
flags\t\t: fpu sse sse2 avx2 avx512f constant_tsc ssbd hypervisor
bugs\t\t: spectre_v1

processor\t: 1
flags\t\t: fpu sse sse2 avx2 constant_tsc ssbd hypervisor
"""

ARM = """\
processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd aes sve
"""


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    return tmp_path / "cpuinfo"


def test_features_that_all_cores_have_and_programs_can_use(cpuinfo: Path) -> None:
    cpuinfo.write_text(X86)

    assert {"sse", "sse2", "avx2"} == cpu_features(cpuinfo, "x86_64")


def test_of_other_processors_every_feature_counts(cpuinfo: Path) -> None:
    cpuinfo.write_text(ARM)

    assert {"fp", "asimd", "aes", "sve"} == cpu_features(cpuinfo, "aarch64")


def test_none_where_the_kernel_does_not_say(cpuinfo: Path) -> None:
    assert frozenset() == cpu_features(cpuinfo)


def test_what_is_lacking_is_sorted() -> None:
    assert ["avx2", "avx512f"] == lacking(["sse", "avx512f", "avx2"], {"sse", "bmi1"})
