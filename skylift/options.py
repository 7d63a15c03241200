"""Checks of what ``@app.function`` is given, when it is given: each error names the parameter.

Every parameter of the public API is known here. One whose feature is not built yet is refused by name when it
has another value than its default; none is ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, cast, get_args

from skylift.exceptions import InvalidError
from skylift.gpu import parse_gpus
from skylift.image import Image
from skylift.retries import Retries, retry_policy
from skylift.volume_options import check_volumes
from skylift.wire import FunctionSpec, GpuRequest, IdlePolicy, ImageSpec, RetryPolicy, VolumeMount

Serializer: TypeAlias = Literal["cloudpickle", "dill"]

CLOUDS = ("aws", "gcp", "oci")
MAX_TIMEOUT = 24 * 3600

_NOT_BUILT = [
    "secrets",
    "schedule",
    "cloud",
    "region",
    "zone",
    "nonpreemptible",
    "ephemeral_disk",
    "enable_memory_snapshot",
    "experimental_options",
    "max_cost",
    "checkpoint_every",
    "tags",
]


@dataclass(frozen=True, kw_only=True)
class FunctionOptions:
    """The checked parameters of a function or session."""

    image: Image | None = None
    gpus: tuple[GpuRequest, ...] = ()
    cpu: float = 0.125
    cpu_limit: float | None = None
    memory: int = 128
    memory_limit: int | None = None
    timeout: float = 300.0
    startup_timeout: float = 300.0
    retries: RetryPolicy | None = None
    max_containers: int | None = None
    min_containers: int = 0
    buffer_containers: int = 0
    scaledown_window: float = 60.0
    idle_policy: IdlePolicy = "sleep"
    """Of a session."""
    block_network: bool = False
    single_use: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    serializer: Serializer = "cloudpickle"
    volumes: Mapping[str, Any] = field(default_factory=dict)
    """By path."""
    by_value: bool = False
    """Whether the code of functions of imported modules travels too, as that of notebook functions does."""

    def spec(
        self,
        app: str,
        name: str,
        image: ImageSpec,
        *,
        is_generator: bool = False,
        session: str = "",
        session_name: str = "",
        volumes: tuple[VolumeMount, ...] = (),
    ) -> FunctionSpec:
        """What containers of this function are made of."""
        return FunctionSpec(
            app=app,
            name=name,
            image=image,
            gpus=self.gpus,
            cpu=self.cpu,
            cpu_limit=self.cpu_limit,
            memory=self.memory,
            memory_limit=self.memory_limit,
            timeout=self.timeout,
            startup_timeout=self.startup_timeout,
            retries=self.retries,
            max_containers=self.max_containers,
            min_containers=self.min_containers,
            buffer_containers=self.buffer_containers,
            scaledown_window=self.scaledown_window,
            idle_policy=self.idle_policy,
            block_network=self.block_network,
            single_use=self.single_use,
            is_generator=is_generator,
            volumes=volumes,
            env=dict(self.env),
            session=session,
            session_name=session_name,
        )


def check_options(given: Mapping[str, Any], base: FunctionOptions | None = None) -> FunctionOptions:
    """The options that `given` parameters make, on top of `base`; None leaves a parameter as it is.

    Raises `InvalidError` naming the first parameter that is wrong or not built yet.
    """
    options = base or FunctionOptions()
    _check_containers(given)
    _check_cloud(given.get("cloud"))
    refuse_not_built(given)
    changes: dict[str, Any] = {}
    if given.get("image") is not None:
        changes["image"] = _image(given["image"])
    if given.get("gpu") is not None:
        changes["gpus"] = parse_gpus(given["gpu"])
    if given.get("cpu") is not None:
        low, high = _request_and_limit("cpu", given["cpu"], "cores", (int, float))
        changes.update(cpu=float(low), cpu_limit=None if high is None else float(high))
    if given.get("memory") is not None:
        low, high = _request_and_limit("memory", given["memory"], "MiB", (int,))
        changes.update(memory=int(low), memory_limit=None if high is None else int(high))
    for name in ("timeout", "startup_timeout"):
        if given.get(name) is not None:
            changes[name] = _seconds(name, given[name], MAX_TIMEOUT)
    if given.get("retries") is not None:
        changes["retries"] = _retries(given["retries"])
    for name in ("min_containers", "max_containers", "buffer_containers"):
        if given.get(name) is not None:
            changes[name] = given[name]
    if given.get("scaledown_window") is not None:
        changes["scaledown_window"] = _seconds("scaledown_window", given["scaledown_window"], MAX_TIMEOUT)
    for name, target in (("block_network", "block_network"), ("single_use_containers", "single_use")):
        if given.get(name) is not None:
            changes[target] = _flag(name, given[name])
    if given.get("idle_policy") is not None:
        changes["idle_policy"] = _idle_policy(given["idle_policy"])
    if given.get("serialized") is not None:
        changes["by_value"] = _flag("serialized", given["serialized"])
    if given.get("env") is not None:
        changes["env"] = _env(given["env"])
    if given.get("volumes") is not None:
        changes["volumes"] = check_volumes(given["volumes"])
    if given.get("serializer") is not None:
        changes["serializer"] = _serializer(given["serializer"])
    made = replace(options, **changes)
    if made.max_containers is not None and made.min_containers > made.max_containers:
        raise InvalidError(
            f"min_containers={made.min_containers} is more than max_containers={made.max_containers}"
        )
    return made


def refuse_not_built(given: Mapping[str, Any]) -> None:
    """Raises `InvalidError` naming the first parameter whose feature does not exist yet."""
    for name in _NOT_BUILT:
        value = given.get(name)
        if value is None or value is False or (isinstance(value, (Mapping, Sequence)) and not value):
            continue
        raise InvalidError(f"{name}= is not built yet; leave it out")
    if given.get("include_source") is False:
        raise InvalidError("include_source=False is not built yet: a container always sees the local modules")


def check_timeout_given(timeout: object) -> None:
    """Raises `InvalidError` for ``timeout=None``: a call without an end would hold its GPU for ever."""
    if timeout is None:
        raise InvalidError(
            f"timeout=None: a function needs a timeout in seconds; the longest is {MAX_TIMEOUT} (24 hours)"
        )


def _check_containers(given: Mapping[str, Any]) -> None:
    for name, least in (("min_containers", 0), ("max_containers", 1), ("buffer_containers", 0)):
        value = given.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise InvalidError(f"{name}={value!r}: a whole number of at least {least}")


def _check_cloud(cloud: object) -> None:
    if cloud is None:
        return
    if not isinstance(cloud, str) or cloud.lower() not in CLOUDS:
        near = difflib.get_close_matches(str(cloud).lower(), CLOUDS, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InvalidError(f"cloud={cloud!r}: unknown cloud; {hint}Known: {', '.join(CLOUDS)}")


def _image(image: object) -> Image:
    if not isinstance(image, Image):
        raise InvalidError(f"image={image!r}: a skylift.Image, such as skylift.Image.from_environment()")
    return image


def _retries(retries: object) -> RetryPolicy | None:
    if not isinstance(retries, (int, Retries)):
        raise InvalidError(f"retries={retries!r}: a whole number, or skylift.Retries(max_retries=…)")
    return retry_policy(retries)


def _request_and_limit(
    name: str, value: Any, unit: str, types: tuple[type, ...]
) -> tuple[float, float | None]:
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) not in (1, 2) or any(
        isinstance(part, bool) or not isinstance(part, types) for part in parts
    ):
        kind = "a whole number" if types == (int,) else "a number"
        raise InvalidError(f"{name}={value!r}: {kind} of {unit}, or a pair (reserved, limit)")
    if any(part <= 0 for part in parts):
        raise InvalidError(f"{name}={value!r}: more than 0 {unit}")
    if len(parts) == 2 and parts[0] > parts[1]:
        raise InvalidError(f"{name}={value!r}: reserves {parts[0]} {unit}, more than its limit of {parts[1]}")
    return parts[0], parts[1] if len(parts) == 2 else None


def _seconds(name: str, value: object, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise InvalidError(f"{name}={value!r}: a number of seconds, more than 0 and at most {most:g}")
    return float(value)


IDLE_POLICIES: tuple[str, ...] = get_args(IdlePolicy)


def _idle_policy(policy: object) -> IdlePolicy:
    if policy not in IDLE_POLICIES:
        near = difflib.get_close_matches(str(policy).lower(), IDLE_POLICIES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InvalidError(f"idle_policy={policy!r}: unknown; {hint}Known: {', '.join(IDLE_POLICIES)}")
    return cast("IdlePolicy", policy)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidError(f"{name}={value!r}: True or False")
    return value


def _env(env: object) -> dict[str, str]:
    if not isinstance(env, Mapping):
        raise InvalidError(f'env={env!r}: a dict of environment variables, such as {{"SEED": "1"}}')
    for name, value in env.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise InvalidError(f"env={{{name!r}: …}}: not a name of an environment variable")
        if value is not None and not isinstance(value, str):
            raise InvalidError(f"env={{{name!r}: {value!r}}}: the value is text; write {str(value)!r}")
    return {name: value for name, value in env.items() if value is not None}


def _serializer(serializer: object) -> Serializer:
    if serializer == "cloudpickle":
        return "cloudpickle"
    if serializer != "dill":
        raise InvalidError(f'serializer={serializer!r}: "cloudpickle" or "dill"')
    try:
        import dill  # noqa: F401
    except ImportError:
        raise InvalidError('serializer="dill" needs dill: pip install dill') from None
    return "dill"
