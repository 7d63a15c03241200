"""The GPUs of a host: what there is, and who has it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import msgspec

from skylift.runtime.gpu_models import MODELS, describe, satisfies
from skylift.runtime.gpu_models import model_name as name_of
from skylift.runtime.nvml import GpuSample, Nvml
from skylift.runtime.settings import HostSettings, SettingsError
from skylift.runtime.start_error import StartError
from skylift.wire import GpuInfo, GpuRequest

MAX_SIMULATED = 64


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One whole GPU."""

    index: int
    """As NVML numbers them; simulated ones come after the real ones."""
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


class GpuInventory:
    """The GPUs that a host offers. Each is with one container at a time, whole."""

    def __init__(self, gpus: Iterable[Gpu], nvml: Nvml | None = None) -> None:
        self.gpus = tuple(gpus)
        self._nvml = nvml
        self._holders: dict[str, str] = {}
        """Container ids by the uuids of the GPUs that they have."""

    @classmethod
    def of_machine(cls, settings: HostSettings) -> GpuInventory:
        """What NVML finds, but for GPUs split by MIG, and what the settings simulate. Raises
        `SettingsError`."""
        nvml = Nvml.load()
        real = [
            Gpu(index=gpu.index, uuid=gpu.uuid, model=name_of(gpu.name), memory=gpu.memory)
            for gpu in (nvml.gpus() if nvml else ())
            if not gpu.mig
        ]
        first = max((gpu.index for gpu in real), default=-1) + 1
        return cls([*real, *simulated_gpus(settings.simulate_gpus, first)], nvml)

    def infos(self) -> tuple[GpuInfo, ...]:
        """All of them, as they travel."""
        return tuple(gpu.info(self._holders.get(gpu.uuid, "")) for gpu in self.gpus)

    def real(self) -> tuple[Gpu, ...]:
        """Those that are there."""
        return tuple(gpu for gpu in self.gpus if not gpu.simulated)

    @property
    def driver(self) -> str:
        """Version of NVIDIA's driver; "" where there is none."""
        return self._nvml.driver() if self._nvml is not None else ""

    def take(self, request: GpuRequest, container_id: str) -> tuple[Gpu, ...]:
        """Give GPUs to a container.

        The model that is asked for comes before a better one, a real one before a simulated one, and for
        ``"any"`` the smallest. Raises `StartError` (``ResourceExhaustedError``) that says what there is.
        """
        fitting = [gpu for gpu in self.gpus if satisfies(gpu.model, request.model, request.exact)]
        if len(fitting) < request.count:
            raise StartError(self._lacking(request, len(fitting)), "ResourceExhaustedError")
        by_model: dict[str, list[Gpu]] = {}
        for gpu in fitting:
            if gpu.uuid not in self._holders:
                by_model.setdefault(f"{gpu.model} {gpu.simulated}", []).append(gpu)
        # GPUs of one container are of one model: programs that use several expect it.
        groups = [group for group in by_model.values() if len(group) >= request.count]
        if not groups:
            raise StartError(self._busy(request, fitting), "ResourceExhaustedError")
        wanted = request.model.casefold()
        best = min(
            groups,
            key=lambda group: (group[0].model.casefold() != wanted, group[0].simulated, group[0].memory),
        )
        taken = tuple(best[: request.count])
        self._holders |= {gpu.uuid: container_id for gpu in taken}
        return taken

    def give_back(self, container_id: str) -> None:
        """A container has ended. Idempotent."""
        self._holders = {uuid: holder for uuid, holder in self._holders.items() if holder != container_id}

    def sample(self, gpus: Iterable[Gpu]) -> GpuSample:
        """What these GPUs do now, together; simulated ones do nothing, in their real size."""
        samples = []
        for gpu in gpus:
            if gpu.simulated or self._nvml is None:
                samples.append(GpuSample(memory_total=gpu.memory))
            else:
                samples.append(self._nvml.sample(gpu.uuid))
        if not samples:
            return GpuSample()
        return GpuSample(
            utilisation=sum(sample.utilisation for sample in samples) / len(samples),
            memory=sum(sample.memory for sample in samples),
            memory_total=sum(sample.memory_total for sample in samples),
        )

    def _lacking(self, request: GpuRequest, fitting: int) -> str:
        there_is = describe(self.infos())
        if fitting:
            return (
                f"This host cannot give {request.count} × {request.model} to one container: "
                f"it has {there_is}. Ask for fewer, or for another model."
            )
        if self.gpus:
            text = f"This host has no {request.model}: it has {there_is}. Ask for what it has, or add"
        else:
            text = "This host has no GPU. Add"
        return (
            f'{text} simulate_gpus = {{"{_suggested(request.model)}" = {request.count}}} to [host] of '
            "config.toml to run the code without one."
        )

    def _busy(self, request: GpuRequest, fitting: list[Gpu]) -> str:
        holders = dict.fromkeys(self._holders[gpu.uuid] for gpu in fitting if gpu.uuid in self._holders)
        return (
            f"{request.count} × {request.model} cannot be had now: of {len(fitting)} on this host, "
            f"{sum(gpu.uuid in self._holders for gpu in fitting)} are in use by {', '.join(holders)}."
        )


def simulated_gpus(counts: Mapping[str, int], first_index: int = 0) -> list[Gpu]:
    """GPUs that are not there, for ``simulate_gpus``. Raises `SettingsError` for an unknown model."""
    gpus: list[Gpu] = []
    for name, count in counts.items():
        model = MODELS.get(name.upper())
        where = "simulate_gpus in [host] of config.toml"
        if model is None:
            near = difflib.get_close_matches(name.upper(), MODELS, n=3, cutoff=0.4) or list(MODELS)
            raise SettingsError(f"{where}: there is no GPU {name!r}. Did you mean {' or '.join(near)}?")
        if not 0 <= count <= MAX_SIMULATED:
            raise SettingsError(f"{where}: {name} = {count} must be between 0 and {MAX_SIMULATED}.")
        gpus += [
            Gpu(
                index=first_index + len(gpus) + number,
                uuid=f"SIMULATED-{model.name}-{number}",
                model=model.name,
                memory=model.memory,
                simulated=True,
            )
            for number in range(count)
        ]
    return gpus


def visible_devices(gpus: Iterable[Gpu]) -> dict[str, str]:
    """The variables that tell programs in a container which GPUs they have."""
    real = [gpu for gpu in gpus if not gpu.simulated]
    simulated = [gpu for gpu in gpus if gpu.simulated]
    env = {"NVIDIA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in real) or "void"}
    if not real:
        env["CUDA_VISIBLE_DEVICES"] = ""
    if simulated:
        count = f":{len(simulated)}" if len(simulated) > 1 else ""
        env["SKYLIFT_SIMULATED_GPU"] = simulated[0].model + count
    return env


def _suggested(model: str) -> str:
    return MODELS[model.upper()].name if model.upper() in MODELS else "H100"
