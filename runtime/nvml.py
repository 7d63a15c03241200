"""What NVIDIA's management library says of this machine's GPUs."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pynvml


class NvmlGpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU, as NVML has it."""

    index: int
    uuid: str
    name: str
    memory: int
    """Bytes."""
    mig: bool
    """Whether it is split into instances; its owner has plans for it, so we leave it alone."""


class GpuSample(msgspec.Struct, frozen=True, kw_only=True):
    """What one GPU, or several, do now."""

    utilisation: float = 0.0
    """0 to 1."""
    memory: int = 0
    """Bytes in use."""
    memory_total: int = 0
    """Bytes."""


class Nvml:
    """The library, loaded. Its calls take microseconds to a few milliseconds."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    @classmethod
    def load(cls) -> Nvml | None:
        """The library; None on a machine without NVIDIA's driver (`why_not` says why)."""
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return None
        return cls()

    @staticmethod
    def why_not() -> str:
        """Why `load` gives None: what NVML says."""
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            return str(error)
        pynvml.nvmlShutdown()
        return ""

    def driver(self) -> str:
        """The driver's version."""
        return _text(pynvml.nvmlSystemGetDriverVersion())

    def gpus(self) -> list[NvmlGpu]:
        """Those that work. One that does not answer (fallen off the bus) is left out."""
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            with contextlib.suppress(pynvml.NVMLError):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
                found.append(
                    NvmlGpu(
                        index=index,
                        uuid=uuid,
                        name=_text(pynvml.nvmlDeviceGetName(handle)),
                        memory=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                        mig=_mig(handle),
                    )
                )
                self._handles[uuid] = handle
        return found

    def sample(self, uuid: str) -> GpuSample:
        """One GPU now; zeros where it does not tell."""
        try:
            handle = self._handles[uuid]
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            utilisation = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except (KeyError, pynvml.NVMLError):
            return GpuSample()
        return GpuSample(utilisation=utilisation, memory=int(memory.used), memory_total=int(memory.total))


def _mig(handle: Any) -> bool:
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError:
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
