"""GPU specs: ``"H100"``, ``"H100:8"``, ``"H100!"``, ``"any"``, or a list in order of preference."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from skylift.exceptions import InvalidError
from skylift.wire import GpuRequest

MODELS = ("T4", "L4", "A10G", "L40S", "A100-40GB", "A100-80GB", "H100", "H200", "B200")
"""The models that can be asked for by name, from small to large."""

MAX_COUNT = 16
"""Most GPUs of one container: they are in one machine."""

_ALIASES = {"a10": "A10G", "a100": "A100-40GB", "any": "any"}
_BY_NAME = {model.lower(): model for model in MODELS} | _ALIASES


def parse_gpu(spec: str) -> GpuRequest:
    """One spec as a request. Raises `InvalidError` that names the nearest models when it is unknown."""
    if not isinstance(spec, str):
        raise InvalidError(f'gpu={spec!r}: a GPU is written as text, such as "H100" or "H100:8"')
    name, colon, number = spec.strip().partition(":")
    exact = name.endswith("!")
    model = _BY_NAME.get(name.rstrip("!").strip().lower())
    if model is None:
        raise InvalidError(_unknown(spec, name.rstrip("!").strip()))
    if exact and model == "any":
        raise InvalidError(f'gpu={spec!r}: "!" means exactly this model, and "any" is none')
    count = 1
    if colon:
        if not number.strip().isdigit() or not 1 <= int(number) <= MAX_COUNT:
            raise InvalidError(f'gpu={spec!r}: the count after ":" is a number from 1 to {MAX_COUNT}')
        count = int(number)
    return GpuRequest(model=model, count=count, exact=exact)


def parse_gpus(gpu: str | Sequence[str] | None) -> tuple[GpuRequest, ...]:
    """What ``gpu=`` takes, as requests in order of preference; empty for None.

    Text may hold several specs with commas between them, as ``%%gpu`` writes them.
    Raises `InvalidError` for an unknown model, an empty list or a wrong count.
    """
    if gpu is None:
        return ()
    specs: list[str] = []
    if isinstance(gpu, str):
        specs = gpu.split(",")
    elif isinstance(gpu, Sequence):
        specs = list(gpu)
    else:
        raise InvalidError(
            f'gpu={gpu!r}: a GPU is written as text, such as "H100" or "H100:8", or a list of such texts'
        )
    if not specs:
        raise InvalidError('gpu=[]: an empty list of GPUs; leave it out for none, or write "any"')
    return tuple(parse_gpu(spec) for spec in specs)


def gpu_text(request: GpuRequest) -> str:
    """A request as it is written: ``"H100:8"``."""
    text = request.model + ("!" if request.exact else "")
    return text if request.count == 1 else f"{text}:{request.count}"


def _unknown(spec: str, name: str) -> str:
    known = ", ".join(MODELS)
    if not name:
        return f'gpu={spec!r}: no GPU is named. Known: {known}; "any" takes whichever there is'
    near = difflib.get_close_matches(name.lower(), list(_BY_NAME), n=3, cutoff=0.5)
    models = list(dict.fromkeys(_BY_NAME[match] for match in near))
    hint = f"did you mean {' or '.join(models)}? " if models else ""
    return f'gpu={spec!r}: unknown GPU {name!r}; {hint}Known: {known}; "any" takes whichever there is'
