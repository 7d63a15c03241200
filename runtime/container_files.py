"""The folders of containers on their host, and what every container sees of ours."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import sys
from functools import cache
from pathlib import Path

from skylift.runtime.isolation import Bind

LIBRARY = "/opt/skylift/lib"
RUNNER = f"{LIBRARY}/skylift_runner"
SOCKET_FOLDER = "/run/skylift"

ELSEWHERE = "socket"
"""In a container's folder: the way to that of its socket, where it is not in there."""
SHORT_PREFIX = "skylift-"

log = logging.getLogger(__name__)


def remove_folder(folder: Path) -> None:
    """Remove a container's folder, and that of its socket where it is elsewhere.

    Not while something is mounted below it: those may be the user's own files.
    """
    if _mounted_below(folder):
        log.warning("%s is not removed: something is still mounted there.", folder)
        return
    elsewhere = folder / ELSEWHERE
    if elsewhere.is_symlink() and elsewhere.readlink().name.startswith(SHORT_PREFIX):
        shutil.rmtree(elsewhere.readlink(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _mounted_below(folder: Path) -> bool:
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return False
    targets = (line.split(" ", 5)[4].replace("\\040", " ") for line in mounts.splitlines())
    return any(target.startswith(f"{folder}/") for target in targets)


_IPYTHON = (
    "IPython",
    "asttokens",
    "decorator",
    "exceptiongroup",
    "executing",
    "ipython_pygments_lexers",
    "jedi",
    "matplotlib_inline",
    "parso",
    "pexpect",
    "prompt_toolkit",
    "ptyprocess",
    "pure_eval",
    "pygments",
    "stack_data",
    "traitlets",
    "typing_extensions",
    "wcwidth",
)
"""IPython and what it needs, as far as it is here: nothing of it is compiled."""


@cache
def library_binds() -> tuple[Bind, ...]:
    """What every container sees of ours: the runner, and a cloudpickle for images that have none."""
    runner = Path(__file__).parent / "runner"
    cloudpickle = importlib.util.find_spec("cloudpickle")
    assert cloudpickle is not None
    assert cloudpickle.origin is not None
    return (Bind(runner, RUNNER), Bind(Path(cloudpickle.origin).parent, f"{LIBRARY}/cloudpickle"))


@cache
def shell_binds(python_version: str) -> tuple[Bind, ...]:
    """An IPython for sessions in images that have none; nothing where their Python is older than the host's,
    since its IPython may not be for that."""
    minor = tuple(int(part) for part in python_version.split(".")[:2] if part.isdecimal())
    if minor < sys.version_info[:2]:
        return ()
    binds = []
    for name in _IPYTHON:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            source = origin.parent if spec.submodule_search_locations else origin
            binds.append(Bind(source, f"{LIBRARY}/{source.name}"))
    return tuple(binds)
