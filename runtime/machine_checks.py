"""What this machine has of what containers and GPUs need; each check says why and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from skylift.runtime.cdi import FOLDERS, Registry
from skylift.runtime.gpu_models import model_name
from skylift.runtime.gpus import simulated_gpus
from skylift.runtime.nvml import Nvml
from skylift.runtime.runc.cgroups import Cgroups
from skylift.runtime.runc.commands import CommandError, run
from skylift.runtime.runc.id_map import IdMaps, root_maps, rootless_maps
from skylift.runtime.runc.isolation import CDI_KIND
from skylift.runtime.runc.name_servers import name_servers
from skylift.runtime.runc.seccomp import seccomp_filter
from skylift.runtime.runc.user_network import check_tun
from skylift.runtime.settings import HostSettings, SettingsError

State = Literal["ok", "warning", "missing"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. ``missing`` stops containers from being made, ``warning`` does not."""

    name: str
    state: State
    text: str
    why: str = ""
    """What it is needed for; empty where all is well."""
    fix: str = ""
    """How to get it."""


async def examine(settings: HostSettings, home: Path) -> AsyncIterator[Finding]:
    """Look at everything, the most basic first. Changes nothing that lasts."""
    if sys.platform != "linux":
        yield Finding(
            name="system",
            state="missing",
            text=f"{platform.system()} has no Linux containers",
            why="Containers are made of namespaces and cgroups of the Linux kernel.",
            fix='Run Skylift on Linux; or set isolation = "process" in [host] of config.toml, which isolates '
            "nothing.",
        )
        return
    rootless = os.geteuid() != 0
    yield await _runc()
    yield _programs()
    yield await _user_namespaces(rootless)
    yield _ids(settings, rootless)
    yield await _overlay(home, rootless)
    yield _cgroups(rootless)
    yield _seccomp()
    yield _network(settings, rootless)
    if settings.network != "none":
        yield _names(settings)
    for finding in _gpus(settings):
        yield finding


async def _runc() -> Finding:
    try:
        version = (await run(["runc", "--version"])).stdout.splitlines()[0].removeprefix("runc version ")
    except (CommandError, IndexError) as error:
        return Finding(
            name="runc",
            state="missing",
            text=str(error) or "runc says no version",
            why="It makes the containers.",
            fix="Install the package runc (`apt-get install runc`, `dnf install runc`).",
        )
    return Finding(name="runc", state="ok", text=version)


def _programs() -> Finding:
    missing = [name for name in ("unshare", "nsenter", "mount", "sh", "cat") if shutil.which(name) is None]
    if missing:
        return Finding(
            name="programs",
            state="missing",
            text=f"not found: {', '.join(missing)}",
            why="Namespaces and mounts of containers are prepared with them.",
            fix="Install the packages util-linux, mount and coreutils.",
        )
    return Finding(name="programs", state="ok", text="util-linux is there")


async def _user_namespaces(rootless: bool) -> Finding:
    command = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork"]
    try:
        await run([*command, "mount", "-t", "proc", "proc", "/proc"])
    except CommandError as error:
        fix = "As root: `sysctl user.max_user_namespaces=15000`"
        if rootless:
            fix += (
                ", `sysctl kernel.unprivileged_userns_clone=1` (Debian) and "
                "`sysctl kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu); or run Skylift as root"
            )
        return Finding(
            name="user namespaces",
            state="missing",
            text=str(error).rpartition(": ")[2],
            why="In one, root of a container is nobody on this machine.",
            fix=f"{fix}. Inside another container: start that one with the right to make more (privileged).",
        )
    return Finding(name="user namespaces", state="ok", text="can be made, with their own /proc and network")


def _ids(settings: HostSettings, rootless: bool) -> Finding:
    name = "user ids"
    helpers = shutil.which("newuidmap") is not None and shutil.which("newgidmap") is not None
    try:
        maps: IdMaps = rootless_maps(helpers=helpers) if rootless else root_maps(settings.user_ids)
    except ValueError as error:
        return Finding(
            name=name,
            state="missing",
            text=str(error),
            why="Users of a container are mapped to these ids.",
            fix='Write "START:SIZE", or remove the key.',
        )
    if maps.single:
        lacking = "no range in /etc/subuid and /etc/subgid" if helpers else "newuidmap is not installed"
        return Finding(
            name=name,
            state="warning",
            text=f"a container has one user only: {lacking}",
            why="Programs in it that change their user or a file's owner fail.",
            fix=f"As root: install the package uidmap, and `usermod --add-subuids 100000-165535 "
            f"--add-subgids 100000-165535 {os.environ.get('USER', 'USER')}`.",
        )
    last = maps.keeper_users[-1] if rootless else maps.users[-1]
    text = f"a container's are {last.outside} to {last.outside + last.size - 1} here"
    return Finding(name=name, state="ok", text=text + (", and its root is you" if rootless else ""))


async def _overlay(home: Path, rootless: bool) -> Finding:
    where = next(path for path in (home, *home.parents) if path.is_dir())
    prefix = ["unshare", "--mount"] + (["--user", "--map-root-user"] if rootless else [])
    option = "lowerdir=lower,upperdir=upper,workdir=work" + (",userxattr" if rootless else "")
    script = 'cd "$1" && mkdir lower upper work root && mount -t overlay overlay -o "$2" root'
    try:
        with tempfile.TemporaryDirectory(prefix=".skylift-doctor-", dir=where) as folder:
            try:
                await run([*prefix, "sh", "-c", script, "sh", folder, option])
            finally:
                _open_work_folder(Path(folder))
    except (CommandError, OSError) as error:
        return Finding(
            name="overlay",
            state="warning",
            text=f"none can be made in {where} ({str(error).splitlines()[0].rpartition(': ')[2]})",
            why="Without it each container starts a little later, with a copy of its root.",
            fix="Set SKYLIFT_HOME to a folder on ext4, XFS or Btrfs (not on NFS or another overlay).",
        )
    return Finding(name="overlay", state="ok", text=f"works in {where}")


def _cgroups(rootless: bool) -> Finding:
    cgroups = Cgroups.of_machine("doctor")
    if not cgroups.usable:
        fix = "Mount the cgroup trees writable."
        if rootless:
            fix = (
                "Start Skylift in a scope of its own: `systemd-run --user --scope -p Delegate=yes "
                "skylift ...` (cgroup version 2), or as root."
            )
        return Finding(
            name="cgroups",
            state="warning",
            text=f"version {cgroups.version}, and this user may make none",
            why="Containers have no limits of memory, cpu and processes, and their use is not measured.",
            fix=fix,
        )
    return Finding(name="cgroups", state="ok", text=f"version {cgroups.version}")


def _seccomp() -> Finding:
    try:
        seccomp_filter()
    except ValueError as error:
        return Finding(
            name="seccomp",
            state="missing",
            text=str(error),
            why="System calls of containers are filtered.",
            fix="Use x86-64 or 64-bit ARM.",
        )
    if not Path("/proc/sys/kernel/seccomp").is_dir():
        return Finding(
            name="seccomp",
            state="missing",
            text="this kernel has no filters",
            why="System calls of containers are filtered.",
            fix="Use a kernel with CONFIG_SECCOMP_FILTER.",
        )
    return Finding(name="seccomp", state="ok", text="system calls are filtered")


def _network(settings: HostSettings, rootless: bool) -> Finding:
    if settings.network == "none":
        return Finding(name="network", state="ok", text='none, as configured (network = "none")')
    reasons = []
    if settings.network in ("auto", "bridge"):
        missing = _not_found(("ip", "iptables", "iptables-restore"))
        if rootless:
            reasons.append("a bridge needs root")
        elif missing:
            reasons.append(f"a bridge needs {', '.join(missing)}")
        else:
            return Finding(name="network", state="ok", text=f"bridge in {settings.subnet}, behind NAT")
    if settings.network in ("auto", "user"):
        program = next((name for name in ("pasta", "slirp4netns") if shutil.which(name)), None)
        try:
            check_tun()
        except CommandError as error:
            reasons.append(str(error).rstrip("."))
        else:
            if program is not None and not _not_found(("ip",)):
                return Finding(name="network", state="ok", text=f"through {program}, without privileges")
            reasons.append(
                "neither pasta nor slirp4netns is installed" if program is None else "ip is missing"
            )
    return Finding(
        name="network",
        state="missing",
        text="; ".join(reasons),
        why="Containers reach the outside through it (downloads, APIs).",
        fix="Install iptables and iproute2 (as root) or passt (rootless), "
        'or set network = "none" in [host] of config.toml.',
    )


def _names(settings: HostSettings) -> Finding:
    servers = name_servers(settings.dns)
    if servers.public:
        return Finding(
            name="name servers",
            state="warning",
            text=f"this machine's listen on its loopback only; containers ask {', '.join(servers.servers)}",
            why="Names inside your network are not found from containers on the bridge.",
            fix='Set dns = ["..."] in [host] of config.toml.',
        )
    return Finding(name="name servers", state="ok", text=", ".join(servers.servers))


def _gpus(settings: HostSettings) -> list[Finding]:
    findings = []
    try:
        simulated = simulated_gpus(settings.simulate_gpus)
    except SettingsError as error:
        return [
            Finding(
                name="simulated GPUs",
                state="missing",
                text=str(error),
                why="The host does not start with it.",
                fix="Correct the name, or remove the key.",
            )
        ]
    nvml = Nvml.load()
    if nvml is None:
        findings.append(
            Finding(
                name="GPUs",
                state="ok" if simulated else "warning",
                text=f"none ({Nvml.why_not()})",
                why="" if simulated else "Cells and functions that ask for a GPU do not run.",
                fix=""
                if simulated
                else "Install NVIDIA's driver, or try the code without a GPU: "
                'simulate_gpus = {"H100" = 1} in [host] of config.toml.',
            )
        )
    else:
        found = nvml.gpus()
        names = [model_name(gpu.name) + (" (MIG, left alone)" if gpu.mig else "") for gpu in found]
        findings.append(Finding(name="GPUs", state="ok", text=f"{', '.join(names)}; driver {nvml.driver()}"))
        findings += _cdi([(gpu.uuid, gpu.index) for gpu in found if not gpu.mig])
    if simulated:
        text = ", ".join(f"{count} × {name}" for name, count in settings.simulate_gpus.items())
        findings.append(Finding(name="simulated GPUs", state="ok", text=text))
    return findings


def _cdi(gpus: Sequence[tuple[str, int]]) -> list[Finding]:
    registry = Registry.read(FOLDERS)
    lacking = [
        str(index)
        for uuid, index in gpus
        if f"{CDI_KIND}={uuid}" not in registry and f"{CDI_KIND}={index}" not in registry
    ]
    why = "It says which device files and libraries a container with a GPU needs."
    fix = (
        "`nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` as root (package nvidia-container-toolkit)."
    )
    findings = [
        Finding(name="CDI", state="warning", text=f"{path}: {problem}", why=why, fix=fix)
        for path, problem in registry.problems.items()
    ]
    if lacking:
        text = f"no specification in {' or '.join(map(str, FOLDERS))} has GPU {', '.join(lacking)}"
        findings.append(Finding(name="CDI", state="warning", text=text, why=why, fix=fix))
    elif gpus and not findings:
        findings.append(Finding(name="CDI", state="ok", text="every GPU has its specification"))
    return findings


def _not_found(programs: Sequence[str]) -> list[str]:
    return [name for name in programs if shutil.which(name) is None]


def _open_work_folder(folder: Path) -> None:
    """The overlay leaves one of mode 0, which an ordinary user could not remove."""
    for path in folder.glob("work/work"):
        path.chmod(0o700)
