"""A small Debian (or what else this machine is) with a Python: what an image begins with.

Packages come from where this machine's own apt has them, so no mirror is named here. mmdebstrap runs in
namespaces of its own, which end with it: whenever it is killed, nothing is left mounted.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from skylift.runtime.build_error import BuildError
from skylift.runtime.build_programs import NAMESPACES, Told, output_lines, run_told
from skylift.runtime.image_python import Interpreter, copy_python, find_interpreter

_PACKAGES = ("ca-certificates",)
_DISTRIBUTION_PYTHON = ("python3", "python3-pip", "python3-venv")
_LIBRARIES = (
    "libbz2-1.0",
    "libexpat1",
    "libffi8",
    "liblzma5",
    "libncursesw6",
    "libreadline8",
    "libsqlite3-0",
    "libssl3",
    "libuuid1",
    "zlib1g",
)
"""What another Python needs, by the names that they have in this machine's distribution (see `_known`)."""
_VERSION = re.compile(r"3\.\d+")
_SOURCE_FIELDS = "$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(ORIGIN)|$(COMPONENT)"


async def bootstrap(python: str, target: Path, scratch: Path, tell: Told) -> None:
    """Make a root in `target`, which is not there yet. `tell` gets what is printed. Raises `BuildError`."""
    if os.geteuid() != 0:
        raise BuildError("a Debian image can only be built by a host that runs as root.")
    if shutil.which("mmdebstrap") is None:
        raise BuildError("mmdebstrap is not installed on the host: apt-get install mmdebstrap.")
    if not _VERSION.fullmatch(python):
        raise BuildError(f"{python!r} is no version of Python, as 3.11 is.")
    of_distribution = await asyncio.to_thread(distribution_python)
    packages = [*_PACKAGES]
    interpreter = None
    if of_distribution == python:
        packages += _DISTRIBUTION_PYTHON
    else:
        interpreter = await find_interpreter(python, of_distribution, scratch, tell)
        packages += await asyncio.to_thread(_known, _LIBRARIES)
    sources = await asyncio.to_thread(own_sources)
    settings = await asyncio.to_thread(_settings)
    command = [
        *(*NAMESPACES, "mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"),
        *("--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright"),
        *("--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*"),
        *(f"--aptopt={line}" for line in settings),
        f"--include={','.join(packages)}",
        *(_codename(), str(target), "-"),
    ]
    env = {**os.environ, "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    status = await run_told(command, tell, env=env, given=sources)
    if status:
        raise BuildError(f"mmdebstrap ended with exit status {status}.", said=True)
    await asyncio.to_thread(_finish, target, interpreter)
    if interpreter is not None:
        inside = [*NAMESPACES, f"--root={target}", "--wd=/"]
        env = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
        pip = [f"/usr/local/bin/python{python}", "-I", "-m", "ensurepip", "--upgrade", "--default-pip"]
        for command in (["/sbin/ldconfig"], pip):
            status = await run_told([*inside, *command], tell, env=env)
            if status:
                raise BuildError(f"{command[0]} ended with exit status {status} in the image.", said=True)


def distribution_python() -> str:
    """``"3.11"``: the Python that this machine's distribution has; "" where apt does not say."""
    for line in output_lines(["apt-cache", "policy", "python3"]):
        name, _, version = line.strip().partition(": ")
        if name == "Candidate":
            found = re.match(r"(?:\d+:)?(3\.\d+)", version)
            return found[1] if found else ""
    return ""


def own_sources() -> str:
    """The sources of this machine's own distribution, as apt's one-line format has them. Raises
    `BuildError`."""
    codename, name = _codename(), _release().get("ID", "")
    found: dict[tuple[str, str], list[str]] = {}
    for line in output_lines(["apt-get", "indextargets", "--format", _SOURCE_FIELDS]):
        kind, _, rest = line.partition("|")
        if kind != "Packages":
            continue
        uri, release, origin, component = rest.split("|")
        known = origin.lower() == name if not origin.startswith("$(") else True
        if known and (release == codename or release.startswith((f"{codename}-", f"{codename}/"))):
            components = found.setdefault((uri, release), [])
            if component not in components:
                components.append(component)
    if not found:
        raise BuildError(f"this machine's apt has no source for {codename}: see /etc/apt/sources.list.d.")
    return "".join(f"deb {uri} {release} {' '.join(parts)}\n" for (uri, release), parts in found.items())


def _finish(target: Path, interpreter: Interpreter | None) -> None:
    """What is left to do in a root that mmdebstrap has made."""
    (target / "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)
    (target / "etc/machine-id").write_text("")
    for path in (target / "dev").iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (target / "etc/hostname").unlink(missing_ok=True)
    (target / "etc/resolv.conf").unlink(missing_ok=True)
    local = target / "usr/local"
    if interpreter is None:
        (local / "bin/python").symlink_to("/usr/bin/python3")
        for path in (target / "usr/lib").glob("python3*/EXTERNALLY-MANAGED"):
            path.unlink()  # what pip installs is in the image alone
        return
    copy_python(interpreter, local)


def _settings() -> list[str]:
    """What apt is told on this machine of networks and checks."""
    kinds = ("Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::Retries")
    return [
        line for line in output_lines(["apt-config", "dump"]) if line.startswith(kinds) and '"";' not in line
    ]


def _known(packages: Sequence[str]) -> list[str]:
    """Those that apt knows, or a newer name of them."""
    found = []
    for package in packages:
        for name in (package, f"{package}t64"):
            if any(
                line.startswith("  Candidate: ") and "(none)" not in line
                for line in output_lines(["apt-cache", "policy", name])
            ):
                found.append(name)
                break
    return found


def _release() -> dict[str, str]:
    words = {}
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        words[name] = value.strip().strip("\"'")
    return words


def _codename() -> str:
    codename = _release().get("VERSION_CODENAME", "")
    if not codename or shutil.which("apt-get") is None:
        raise BuildError("a Debian image needs a host with apt (Debian or Ubuntu). Use Image.from_registry.")
    return codename
