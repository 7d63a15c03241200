"""A small Debian (or what else this machine is) with a Python: what an image begins with.

Packages come from where this machine's own apt has them, so no mirror is named here. mmdebstrap runs in
namespaces of its own, which end with it: whenever it is killed, nothing is left mounted.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from skylift.runtime.build_error import BuildError

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
_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--ipc", "--uts")
_VERSION = re.compile(r"3\.\d+")
_SOURCE_FIELDS = "$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(ORIGIN)|$(COMPONENT)"

Told = Callable[[str], None]


class Interpreter(msgspec.Struct, frozen=True):
    """A Python that can be copied into an image."""

    prefix: Path
    version: str
    """``"3.12.1"``."""


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
        interpreter = await _interpreter(python, of_distribution, scratch, tell)
        packages += await asyncio.to_thread(_known, _LIBRARIES)
    sources = await asyncio.to_thread(own_sources)
    settings = await asyncio.to_thread(_settings)
    command = [
        *(*_NAMESPACES, "mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"),
        *("--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright"),
        *("--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*"),
        *(f"--aptopt={line}" for line in settings),
        f"--include={','.join(packages)}",
        *(_codename(), str(target), "-"),
    ]
    env = {**os.environ, "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    status = await _run(command, tell, env=env, given=sources)
    if status:
        raise BuildError(f"mmdebstrap ended with exit status {status}.", said=True)
    await asyncio.to_thread(_finish, target, interpreter, python)
    if interpreter is not None:
        inside = [*_NAMESPACES, f"--root={target}", "--wd=/"]
        env = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
        pip = [f"/usr/local/bin/python{python}", "-I", "-m", "ensurepip", "--upgrade", "--default-pip"]
        for command in (["/sbin/ldconfig"], pip):
            status = await _run([*inside, *command], tell, env=env)
            if status:
                raise BuildError(f"{command[0]} ended with exit status {status} in the image.", said=True)


def distribution_python() -> str:
    """``"3.11"``: the Python that this machine's distribution has; "" where apt does not say."""
    for line in _lines(["apt-cache", "policy", "python3"]):
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
    for line in _lines(["apt-get", "indextargets", "--format", _SOURCE_FIELDS]):
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


async def _interpreter(python: str, of_distribution: str, scratch: Path, tell: Told) -> Interpreter:
    uv = shutil.which("uv") or shutil.which("uv", path=os.path.dirname(sys.executable))
    if uv is not None:
        folder = scratch / "python"
        tell(f"uv python install {python}\n")
        command = [uv, "python", "install", "--no-progress", "--install-dir", str(folder), python]
        if await _run(command, tell, env={**os.environ, "UV_PYTHON_INSTALL_BIN": "0"}) == 0:
            for path in folder.glob("*/bin/python3"):
                found = _examined(str(path))
                if found is not None and not path.parent.parent.is_symlink():
                    return found
    for name in (sys.executable, f"python{python}", *_managed(python)):
        found = await asyncio.to_thread(_examined, name)
        if found is not None and _minor(found.version) == python and found.prefix != Path("/usr"):
            tell(f"Python {found.version} is copied from {found.prefix} of the host\n")
            return found
    here = ", ".join(sorted({of_distribution, _minor(sys.version.split()[0])} - {""}))
    raise BuildError(
        f"no Python {python} can be had here. This host can put {here} into an image; any other needs uv on "
        "the host (pip install uv) and a network. Image.from_registry has others."
    )


def _managed(python: str) -> list[str]:
    """The Pythons of this version that pyenv and uv have made for whoever runs the host, the newest first."""
    home = Path.home()
    found = [*home.glob(f".pyenv/versions/{python}.*/bin/python{python}")]
    found += home.glob(f".local/share/uv/python/*-{python}.*/bin/python{python}")
    return [str(path) for path in sorted(found, reverse=True)]


def _examined(python: str) -> Interpreter | None:
    code = "import sys, platform; print(sys.base_prefix); print(platform.python_version())"
    said = list(_lines([python, "-I", "-c", code]))
    return Interpreter(Path(said[0]), said[1]) if len(said) == 2 else None


def _finish(target: Path, interpreter: Interpreter | None, python: str) -> None:
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
    prefix = interpreter.prefix
    names = [f"bin/python{python}", f"lib/python{python}", f"include/python{python}"]
    names += [f"lib/{path.name}" for path in (prefix / "lib").glob("libpython3*.so*")]
    for name in names:
        source, place = prefix / name, local / name
        if source.is_dir():
            shutil.copytree(source, place, symlinks=True, ignore=_left_out)
        elif source.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place, follow_symlinks=False)
    (local / f"lib/python{python}/EXTERNALLY-MANAGED").unlink(missing_ok=True)
    for name in ("python", "python3"):
        (local / "bin" / name).symlink_to(f"python{python}")
    for folder, folders, files in os.walk(local):
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), 0, 0, follow_symlinks=False)


def _left_out(folder: str, names: list[str]) -> list[str]:
    """Of a Python that is copied: what was installed with it, and its own tests."""
    if os.path.basename(folder) == "site-packages":
        return names
    if re.search(r"/lib/python3\.\d+$", folder):
        return [
            name for name in names if name in ("test", "idlelib", "turtledemo") or name.startswith("config-")
        ]
    return []


def _settings() -> list[str]:
    """What apt is told on this machine of networks and checks."""
    kinds = ("Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::Retries")
    return [line for line in _lines(["apt-config", "dump"]) if line.startswith(kinds) and '"";' not in line]


def _known(packages: Sequence[str]) -> list[str]:
    """Those that apt knows, or a newer name of them."""
    found = []
    for package in packages:
        for name in (package, f"{package}t64"):
            if any(
                line.startswith("  Candidate: ") and "(none)" not in line
                for line in _lines(["apt-cache", "policy", name])
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


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _lines(command: list[str]) -> Iterator[str]:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError:
        return
    yield from done.stdout.decode(errors="replace").splitlines()


async def _run(command: list[str], tell: Told, *, env: dict[str, str], given: str = "") -> int:
    """Run a program; its exit status. It ends where this is cancelled."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(given.encode())
        process.stdin.close()
        while text := await process.stdout.read(65536):
            tell(text.decode(errors="replace"))
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()  # with it, all in its namespace of pids
            await process.wait()
