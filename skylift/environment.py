"""The Python environment that this process runs in, as something a container can be made of.

A container of ``Image.from_environment()`` sees, read-only and at the same paths:

- the interpreter's prefixes and every entry of ``sys.path``;
- packages that are installed in editable mode, wherever their source is;
- the folder of the notebook or script, with the local modules and data files in it.

A folder that holds more than one project (``/``, a home folder or a folder above it, ``/tmp`` and the like)
is never shown whole: of such a folder the container sees the modules and packages directly in it, and nothing
else.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import json
import os
import site
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from skylift.exceptions import InvalidError
from skylift.fingerprint import fingerprint
from skylift.wire import ImageSpec, MountSpec, machine_id

_SHARED_FOLDERS = frozenset(
    (
        *("/", "/Users", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/media", "/mnt", "/opt", "/proc"),
        *("/root", "/run", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/tmp"),  # noqa: S108
    )
)
_MODULE_SUFFIXES = tuple(importlib.machinery.all_suffixes())
_MAX_SINGLE_MOUNTS = 500
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INHERITED = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "TZ")


class Environment:
    """Looks at the environment, and looks again when some time has passed."""

    def __init__(self) -> None:
        self._spec: ImageSpec | None = None
        self._key: tuple[object, ...] = ()
        self._look_again = 0.0

    def current(self, moment: object = None) -> ImageSpec:
        """The environment now; the same object as long as nothing in it has changed.

        The file system is looked at again when `moment` (such as the number of the notebook's cell) differs
        from the last call's, or after a second (after longer where looking takes long).
        """
        key = (moment, len(sys.path))
        now = time.monotonic()
        if self._spec is not None and key == self._key and now < self._look_again:
            return self._spec
        spec = collect()
        took = time.monotonic() - now
        self._key = key
        self._look_again = now + max(1.0, 20 * took)
        if self._spec is None or spec != self._spec:
            self._spec = spec
        return self._spec

    def latest(self) -> ImageSpec:
        """As `current`, at the moment of the last call."""
        return self.current(self._key[0] if self._key else None)


def collect() -> ImageSpec:
    """Describes the environment of this process.

    Raises `InvalidError` when the interpreter cannot be named (an embedded Python).
    """
    if not sys.executable:
        raise InvalidError(
            "Image.from_environment() needs to know this Python's executable, and sys.executable is empty "
            "(an embedded interpreter)"
        )
    search_path = local_search_path()
    mounts = _Mounts()
    for prefix in _prefixes():
        mounts.add_prefix(prefix)
    for entry in search_path:
        mounts.add(entry)
    for folder in editable_sources(search_path):
        mounts.add(folder)
    paths = mounts.paths()
    return ImageSpec(
        kind="environment",
        machine=machine_id(),
        python=sys.executable,
        python_version=".".join(map(str, sys.version_info[:3])),
        mounts=tuple(MountSpec(path=path) for path in paths),
        sys_path=tuple(search_path),
        env=_container_env(search_path),
        fingerprint=fingerprint(search_path, local_roots(paths), main_file()),
    )


def local_search_path() -> list[str]:
    """``sys.path`` as absolute paths of what exists, in order, without repeats."""
    entries: dict[str, None] = {}
    for entry in sys.path:
        path = os.path.abspath(entry or os.getcwd())
        if os.path.exists(path):
            entries[path] = None
    return list(entries)


def is_shared_folder(path: str) -> bool:
    """Whether a folder holds more than a project, so that it is not shown to containers whole."""
    if path in _SHARED_FOLDERS or os.path.dirname(path) in ("/home", "/Users"):
        return True
    home = os.path.realpath(os.path.expanduser("~"))
    real = os.path.realpath(path)
    return real == os.path.realpath(tempfile.gettempdir()) or home == real or home.startswith(real + os.sep)


def editable_sources(search_path: Iterable[str]) -> list[str]:
    """Where the source of packages installed in editable mode is, beyond ``sys.path`` itself."""
    known = set(search_path)
    sources = list(_finder_sources())
    for project in _editable_projects(search_path):
        covered = [*known, *sources]
        if not any(path == project or path.startswith(project + os.sep) for path in covered):
            sources.append(project)
    return sources


def local_roots(mounts: Iterable[str]) -> list[str]:
    """Those of the mounts that may hold modules which change while we run: not the installed packages."""
    installed = tuple({os.path.realpath(path) + os.sep for path in installed_folders()})
    return [path for path in mounts if not (os.path.realpath(path) + os.sep).startswith(installed)]


def installed_folders() -> list[str]:
    """The folders that packages are installed in."""
    return [*_prefixes(), *_site_folders()]


def main_file() -> str:
    """The file of ``__main__``, which travels by value; "" in a notebook."""
    return os.path.abspath(getattr(sys.modules.get("__main__"), "__file__", None) or "/")


class _Mounts:
    """Collects paths, so that none of them lies in another."""

    def __init__(self) -> None:
        self._paths: set[str] = set()

    def add(self, path: str) -> None:
        for form in (path, os.path.realpath(path)):
            if is_shared_folder(form):
                self._paths.update(_modules_in(form))
            elif os.path.exists(form):
                self._paths.add(form)

    def add_prefix(self, prefix: str) -> None:
        if prefix == "/usr" or not is_shared_folder(prefix):
            self._paths.update(path for path in (prefix, os.path.realpath(prefix)) if os.path.isdir(path))
            return
        for part in ("bin", "lib", "lib64", "include", "pyvenv.cfg"):
            path = os.path.join(prefix, part)
            if os.path.exists(path):
                self._paths.add(path)

    def paths(self) -> list[str]:
        kept: list[str] = []
        for path in sorted(self._paths):
            if not any(path.startswith(parent + os.sep) for parent in kept):
                kept.append(path)
        return kept


def _modules_in(folder: str) -> Iterator[str]:
    count = 0
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        is_module = entry.name.endswith(_MODULE_SUFFIXES) and entry.is_file()
        if is_module or os.path.isfile(os.path.join(entry.path, "__init__.py")):
            count += 1
            if count > _MAX_SINGLE_MOUNTS:
                return
            yield entry.path


def _prefixes() -> list[str]:
    prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    # A chain of links may lead from the virtual environment's python over several places to the real one.
    link = sys.executable
    for _ in range(8):
        prefixes.append(os.path.dirname(os.path.dirname(link)))
        if not os.path.islink(link):
            break
        link = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
    return list(dict.fromkeys(os.path.abspath(prefix) for prefix in prefixes))


def _site_folders() -> list[str]:
    folders = list(site.getsitepackages()) if hasattr(site, "getsitepackages") else []
    user = site.getusersitepackages() if hasattr(site, "getusersitepackages") else ""
    return [*folders, user] if user else folders


def _finder_sources() -> Iterator[str]:
    """What the import hooks of setuptools' editable installs map packages to."""
    for finder in sys.meta_path:
        module = sys.modules.get(getattr(finder, "__module__", "") or "")
        if module is None or not module.__name__.startswith("__editable__"):
            continue
        for source in getattr(module, "MAPPING", {}).values():
            path = os.path.abspath(source)
            yield path if os.path.isdir(path) else path + ".py"


def _editable_projects(search_path: Iterable[str]) -> Iterator[str]:
    for entry in search_path:
        with contextlib.suppress(OSError):
            for project in _editable_in(entry, os.stat(entry).st_mtime_ns):
                if os.path.isdir(project):
                    yield project


@lru_cache(maxsize=64)
def _editable_in(folder: str, _changed: int) -> tuple[str, ...]:
    """The projects that are installed in a folder; what is installed there anew changes the folder."""
    projects = []
    for record in Path(folder).glob("*.dist-info/direct_url.json"):
        try:
            described = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        url = urlsplit(str(described.get("url", "")))
        if url.scheme == "file" and described.get("dir_info", {}).get("editable"):
            projects.append(os.path.abspath(unquote(url.path)))
    return tuple(projects)


def _container_env(search_path: Iterable[str]) -> dict[str, str]:
    env = {"PATH": f"{os.path.join(sys.prefix, 'bin')}:{_DEFAULT_PATH}"}
    if sys.prefix != sys.base_prefix:
        env["VIRTUAL_ENV"] = sys.prefix
    env.update({name: os.environ[name] for name in _INHERITED if name in os.environ})
    # The interpreter finds what is in its prefixes by itself; for the rest, its child processes need to be
    # told as well.
    prefixes = tuple(prefix + os.sep for prefix in _prefixes())
    local = [entry for entry in search_path if not entry.startswith(prefixes)]
    if local:
        env["PYTHONPATH"] = os.pathsep.join(local)
    return env
