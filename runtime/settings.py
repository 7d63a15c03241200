"""The ``[host]`` part of ``config.toml``, and how a table of a configuration file becomes a struct."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SYSTEM_CONFIG = Path("/etc/skylift/config.toml")
MIB = 1024 * 1024

S = TypeVar("S", bound=msgspec.Struct)


class SettingsError(Exception):
    """A configuration file says something that cannot be. The message names file, table and key."""


class HostSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this machine offers, and how containers are made on it."""

    isolation: Literal["runc", "process"] = "runc"
    """``"process"`` isolates nothing; it is never chosen unless it is named here."""
    cpus: float | None = None
    """Cores to offer; None is what this process may use."""
    memory: int | None = None
    """MiB to offer; None is nine tenths of the machine's."""
    memory_limit: int | None = None
    """MiB that a container may use where its function does not say; None is `memory`, 0 is no limit."""
    pids_limit: int = 4096
    """Processes and threads in one container."""
    network: Literal["auto", "bridge", "user", "none"] = "auto"
    """``"bridge"``: a bridge of our own and NAT (needs root); ``"user"``: through pasta or slirp4netns,
    without privileges; ``"none"``: containers have only a loopback. ``"auto"`` is the first of them that
    works here."""
    subnet: str = "10.213.0.0/16"
    """IPv4 addresses of the bridge and its containers."""
    dns: tuple[str, ...] = ()
    """Name servers for containers; () is the machine's own."""
    user_ids: str = ""
    """``"100000:65536"``: which user and group ids containers run under; "" is what ``/etc/subuid`` grants.
    """
    orphan_timeout: float = 600.0
    """Seconds without a gateway after which the host ends its containers and itself."""
    cancel_grace: float = 10.0
    """Seconds that a cancelled call has to end before its container is killed."""
    timeout_grace: float = 2.0
    """The same for a call whose time is over."""
    simulate_gpus: dict[str, int] = {}
    """``{"H100" = 1}`` offers a GPU that is not there: code runs without it, and can be told so."""
    criu: str = ""
    """Path of the CRIU to use; "" looks for one."""
    templates: bool = True
    """Whether containers are forked from templates, and restored from snapshots of these."""
    spare_forks: bool = True
    """Whether a template has one fork made ahead, for the next container."""
    template_memory: int | None = None
    """MiB that templates of which nothing runs may take together; None is a tenth of `memory`."""
    store: str = ""
    """URL of the store that images and volumes are in (see `skylift.lazyfs.open_store`); "" is ``store`` in
    ``$SKYLIFT_HOME``."""
    layer_cache: int = 32768
    """MiB of this host's disk for layers of images of which nothing runs; the least recently used ones go."""
    plain_http_registries: tuple[str, ...] = ()
    """``"registry.lan:5000"``: registries of images that are spoken to without TLS; beside these, only those
    of this machine are."""
    snapshots: str = ""
    """Folder of the snapshots, which several hosts may share; "" is ``snapshots`` in ``$SKYLIFT_HOME``."""
    snapshot_store: int = 16384
    """MiB that snapshots of templates may take in the store; the least recently used ones go."""
    snapshot_cache: int = 8192
    """MiB of this host's disk for unpacked snapshots, from which containers are restored; likewise."""

    def memory_offered(self) -> int:
        """MiB."""
        return self.memory if self.memory is not None else machine_memory() * 9 // 10

    def cpus_offered(self) -> float:
        """Cores."""
        return self.cpus if self.cpus is not None else float(len(os.sched_getaffinity(0)))

    def template_budget(self) -> int:
        """MiB."""
        return self.template_memory if self.template_memory is not None else self.memory_offered() // 10

    def default_memory_limit(self) -> int:
        """MiB; 0 is none."""
        return self.memory_limit if self.memory_limit is not None else self.memory_offered()


def machine_memory() -> int:
    """MiB of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB


def read_config(home: Path, system: Path = SYSTEM_CONFIG) -> dict[str, Any]:
    """Both configuration files as one; the home's own wins, key by key of each table.

    Raises `SettingsError` where one is not TOML or cannot be read. A missing file is an empty one.
    """
    merged: dict[str, Any] = {}
    for path in (system, home / "config.toml"):
        try:
            with path.open("rb") as file:
                tables = tomllib.load(file)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise SettingsError(f"Cannot read {path}: {error.strerror}.") from error
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{path} is not valid TOML: {error}.") from error
        for name, table in tables.items():
            if isinstance(table, dict) and isinstance(merged.get(name), dict):
                merged[name] = {**merged[name], **table}
            else:
                merged[name] = table
    return merged


def settings_from_table(kind: type[S], table: Mapping[str, Any], name: str) -> S:
    """Make a struct of a table of the configuration; `name` is the table's, for messages.

    Raises `SettingsError` that names an unknown key and those nearest to it, or the key with a wrong value.
    """
    known = [field.encode_name for field in msgspec.structs.fields(kind)]
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Known keys: {', '.join(known)}."
            raise SettingsError(f"Unknown key {key!r} in [{name}] of config.toml. {hint}")
    try:
        return msgspec.convert(dict(table), kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"Wrong value in [{name}] of config.toml: {error}.") from error


def host_settings(config: Mapping[str, Any]) -> HostSettings:
    """The ``[host]`` table of a configuration (see `read_config`), checked. Raises `SettingsError`."""
    table = config.get("host", {})
    if not isinstance(table, Mapping):
        raise SettingsError("[host] of config.toml must be a table.")
    return settings_from_table(HostSettings, table, "host")
