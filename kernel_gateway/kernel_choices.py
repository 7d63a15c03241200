"""The kernels that people can choose from: one for each GPU that there is, one without, those configured."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from skylift.backend.settings import KernelSettings
from skylift.backend.views import HostView
from skylift.runtime.gpu_models import MODELS
from skylift.wire import GpuRequest

PREFIX = "skylift-"
CPU = f"{PREFIX}cpu"

_GPU = re.compile(r"(?P<model>[^:!,]+?)\s*(?P<exact>!?)\s*(?::\s*(?P<count>[1-9]\d?))?")


class KernelChoice(msgspec.Struct, frozen=True):
    """One of them."""

    name: str
    """As kernelspecs are called: ``"skylift-h100"``."""
    settings: KernelSettings
    """`KernelSettings.name` is what people see."""


class UnknownGpuError(Exception):
    """The message says what was asked for, and how it is written."""


def kernel_choices(
    hosts: Iterable[HostView], configured: Iterable[KernelSettings]
) -> dict[str, KernelChoice]:
    """What hosts that are connected have now, by name; the first is the default."""
    simulated: dict[str, bool] = {}
    for host in hosts:
        for gpu in host.gpus if host.connected else ():
            simulated[gpu.model] = simulated.get(gpu.model, True) and gpu.simulated
    found = [_choice("Python 3 · CPU", CPU)]
    for model, unreal in sorted(simulated.items(), key=lambda item: _size(item[0])):
        note = " (simulated)" if unreal else ""
        found.append(_choice(f"Python 3 · {model}{note}", gpu_kernel_name(model), model))
    found += [KernelChoice(PREFIX + _slug(each.name), each) for each in configured]
    return {choice.name: choice for choice in found}


def choice_of_model(name: str) -> KernelChoice | None:
    """The kernel for a GPU that no host has now, and that may come."""
    for model in MODELS:
        if gpu_kernel_name(model) == name:
            return _choice(f"Python 3 · {model}", name, model)
    return None


def gpu_kernel_name(model: str) -> str:
    """``"skylift-h100"``."""
    return PREFIX + _slug(model)


def gpu_requests(text: str) -> tuple[GpuRequest, ...]:
    """``"H100:2, A100-80GB"`` as requests in order of preference. Raises `UnknownGpuError`."""
    requests = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = _GPU.fullmatch(part)
        if found is None:
            raise UnknownGpuError(f'gpu={text!r}: a GPU is written as "H100", "H100:2", "H100!" or "any"')
        known = {model.lower(): model for model in MODELS} | {"any": "any"}
        # A GPU that only its vendor has a name for is asked for by that.
        model = known.get(found["model"].lower(), found["model"])
        requests.append(GpuRequest(model=model, count=int(found["count"] or 1), exact=bool(found["exact"])))
    return tuple(requests)


def _choice(shown: str, name: str, gpu: str = "") -> KernelChoice:
    return KernelChoice(name, KernelSettings(name=shown, gpu=gpu))


def _size(model: str) -> tuple[int, str]:
    known = MODELS.get(model)
    return (known.memory if known is not None else 0), model


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "kernel"
