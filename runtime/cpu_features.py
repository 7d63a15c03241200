"""What a processor can do that a program may have come to rely on.

A program that has looked at its processor (glibc chooses its ``memcpy`` once, a BLAS library its kernels)
goes on with the same instructions after it is restored on another machine, and dies of SIGILL where they are
missing.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterable
from pathlib import Path

_X86_NAMES = """
    tsc cx8 cmov mmx fxsr sse sse2 syscall mmxext fxsr_opt rdtscp lm 3dnow 3dnowext pni pclmulqdq ssse3
    fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave osxsave avx f16c rdrand lahf_lm abm sse4a misalignsse
    3dnowprefetch xop fma4 tbm fsgsbase bmi1 hle avx2 bmi2 erms rtm mpx avx512f avx512dq rdseed adx
    avx512ifma clflushopt clwb avx512pf avx512er avx512cd sha_ni avx512bw avx512vl xsaveopt xsavec
    xgetbv1 xsaves avx512vbmi umip pku ospke waitpkg avx512_vbmi2 gfni vaes vpclmulqdq avx512_vnni
    avx512_bitalg avx512_vpopcntdq rdpid cldemote movdiri movdir64b enqcmd clzero wbnoinvd fsrm
    avx512_4vnniw avx512_4fmaps avx512_vp2intersect serialize amx_bf16 avx512_fp16 amx_tile amx_int8
    avx_vnni avx512_bf16 sha512 sm3 sm4 cmpccxadd amx_fp16 avx_ifma avx_vnni_int8 avx_ne_convert
    amx_complex avx_vnni_int16 prefetchi user_shstk lam avx10
"""
_X86 = frozenset(_X86_NAMES.split())
"""Of ``flags``, those that a program can use by itself. The others are of the kernel or of errata."""


@functools.cache
def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str = "") -> frozenset[str]:
    """The features of this machine's processor, by the kernel's names; those that all its cores have.

    Empty where the kernel does not say. `machine` is the architecture of `cpuinfo`; "" is this one's.
    """
    machine = machine or platform.machine()
    common: frozenset[str] | None = None
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            features = frozenset(value.split())
            common = features if common is None else common & features
    found = common or frozenset()
    return found & _X86 if machine in ("x86_64", "i686") else found


def lacking(needed: Iterable[str], here: Iterable[str]) -> list[str]:
    """What of `needed` is not `here`, sorted."""
    return sorted(set(needed) - set(here))
