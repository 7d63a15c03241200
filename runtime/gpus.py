"""The GPUs of a host: what there is, and who has it."""

from __future__ import annotations

import msgspec

from skylift.wire import GpuInfo


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One whole GPU."""

    index: int
    """As NVML numbers them."""
    uuid: str
    model: str
    """Our name (``"H100"``), or the vendor's where we have none."""
    memory: int
    """Bytes."""
    simulated: bool = False

    def info(self, in_use_by: str = "") -> GpuInfo:
        """The same, as it travels."""
        return GpuInfo(
            index=self.index,
            uuid=self.uuid,
            model=self.model,
            memory=self.memory,
            simulated=self.simulated,
            in_use_by=in_use_by,
        )
