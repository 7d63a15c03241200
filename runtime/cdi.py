"""Devices by the Container Device Interface: which device nodes, mounts, variables and hooks a GPU needs.

The vendor's tool writes one specification for each machine (``nvidia-ctk cdi generate``); this module reads
them as https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md says and turns those of
the asked devices into edits of a container.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from skylift.runtime.isolation import Bind

FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
"""Lowest priority first: what is made at boot wins over what was installed."""


class CdiError(Exception):
    """A device cannot be had: no specification has it, or the one that has it is wrong."""


class DeviceNode(msgspec.Struct, frozen=True, rename="camel"):
    """A device file."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int | None = None
    minor: int | None = None
    permissions: str = "rwm"


class Mount(msgspec.Struct, frozen=True, rename="camel"):
    """A file or folder of the machine."""

    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class Hook(msgspec.Struct, frozen=True, rename="camel"):
    """A program that is run at some point of a container's life."""

    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class ContainerEdits(msgspec.Struct, frozen=True, rename="camel"):
    """What a container with some device needs."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = ()
    additional_gids: tuple[int, ...] = msgspec.field(default=(), name="additionalGIDs")


class Device(msgspec.Struct, frozen=True, rename="camel"):
    """One device of a specification."""

    name: str
    container_edits: ContainerEdits = ContainerEdits()


class Specification(msgspec.Struct, frozen=True, rename="camel"):
    """One file. Fields that this version of Skylift does not know are left alone."""

    cdi_version: str
    kind: str
    devices: tuple[Device, ...]
    container_edits: ContainerEdits = ContainerEdits()
    """For every container that has any of the devices; once."""


class Edits(msgspec.Struct, frozen=True, kw_only=True):
    """What devices add to a container, in the forms of the OCI configuration."""

    env: tuple[str, ...] = ()
    binds: tuple[Bind, ...] = ()
    mounts: tuple[dict[str, Any], ...] = ()
    """Device nodes among them: in a user namespace nobody can make one, so the machine's is mounted."""
    device_rules: tuple[dict[str, Any], ...] = ()
    """``linux.resources.devices``."""
    hooks: Mapping[str, tuple[dict[str, Any], ...]] = {}
    groups: tuple[int, ...] = ()


class Registry:
    """All devices that a machine's specifications name."""

    def __init__(self) -> None:
        self._devices: dict[str, tuple[Path, Specification, Device]] = {}
        self._conflicts: dict[str, tuple[Path, Path]] = {}
        self.problems: dict[Path, str] = {}
        """Files that are not valid specifications, and why. They are passed over."""

    @classmethod
    def read(cls, folders: Sequence[Path] = FOLDERS) -> Registry:
        """Read every ``*.json`` and ``*.yaml`` of the folders; later folders win."""
        registry = cls()
        for folder in folders:
            found: dict[str, Path] = {}
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.suffix not in (".json", ".yaml"):
                    continue
                try:
                    specification = parse(path)
                except CdiError as error:
                    registry.problems[path] = str(error)
                else:
                    registry._add(path, specification, found)
        return registry

    def names(self, kind: str) -> list[str]:
        """The devices of a kind (``"nvidia.com/gpu"``), by their full names."""
        return sorted(name for name in self._devices if name.startswith(f"{kind}="))

    def __contains__(self, name: str) -> bool:
        return name in self._devices

    def edits(self, names: Iterable[str]) -> Edits:
        """What a container with these devices (``"nvidia.com/gpu=0"``) needs. Raises `CdiError`."""
        edits: list[ContainerEdits] = []
        used: set[Path] = set()
        for name in names:
            if name in self._conflicts:
                one, other = self._conflicts[name]
                raise CdiError(f"Device {name} is in both {one} and {other}; remove one of them.")
            if name not in self._devices:
                raise CdiError(f"No CDI specification has the device {name}.{self._hint(name)}")
            path, specification, device = self._devices[name]
            if path not in used:
                used.add(path)
                edits.append(specification.container_edits)
            edits.append(device.container_edits)
        return _joined(edits)

    def _add(self, path: Path, specification: Specification, found: dict[str, Path]) -> None:
        for device in specification.devices:
            name = f"{specification.kind}={device.name}"
            if name in found:
                self._conflicts[name] = (found[name], path)
                continue
            found[name] = path
            self._conflicts.pop(name, None)  # of a folder that this one wins over
            self._devices[name] = (path, specification, device)

    def _hint(self, name: str) -> str:
        others = self.names(name.partition("=")[0])
        hint = f" There are {', '.join(others)}." if others else ""
        return hint + "".join(f" {path} cannot be read: {why}." for path, why in self.problems.items())


def parse(path: Path) -> Specification:
    """Read one file. Raises `CdiError` that says what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        specification = msgspec.convert(content, Specification)
    except OSError as error:
        raise CdiError(error.strerror or str(error)) from error
    except (ValueError, yaml.YAMLError) as error:
        raise CdiError(str(error).partition("\n")[0]) from error
    vendor, _, device_class = specification.kind.partition("/")
    if not vendor or not device_class:
        raise CdiError(f'kind is {specification.kind!r}, not "vendor/class"')
    return specification


def _joined(edits: Iterable[ContainerEdits]) -> Edits:
    env: list[str] = []
    binds: list[Bind] = []
    mounts: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = []
    hooks: dict[str, tuple[dict[str, Any], ...]] = {}
    groups: list[int] = []
    for each in edits:
        env += each.env
        groups += each.additional_gids
        for node in each.device_nodes:
            mounts.append(_device_mount(node))
            rules.append(_device_rule(node))
        for mount in each.mounts:
            if mount.type in ("", "bind", "none"):
                binds.append(Bind(Path(mount.host_path), mount.container_path, "rw" in mount.options))
            else:
                mounts.append(
                    {
                        "destination": mount.container_path,
                        "type": mount.type,
                        "source": mount.host_path,
                        "options": list(mount.options),
                    }
                )
        for hook in each.hooks:
            entry: dict[str, Any] = {"path": hook.path, "args": list(hook.args), "env": list(hook.env)}
            if hook.timeout is not None:
                entry["timeout"] = hook.timeout
            hooks[hook.hook_name] = (*hooks.get(hook.hook_name, ()), entry)
    return Edits(
        env=tuple(env),
        binds=tuple(dict.fromkeys(binds)),
        mounts=tuple(mounts),
        device_rules=tuple(rules),
        hooks=hooks,
        groups=tuple(dict.fromkeys(groups)),
    )


def _device_mount(node: DeviceNode) -> dict[str, Any]:
    return {
        "destination": node.path,
        "type": "bind",
        "source": node.host_path or node.path,
        "options": ["bind", "nosuid", "noexec", "rw"],
    }


def _device_rule(node: DeviceNode) -> dict[str, Any]:
    kind, major, minor = node.type, node.major, node.minor
    if not kind or major is None or minor is None:
        path = node.host_path or node.path
        try:
            status = os.stat(path)
        except OSError as error:
            raise CdiError(f"The device file {path} cannot be opened: {error.strerror}.") from error
        kind = "b" if stat.S_ISBLK(status.st_mode) else "c"
        major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return {
        "allow": True,
        "type": "c" if kind == "u" else kind,
        "major": major,
        "minor": minor,
        "access": node.permissions,
    }
