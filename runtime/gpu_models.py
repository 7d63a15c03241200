"""What we call the models of GPUs, and how they compare."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import msgspec

from skylift.wire import GpuInfo

GIB = 1024**3


class GpuModel(msgspec.Struct, frozen=True):
    """One model."""

    name: str
    memory: int
    """Bytes."""
    pattern: str
    """Matches what NVML calls it."""
    upgrades: tuple[str, ...] = ()
    """Models that do all that this one does, with no less memory: given in its place, unless it is
    ``"X!"``."""


MODELS = {
    model.name: model
    for model in (
        GpuModel("T4", 16 * GIB, r"\bT4\b"),
        GpuModel("L4", 24 * GIB, r"\bL4\b"),
        GpuModel("A10G", 24 * GIB, r"\bA10G\b"),
        GpuModel("L40S", 48 * GIB, r"\bL40S\b"),
        GpuModel("A100-40GB", 40 * GIB, r"\bA100\b.*40GB", ("A100-80GB",)),
        GpuModel("A100-80GB", 80 * GIB, r"\bA100\b.*80GB"),
        GpuModel("H100", 80 * GIB, r"\bH100\b", ("H200",)),
        GpuModel("H200", 141 * GIB, r"\bH200\b"),
        GpuModel("B200", 192 * GIB, r"\bB200\b"),
    )
}


def model_name(nvml_name: str) -> str:
    """Our name for what NVML calls ``"NVIDIA H100 80GB HBM3"``; the vendor's own where we have none."""
    for model in MODELS.values():
        if re.search(model.pattern, nvml_name):
            return model.name
    return nvml_name


def satisfies(offered: str, wanted: str, exact: bool) -> bool:
    """Whether a GPU of model `offered` may be given to who wants `wanted` (``"any"``: whichever)."""
    if wanted == "any" or offered.casefold() == wanted.casefold():
        return True
    model = MODELS.get(wanted.upper())
    return not exact and model is not None and offered in model.upgrades


def describe(gpus: Iterable[GpuInfo]) -> str:
    """``"2 × H100 and 1 × L4 (simulated)"``; ``"no GPU"``."""
    counts = Counter(f"{gpu.model}{' (simulated)' if gpu.simulated else ''}" for gpu in gpus)
    parts = [f"{count} × {name}" for name, count in counts.items()]
    return " and ".join(parts) if parts else "no GPU"
