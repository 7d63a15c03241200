"""A small root for images, made of programs of this machine."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

from oci_setup import PushedLayer, archive, entry, link

_PROGRAMS = ("sh", "cat", "chmod", "cp", "env", "id", "ls", "mkdir", "mktemp", "rm", "touch", "ldconfig")
_LIBC = ("libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libutil.so.1")


def root_layer() -> PushedLayer:
    """A shell and a few commands with their libraries, as in a small distribution; no Python."""
    files: dict[str, Path] = {}
    for name in _PROGRAMS:
        found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
        assert found is not None, name
        files[f"usr/bin/{name}"] = Path(found).resolve()
        for library, path in _libraries(found):
            files[f"usr/lib/{library}"] = path
            for other in _LIBC:
                files[f"usr/lib/{other}"] = path.parent / other
    loader = next(path for name, path in files.items() if "/ld-linux" in name)
    entries: list[tuple[tarfile.TarInfo, bytes | None]] = [
        entry(f"{name}/") for name in ("usr", "usr/bin", "usr/lib", "etc", "root", "var", "data", "data/old")
    ]
    entries.append(entry("tmp/", mode=0o1777))
    entries += [link(name, f"usr/{name}") for name in ("bin", "lib")]
    entries += [link("lib64", "usr/lib"), link("sbin", "usr/bin")]
    for name, path in sorted(files.items()):
        if path.exists():
            entries.append(entry(name, path.read_bytes(), mode=stat.S_IMODE(path.stat().st_mode)))
    if f"usr/lib/{loader.name}" not in files:
        entries.append(entry(f"usr/lib/{loader.name}", loader.read_bytes(), mode=0o755))
    entries += [
        entry("etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"),
        entry("etc/ld.so.conf", b"/usr/local/lib\n"),
        entry("etc/removed", b"below"),
        entry("data/old/file", b"below", uid=1000, gid=1000),
    ]
    return PushedLayer.of(archive(*entries))


def changes_layer() -> PushedLayer:
    """On top of it: a file is removed, a folder replaced."""
    entries = [
        *(entry("etc/"), entry("etc/.wh.removed", b""), entry("data/"), entry("data/.wh..wh..opq", b"")),
        *(entry("data/old/"), entry("data/old/new", b"above", uid=1000, gid=1000)),
    ]
    return PushedLayer.of(archive(*entries), "zstd")


def this_python() -> str:
    """The version that can be put into an image without a network: the one that runs this."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _libraries(program: str) -> list[tuple[str, Path]]:
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    found = []
    for line in said.splitlines():
        words = line.split()
        path = next((word for word in words if word.startswith("/")), "")
        if path:
            found.append((Path(words[0]).name, Path(path).resolve()))
    return found
