"""Finding a CRIU that works on this kernel, and what it can do here.

``[host] criu`` of ``config.toml`` names one; otherwise the first that passes its own check is taken: the one
on the PATH, then the one that ``scripts/install-criu`` has put into a folder of its own. What was found out
is kept in a file for as long as program and kernel stay the same.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
from pathlib import Path

import msgspec

from skylift.runtime.runc.commands import CommandError, run

MINIMUM = (4, 0)
"""3.17 does not know the vDSO of current kernels; what lies between was not tried."""

PRIVATE_FOLDER = Path("/opt/skylift/criu")
"""Where ``scripts/install-criu`` puts one for root; `user_folder` is another user's."""

SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
"""Folders that a PATH may lack."""

HOW_TO_GET_IT = (
    "As root: `scripts/install-criu`, or install the package criu (4.0 or newer). "
    'One elsewhere is named by criu = "/path/to/criu" in [host] of config.toml.'
)

FEATURES = ("move_mount_set_group", "external_net_ns", "pidfd_store", "pagemap_scan", "uffd-noncoop")
"""What of ``criu check --feature`` is looked at. The last is what lazy loading of pages needs."""

CHECK_TIMEOUT = 10.0
"""Seconds."""

_KERNEL_CACHE = Path("/run/criu.kdat")
_COMPLAINT = re.compile(r"Error\s+\(\S+\):\s*(.+)")


class CriuMissingError(Exception):
    """No CRIU here can be used. The message says which were tried, and why not."""


class Criu(msgspec.Struct, frozen=True, kw_only=True):
    """A CRIU that works on this kernel."""

    path: Path
    """The program, or the script that starts it with its own libraries."""
    version: str
    """``"4.1.1"``."""
    features: frozenset[str] = frozenset()
    """Those of `FEATURES` that this kernel has."""

    def environment(self, folder: Path) -> dict[str, str]:
        """The environment for ``runc checkpoint`` and ``runc restore``, which look for ``criu`` on the PATH.

        `folder`, the host's own, gets a link where the program has another name. Raises OSError.
        """
        where = self.path.parent
        if self.path.name != "criu":
            where = folder / "criu"
            where.mkdir(parents=True, exist_ok=True)
            script = where / "criu"
            script.write_text(f'#!/bin/sh\nexec "{self.path}" "$@"\n', encoding="utf-8")
            script.chmod(0o755)
        return {**os.environ, "PATH": f"{where}:{os.environ.get('PATH', os.defpath)}"}


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """What a file remembers of one program."""

    path: str
    stamp: str
    kernel: str
    version: str
    problem: str = ""
    features: tuple[str, ...] = ()


def user_folder() -> Path:
    """Where ``scripts/install-criu`` puts one for an ordinary user."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(data, "skylift", "criu")


def candidates(setting: str) -> list[Path]:
    """The programs to try, the preferred one first; with a `setting` only that one."""
    if setting:
        return [Path(setting)]
    found = [shutil.which("criu"), shutil.which("criu", path=SYSTEM_PATH)]
    paths = [Path(path) for path in found if path]
    paths += [folder / "criu" for folder in (PRIVATE_FOLDER, user_folder())]
    return [path for path in dict.fromkeys(paths) if path.exists()]


async def find_criu(setting: str, memory: Path | None = None) -> Criu:
    """The CRIU to use. `setting` is the host's (``[host] criu``), `memory` a file to remember what was found
    out. Raises `CriuMissingError`.
    """
    if os.geteuid() != 0:
        raise CriuMissingError(
            "CRIU writes and restores containers for root only, and this host runs as an ordinary user. "
            "Start Skylift as root."
        )
    known = _recall(memory) if memory else {}
    tried: list[str] = []
    for path in candidates(setting):
        entry = known.get(str(path))
        if entry is None or entry.stamp != _stamp(path) or entry.kernel != _kernel():
            entry = await _examine(path)
            known[str(path)] = entry
            if memory is not None:
                _remember(memory, known)
        if not entry.problem:
            return Criu(path=path, version=entry.version, features=frozenset(entry.features))
        tried.append(entry.problem)
    raise CriuMissingError(" ".join([*(tried or ["CRIU is not installed."]), HOW_TO_GET_IT]))


async def kernel_facts(criu: Criu, folder: Path) -> Path | None:
    """A file with what `criu` found out about this kernel, to be mounted on ``/run/criu.kdat`` where it runs.

    CRIU keeps these facts itself where ``/run`` is a tmpfs; elsewhere each restore would find them out again,
    which takes longer than the rest of it. None where CRIU keeps them. The file is of this boot only: it lies
    in `folder`, the host's own, under a name with the boot's id.
    """
    if await _is_tmpfs(_KERNEL_CACHE.parent):
        return None
    kept = folder / f"criu-{criu.version}-{_boot()}.kdat"
    if not kept.exists():
        _remove_old(folder)
        script = 'mount -t tmpfs tmpfs /run && "$1" check && cat /run/criu.kdat >"$2.new" && mv "$2.new" "$2"'
        try:
            await run(["unshare", "--mount", "sh", "-c", script, "sh", str(criu.path), str(kept)])
        except CommandError:
            return None
    return kept


async def _examine(path: Path) -> _Known:
    stamp = _stamp(path)
    version, problem, features = "", "", []
    try:
        said = (await run([str(path), "--version"], timeout=CHECK_TIMEOUT)).stdout
        match = re.search(r"^Version:\s*(\d+(?:\.\d+)*)", said, re.MULTILINE)
        if match is None:
            raise CommandError(f"{path} is not CRIU: it says no version.")
        version = match[1]
        if version_tuple(version) < MINIMUM:
            minimum = ".".join(map(str, MINIMUM))
            raise CommandError(f"CRIU {version} ({path}) is too old: {minimum} or newer is needed.")
        try:
            await run([str(path), "check"], timeout=CHECK_TIMEOUT)
        except CommandError as error:
            reason = _first_reason(str(error))
            raise CommandError(
                f"CRIU {version} ({path}) does not work on kernel {platform.release()}: {reason}."
            ) from error
    except CommandError as error:
        problem = str(error)
    else:
        for feature in FEATURES:
            with contextlib.suppress(CommandError):
                await run([str(path), "check", "--feature", feature], timeout=CHECK_TIMEOUT)
                features.append(feature)
    return _Known(
        path=str(path),
        stamp=stamp,
        kernel=_kernel(),
        version=version,
        problem=problem,
        features=tuple(features),
    )


def _remove_old(folder: Path) -> None:
    for old in folder.glob("criu-*.kdat"):
        old.unlink(missing_ok=True)


def version_tuple(version: str) -> tuple[int, ...]:
    """``"4.1.1"`` as ``(4, 1, 1)``, to be compared."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _first_reason(said: str) -> str:
    """The first thing that CRIU complained of, without the place in its sources."""
    match = _COMPLAINT.search(said)
    return (match[1] if match else said.splitlines()[-1]).strip().rstrip(".")


def _stamp(path: Path) -> str:
    """Changes with the program."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"


def _kernel() -> str:
    return f"{platform.release()} {platform.version()}"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


async def _is_tmpfs(folder: Path) -> bool:
    try:
        return (await run(["stat", "--file-system", "--format=%T", str(folder)])).stdout.strip() == "tmpfs"
    except CommandError:
        return False


def _recall(memory: Path) -> dict[str, _Known]:
    try:
        return msgspec.json.decode(memory.read_bytes(), type=dict[str, _Known])
    except (OSError, msgspec.MsgspecError):
        return {}


def _remember(memory: Path, known: dict[str, _Known]) -> None:
    """Nothing is lost where it cannot be written: it is found out again."""
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_bytes(msgspec.json.encode(known))
