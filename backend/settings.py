"""What ``config.toml`` says to the gateway: the tables ``[gateway]``, ``[host]`` and ``[prices]``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from skylift.runtime.settings import (
    SYSTEM_CONFIG,
    HostSettings,
    SettingsError,
    host_settings,
    read_config,
    settings_from_table,
)

__all__ = ["GatewaySettings", "HostSettings", "KernelSettings", "Settings", "SettingsError", "load_settings"]

MIB = 1024 * 1024
KNOWN_MODELS = ("T4", "L4", "A10G", "L40S", "A100-40GB", "A100-80GB", "H100", "H200", "B200")
_TABLES = ("gateway", "host", "prices", "kernels")
_PRICED = (*KNOWN_MODELS, "cpu", "memory")


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the gateway listens, and how much it takes on."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 0
    """0 takes a free one; ``gateway.json`` says which."""
    origins: tuple[str, ...] = ()
    """Origins (``"https://lab.example"``) besides its own whose pages may connect."""
    client_grace: float = 60.0
    """Seconds that the calls of a client that vanished go on before they are cancelled."""
    host_grace: float = 30.0
    """Seconds that calls wait for a host that lost its link, before they fail."""
    retention_days: float = 30.0
    """Days that finished calls and their output are kept."""
    max_connections: int = 1000
    """Clients connected at once."""
    max_queued_calls: int = 20_000
    """Calls that wait for a container at once."""
    max_queued_bytes: int = 512 * MIB
    """Bytes of arguments that may wait for a container at once."""
    log_backlog: int = 64 * MIB
    """Bytes that may wait to be written to the database before streams are held back."""
    kernel_idle_timeout: float = 3600.0
    """Seconds after which a hosted Jupyter kernel is ended that has run nothing; 0 is never."""
    kernel_idle_connected: bool = False
    """Whether that holds while a notebook is connected to it, too."""
    kernel_start_timeout: float = 38.0
    """Seconds that a client waits for a kernel to start. JupyterLab itself gives up after 42 s, if it is not
    told otherwise."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, not {self.port}")
        for name in ("client_grace", "host_grace", "retention_days", "kernel_idle_timeout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.kernel_start_timeout <= 0:
            raise ValueError("kernel_start_timeout must be more than 0")
        for name in ("max_connections", "max_queued_calls", "max_queued_bytes", "log_backlog"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")


class KernelSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One of ``[[kernels]]``: a kernel that people can choose, beside those for each GPU that there is."""

    name: str
    """For people: ``"Training (2 × H100)"``."""
    gpu: str = ""
    """``"H100"``, ``"H100:2"``, ``"H100,A100-80GB"`` in order of preference, ``"any"``; "" is none."""
    cpu: float = 0.125
    """Cores that are reserved."""
    cpu_limit: float | None = None
    memory: int = 128
    """MiB that are reserved."""
    memory_limit: int | None = None
    """MiB; a kernel that needs more is killed, and says so. None is the host's default."""
    image: str = ""
    """Key of an image that was built, or its first 8 digits and more; "" is the gateway's own environment."""
    python: str = ""
    """The Python of another environment of the gateway's machine, which has skylift and ipykernel."""
    volumes: dict[str, str] = {}
    """By path: a volume's name, with ``:ro`` behind it where it is only to be read."""
    env: dict[str, str] = {}
    block_network: bool = False
    idle_timeout: float | None = None
    """Seconds, in the place of ``kernel_idle_timeout``."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("name must not be empty")
        for name in ("cpu", "memory", "cpu_limit", "memory_limit", "idle_timeout"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be more than 0")
        if self.image and self.python:
            raise ValueError("image and python exclude each other")
        for path in self.volumes:
            if not path.startswith("/") or path.strip("/") in ("", "root", "tmp"):
                raise ValueError(
                    f"volumes: {path!r} is not a path that a volume can be mounted at: /data, say"
                )


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All of ``config.toml``, checked."""

    home: Path
    gateway: GatewaySettings = GatewaySettings()
    host: HostSettings = HostSettings()
    prices: dict[str, float] = {}
    """US dollars an hour: of one GPU by its model, of one core (``cpu``), of one GiB (``memory``)."""
    kernels: tuple[KernelSettings, ...] = ()


def load_settings(home: Path, system: Path = SYSTEM_CONFIG) -> Settings:
    """Read ``config.toml`` of `home` and of the system.

    Raises `SettingsError` that names the table and key at fault, and the nearest known names.
    """
    config = read_config(home, system)
    for table in config:
        if table not in _TABLES:
            raise SettingsError(f"Unknown table [{table}] in config.toml. {_hint(table, _TABLES)}")
    return Settings(
        home=home,
        gateway=settings_from_table(GatewaySettings, _table(config, "gateway"), "gateway"),
        host=host_settings(config),
        prices=_prices(_table(config, "prices")),
        kernels=_kernels(config.get("kernels", [])),
    )


def _kernels(tables: object) -> tuple[KernelSettings, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        raise SettingsError(
            "[[kernels]] of config.toml must be tables, each under a line [[kernels]] of its own."
        )
    kernels = tuple(settings_from_table(KernelSettings, table, "[kernels]") for table in tables)
    names = [kernel.name for kernel in kernels]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"Two of [[kernels]] in config.toml are called {name!r}.")
    return kernels


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = config.get(name, {})
    if not isinstance(table, Mapping):
        raise SettingsError(f"[{name}] of config.toml must be a table.")
    return table


def _prices(table: Mapping[str, Any]) -> dict[str, float]:
    by_lower = {name.lower(): name for name in _PRICED}
    prices: dict[str, float] = {}
    for key, value in table.items():
        # A vendor's own name for a GPU is fine; a slip in one of ours would make it free of charge, unseen.
        name = by_lower.get(key.lower(), key)
        if name not in _PRICED and difflib.get_close_matches(key, _PRICED, n=1, cutoff=0.7):
            raise SettingsError(f"Unknown key {key!r} in [prices] of config.toml. {_hint(key, _PRICED)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise SettingsError(
                f"Wrong value in [prices] of config.toml: {key} must be US dollars an hour, not {value!r}."
            )
        prices[name] = float(value)
    return prices


def _hint(key: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
